//! ChaCha20-Poly1305 as links use it (spec: link 5.1, 6): nonce = 4 zero bytes || counter, little-endian.
//!
//! ring does not wipe its copy of a key, which lies on the stack until the next call overwrites it.

use chacha20::ChaCha20;
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use poly1305::universal_hash::{KeyInit, UniversalHash};
use poly1305::{Block, Poly1305};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use subtle::ConstantTimeEq;
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
    let nonce = Nonce::assume_unique_for_key(nonce(counter));
    let tag = cipher(key)?
        .seal_in_place_separate_tag(nonce, Aad::empty(), data)
        .ok()?;
    tag.as_ref().try_into().ok()
}

/// Decrypt in place; None when the tag is wrong.
pub fn open(key: &Key, counter: u64, data: &mut [u8], tag: &[u8; TAG_SIZE]) -> Option<()> {
    let nonce = Nonce::assume_unique_for_key(nonce(counter));
    cipher(key)?
        .open_in_place_separate_tag(nonce, Aad::empty(), Tag::from(*tag), data, 0..)
        .map(drop)
        .ok()
}

fn cipher(key: &Key) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, &**key)
        .map(LessSafeKey::new)
        .ok()
}

/// The next key: the encryption of 32 zero bytes under the reserved nonce. None only as seal().
pub fn rekey(key: &Key) -> Option<Key> {
    let mut next = Key::default();
    seal(key, LAST_NONCE, &mut *next).map(|_| next)
}

/// One message, piece by piece: the same bytes as [`seal`] and [`open`], and as much work.
pub struct Stream {
    cipher: ChaCha20,
    mac: Poly1305,
    /// Ciphertext that waits for the rest of its block.
    held: Block,
    size: u64,
}

impl Stream {
    pub fn new(key: &Key, counter: u64) -> Self {
        let mut cipher = ChaCha20::new((&**key).into(), &nonce(counter).into());
        let mut mac_key = Zeroizing::new([0; poly1305::KEY_SIZE]);
        cipher.apply_keystream(&mut *mac_key);
        cipher.seek(BLOCK_SIZE);
        Stream {
            cipher,
            mac: Poly1305::new((&*mac_key).into()),
            held: Block::default(),
            size: 0,
        }
    }

    /// For what lies in Python objects: they are aligned to 16 bytes, and vectors in here want 32.
    pub fn boxed(key: &Key, counter: u64) -> Box<Self> {
        Box::new(Self::new(key, counter))
    }

    /// Encrypt the next piece in place.
    pub fn seal(&mut self, piece: &mut [u8]) {
        self.cipher.apply_keystream(piece);
        self.authenticate(piece);
    }

    /// Decrypt the next piece in place. It must not be used before [`Self::verify`] said yes.
    pub fn open(&mut self, piece: &mut [u8]) {
        self.authenticate(piece);
        self.cipher.apply_keystream(piece);
    }

    fn authenticate(&mut self, mut piece: &[u8]) {
        let at = self.held_size();
        self.size += piece.len() as u64;
        if at > 0 {
            let (head, rest) = piece.split_at(piece.len().min(poly1305::BLOCK_SIZE - at));
            for (to, from) in self.held.iter_mut().skip(at).zip(head) {
                *to = *from;
            }
            if at + head.len() < poly1305::BLOCK_SIZE {
                return;
            }
            self.mac.update(std::slice::from_ref(&self.held));
            piece = rest;
        }
        let (blocks, rest) = Block::slice_as_chunks(piece);
        self.mac.update(blocks);
        for (to, from) in self.held.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn held_size(&self) -> usize {
        (self.size % poly1305::BLOCK_SIZE as u64) as usize
    }

    /// The tag of what was sealed or opened.
    pub fn tag(mut self) -> [u8; TAG_SIZE] {
        let held = self.held_size();
        if held > 0 {
            self.held.iter_mut().skip(held).for_each(|byte| *byte = 0);
            self.mac.update(std::slice::from_ref(&self.held));
        }
        let mut lengths = Block::default();
        for (to, from) in lengths.iter_mut().skip(8).zip(self.size.to_le_bytes()) {
            *to = from;
        }
        self.mac.update(&[lengths]);
        self.mac.finalize().into()
    }

    /// Whether what was opened is what was sealed.
    pub fn verify(self, tag: &[u8; TAG_SIZE]) -> bool {
        self.tag().ct_eq(tag).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 7 % 251) as u8).collect()
    }

    #[test]
    fn pieces_give_the_bytes_of_the_whole() {
        let key = Key::new([9; KEY_SIZE]);
        for size in [0, 1, 15, 16, 17, 63, 64, 65, 1000, 5000] {
            let mut whole = message(size);
            let tag = seal(&key, 5, &mut whole).unwrap_or_default();
            for cut in [1, 3, 16, 17, 64, 100, 5000] {
                let mut pieces = message(size);
                let mut stream = Stream::new(&key, 5);
                pieces.chunks_mut(cut).for_each(|piece| stream.seal(piece));
                assert_eq!(stream.tag(), tag, "{size} bytes cut at {cut}");
                assert_eq!(pieces, whole);
                let mut stream = Stream::new(&key, 5);
                pieces.chunks_mut(cut).for_each(|piece| stream.open(piece));
                assert!(stream.verify(&tag));
                assert_eq!(pieces, message(size));
            }
        }
    }

    #[test]
    fn another_tag_is_refused() {
        let key = Key::new([9; KEY_SIZE]);
        let mut data = message(100);
        let mut tag = seal(&key, 5, &mut data).unwrap_or_default();
        tag[15] ^= 1;
        let mut stream = Stream::new(&key, 5);
        stream.open(&mut data);
        assert!(!stream.verify(&tag));
    }
}
