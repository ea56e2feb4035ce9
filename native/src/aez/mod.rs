//! AEZ v5 (spec: aez), generic over how AES rounds are computed.
//!
//! Every packet brings a fresh key, so there is no key object: set-up is a handful of doublings. E runs over eight blocks
//! at once, which keeps the AES units busy and lets the portable code slice eight blocks into bit planes.

#[cfg(target_arch = "x86_64")]
mod aesni;
mod core;
mod portable;
mod tiny;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

pub const KEY_SIZE: usize = 48;
pub const NONCE_SIZE: usize = 16;
pub const BLOCK: usize = 16;
/// How many blocks go through E at once.
pub const LANES: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Encipher,
    Decipher,
}

/// A way to compute AES rounds. A block is a native register or integer with the bytes in memory order.
pub trait Engine {
    type Block: Copy;

    /// # Safety
    /// The processor must have the engine's instructions; so for every function here.
    unsafe fn load(bytes: &[u8; BLOCK]) -> Self::Block;
    unsafe fn store(block: Self::Block) -> [u8; BLOCK];
    unsafe fn xor(a: Self::Block, b: Self::Block) -> Self::Block;
    /// AES rounds with these round keys on each of eight blocks.
    unsafe fn rounds(blocks: &mut [Self::Block; LANES], keys: &[Self::Block]);
    /// The same on one block.
    unsafe fn rounds_one(block: Self::Block, keys: &[Self::Block]) -> Self::Block;
}

/// The key of one call and what follows from it, as big-endian integers: the doublings are arithmetic.
pub struct Subkeys {
    i: u128,
    j: u128,
    l: [u128; 8],
}

impl Drop for Subkeys {
    fn drop(&mut self) {
        self.i.zeroize();
        self.j.zeroize();
        self.l.zeroize();
    }
}

/// 2·B, without a branch on the block.
#[inline(always)]
fn double(block: u128) -> u128 {
    block << 1 ^ (block >> 127).wrapping_neg() & 0x87
}

/// n·B for a small public n.
#[inline(always)]
fn times(n: u32, block: u128) -> u128 {
    let mut sum = 0;
    for bit in (0..u32::BITS - n.leading_zeros()).rev() {
        sum = double(sum);
        if n >> bit & 1 == 1 {
            sum ^= block;
        }
    }
    sum
}

fn pad(rest: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (out, byte) in block.iter_mut().zip(rest.iter().chain(&[0x80])) {
        *out = *byte;
    }
    block
}

impl Subkeys {
    fn new(key: &[u8; KEY_SIZE]) -> Self {
        let mut parts = [0; 3];
        for (part, bytes) in parts.iter_mut().zip(key.chunks_exact(BLOCK)) {
            for byte in bytes {
                *part = *part << 8 | u128::from(*byte);
            }
        }
        let [i, j, l] = parts;
        let mut multiples = [0; 8];
        for (n, out) in (0..).zip(multiples.iter_mut()) {
            *out = times(n, l);
        }
        Subkeys { i, j, l: multiples }
    }

    /// The offset of E(j, i, ·) for j >= 0.
    #[inline(always)]
    fn offset(&self, j: u32, i: u32) -> u128 {
        let mut doubled = self.i;
        for _ in 0..i.div_ceil(8) {
            doubled = double(doubled);
        }
        times(j, self.j) ^ doubled ^ self.l[(i % 8) as usize]
    }
}

/// Encrypt (spec: aez 7) with a 48-byte key, any nonce and associated data, tau in bytes.
pub fn encrypt(
    key: &[u8; KEY_SIZE],
    nonce: &[u8],
    ad: &[&[u8]],
    tau: usize,
    message: &[u8],
) -> Vec<u8> {
    let mut data = Vec::with_capacity(message.len().saturating_add(tau));
    data.extend_from_slice(message);
    data.resize(message.len().saturating_add(tau), 0);
    if message.is_empty() {
        apply(key, nonce, ad, tau, &mut data, Job::Prf);
    } else {
        apply(
            key,
            nonce,
            ad,
            tau,
            &mut data,
            Job::Permute(Direction::Encipher),
        );
    }
    data
}

/// Decrypt; None when the ciphertext is not authentic.
pub fn decrypt(
    key: &[u8; KEY_SIZE],
    nonce: &[u8],
    ad: &[&[u8]],
    tau: usize,
    ciphertext: &[u8],
) -> Option<Vec<u8>> {
    let end = ciphertext.len().checked_sub(tau)?;
    if end == 0 {
        let mut expected = Zeroizing::new(vec![0; tau]);
        apply(key, nonce, ad, tau, &mut expected, Job::Prf);
        return bool::from(expected.ct_eq(ciphertext)).then(Vec::new);
    }
    let mut data = ciphertext.to_vec();
    apply(
        key,
        nonce,
        ad,
        tau,
        &mut data,
        Job::Permute(Direction::Decipher),
    );
    let expansion = data.iter().skip(end).fold(0, |all, byte| all | byte);
    if bool::from(expansion.ct_eq(&0)) {
        data.truncate(end);
        Some(data)
    } else {
        data.zeroize();
        None
    }
}

/// The Sphinx use: no associated data, tau 0, in place. Empty data stays empty.
pub fn permute(key: &[u8; KEY_SIZE], iv: &[u8; NONCE_SIZE], data: &mut [u8], direction: Direction) {
    if !data.is_empty() {
        apply(key, iv, &[], 0, data, Job::Permute(direction));
    }
}

#[derive(Clone, Copy)]
enum Job {
    /// Fill the data with AEZ-prf.
    Prf,
    /// AEZ-tiny or AEZ-core over the data, which is not empty.
    Permute(Direction),
}

fn apply(key: &[u8; KEY_SIZE], nonce: &[u8], ad: &[&[u8]], tau: usize, data: &mut [u8], job: Job) {
    let subkeys = Subkeys::new(key);
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::has_aes() {
        // SAFETY: the processor has the instructions.
        return unsafe { aesni::apply(&subkeys, nonce, ad, tau, data, job) };
    }
    // SAFETY: the portable engine needs nothing of the processor.
    unsafe { run::<portable::Portable>(&subkeys, nonce, ad, tau, data, job) }
}

/// One whole job; inlined into a function that is compiled for the engine's instructions.
#[inline(always)]
unsafe fn run<E: Engine>(
    subkeys: &Subkeys,
    nonce: &[u8],
    ad: &[&[u8]],
    tau: usize,
    data: &mut [u8],
    job: Job,
) {
    unsafe {
        let cipher = Cipher::<E>::new(subkeys);
        let delta = cipher.hash(tau, nonce, ad);
        match job {
            Job::Prf => cipher.prf(delta, data),
            Job::Permute(direction) if data.len() < 2 * BLOCK => {
                cipher.tiny(delta, data, direction)
            }
            Job::Permute(direction) => cipher.core(delta, data, direction),
        }
    }
}

/// E and what is made of it, under one key (spec: aez 4 to 6).
struct Cipher<'a, E: Engine> {
    subkeys: &'a Subkeys,
    aes4: [E::Block; 4],
    aes10: [E::Block; 10],
}

impl<'a, E: Engine> Cipher<'a, E> {
    #[inline(always)]
    unsafe fn new(subkeys: &'a Subkeys) -> Self {
        unsafe {
            let i = Self::block(subkeys.i);
            let j = Self::block(subkeys.j);
            let l = Self::block(subkeys.l[1]);
            Cipher {
                subkeys,
                aes4: [j, i, l, Self::block(0)],
                aes10: [i, j, l, i, j, l, i, j, l, i],
            }
        }
    }

    #[inline(always)]
    unsafe fn block(number: u128) -> E::Block {
        unsafe { E::load(&number.to_be_bytes()) }
    }

    /// E(j, i, x) for j >= 0.
    #[inline(always)]
    unsafe fn e(&self, j: u32, i: u32, x: E::Block) -> E::Block {
        unsafe {
            E::rounds_one(
                E::xor(x, Self::block(self.subkeys.offset(j, i))),
                &self.aes4,
            )
        }
    }

    /// E(-1, i, x).
    #[inline(always)]
    unsafe fn e10(&self, i: usize, x: E::Block) -> E::Block {
        unsafe { E::rounds_one(E::xor(x, Self::block(self.subkeys.l[i % 8])), &self.aes10) }
    }

    /// AEZ-hash.
    #[inline(always)]
    unsafe fn hash(&self, tau: usize, nonce: &[u8], ad: &[&[u8]]) -> E::Block {
        unsafe {
            let tau = (tau as u128 * 8).to_be_bytes();
            let mut delta = self.hash_one(3, &tau);
            delta = E::xor(delta, self.hash_one(4, nonce));
            for (j, text) in (5..).zip(ad) {
                delta = E::xor(delta, self.hash_one(j, text));
            }
            delta
        }
    }

    #[inline(always)]
    unsafe fn hash_one(&self, j: u32, text: &[u8]) -> E::Block {
        unsafe {
            let (whole, rest) = text.as_chunks::<BLOCK>();
            let mut sum = Self::block(0);
            let base = times(j, self.subkeys.j);
            let mut doubled = self.subkeys.i;
            for (i, block) in (1usize..).zip(whole) {
                if i % 8 == 1 {
                    doubled = double(doubled);
                }
                let offset = Self::block(base ^ doubled ^ self.subkeys.l[i % 8]);
                sum = E::xor(
                    sum,
                    E::rounds_one(E::xor(E::load(block), offset), &self.aes4),
                );
            }
            if whole.is_empty() || !rest.is_empty() {
                sum = E::xor(sum, self.e(j, 0, E::load(&pad(rest))));
            }
            sum
        }
    }

    /// AEZ-prf into all of *out*.
    #[inline(always)]
    unsafe fn prf(&self, delta: E::Block, out: &mut [u8]) {
        unsafe {
            for (k, chunk) in (0u128..).zip(out.chunks_mut(BLOCK)) {
                let block = E::store(self.e10(3, E::xor(delta, Self::block(k))));
                for (to, from) in chunk.iter_mut().zip(block) {
                    *to = from;
                }
            }
        }
    }
}
