//! ChaCha20-Poly1305 as links use it (spec: link 5.1, 6): nonce = 4 zero bytes || counter, little-endian.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::cpu;
use chacha20::ChaCha20;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use zeroize::Zeroizing;

pub const KEY_SIZE: usize = 32;
pub const TAG_SIZE: usize = 16;
/// Reserved for [`rekey`].
pub const LAST_NONCE: u64 = u64::MAX;
const BLOCK_SIZE: u64 = 64;

pub type Key = Zeroizing<[u8; KEY_SIZE]>;

fn nonce(counter: u64) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// Encrypt in place; gives the tag. None only for data beyond the cipher's limit of 256 GB.
pub fn seal(key: &Key, counter: u64, data: &mut [u8]) -> Option<[u8; TAG_SIZE]> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if cpu::has_graviola() {
        let mut tag = [0; TAG_SIZE];
        graviola::aead::ChaCha20Poly1305::new(**key).encrypt(&nonce(counter), &[], data, &mut tag);
        return Some(tag);
    }
    let cipher = ChaCha20Poly1305::new((&**key).into());
    let tag = cipher
        .encrypt_inout_detached(&nonce(counter).into(), &[], data.into())
        .ok()?;
    Some(tag.into())
}

/// Decrypt in place; None when the tag is wrong.
pub fn open(key: &Key, counter: u64, data: &mut [u8], tag: &[u8; TAG_SIZE]) -> Option<()> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if cpu::has_graviola() {
        return graviola::aead::ChaCha20Poly1305::new(**key)
            .decrypt(&nonce(counter), &[], data, tag)
            .ok();
    }
    let cipher = ChaCha20Poly1305::new((&**key).into());
    cipher
        .decrypt_inout_detached(&nonce(counter).into(), &[], data.into(), tag.into())
        .ok()
}

/// The next key: the encryption of 32 zero bytes under the reserved nonce, that is keystream from block 1 on.
pub fn rekey(key: &Key) -> Key {
    let mut next = Key::default();
    let mut cipher = ChaCha20::new((&**key).into(), &nonce(LAST_NONCE).into());
    cipher.seek(BLOCK_SIZE);
    cipher.apply_keystream(&mut *next);
    next
}
