//! What this processor can do, and a switch with which tests force the portable code.

use std::sync::atomic::{AtomicBool, Ordering};

static PORTABLE: AtomicBool = AtomicBool::new(false);

/// Use the portable X25519 and AEZ from now on (for tests and benchmarks).
pub fn force_portable(on: bool) {
    PORTABLE.store(on, Ordering::Relaxed);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn forced() -> bool {
    PORTABLE.load(Ordering::Relaxed)
}

/// AES instructions for AEZ.
#[inline]
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !forced() && is_x86_feature_detected!("aes") && is_x86_feature_detected!("sse2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Everything that the graviola crate asks for; it would panic without.
#[inline]
pub fn has_graviola() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !forced()
            && is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("adx")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected;
        !forced()
            && is_aarch64_feature_detected!("neon")
            && is_aarch64_feature_detected!("aes")
            && is_aarch64_feature_detected!("pmull")
            && is_aarch64_feature_detected!("sha2")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// One line for people.
pub fn description() -> String {
    let x25519 = if has_graviola() {
        "graviola"
    } else {
        "curve25519-dalek"
    };
    let aez = if has_aes() {
        "AES instructions"
    } else {
        "bit-sliced"
    };
    format!("X25519 by {x25519}, AEZ by {aez}")
}
