//! AES rounds by the AES-NI instructions; x86-64 only, chosen at run time.

use super::{BLOCK, Engine, Job, LANES, Subkeys, run};
use core::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128,
};

pub enum AesNi {}

impl Engine for AesNi {
    type Block = __m128i;

    #[inline(always)]
    unsafe fn load(bytes: &[u8; BLOCK]) -> __m128i {
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn store(block: __m128i) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), block) };
        out
    }

    #[inline(always)]
    unsafe fn xor(a: __m128i, b: __m128i) -> __m128i {
        unsafe { _mm_xor_si128(a, b) }
    }

    #[inline(always)]
    unsafe fn rounds(blocks: &mut [__m128i; LANES], keys: &[__m128i]) {
        for key in keys {
            for block in blocks.iter_mut() {
                *block = unsafe { _mm_aesenc_si128(*block, *key) };
            }
        }
    }

    #[inline(always)]
    unsafe fn rounds_one(mut block: __m128i, keys: &[__m128i]) -> __m128i {
        // A loop, not a fold: a closure would not be compiled for the instructions of its caller.
        for key in keys {
            block = unsafe { _mm_aesenc_si128(block, *key) };
        }
        block
    }
}

/// [`run`], compiled for AES-NI.
///
/// # Safety
/// The processor must have AES-NI.
#[target_feature(enable = "aes,sse2")]
pub unsafe fn apply(
    subkeys: &Subkeys,
    nonce: &[u8],
    ad: &[&[u8]],
    tau: usize,
    data: &mut [u8],
    job: Job,
) {
    unsafe { run::<AesNi>(subkeys, nonce, ad, tau, data, job) }
}
