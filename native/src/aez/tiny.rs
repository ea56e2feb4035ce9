//! AEZ-tiny, for 1 to 31 bytes (spec: aez 9). No well-formed packet comes here; it needs no speed.

use super::{BLOCK, Cipher, Direction, Engine};
use zeroize::Zeroize;

impl<E: Engine> Cipher<'_, E> {
    /// E(0, i, x) on integers.
    #[inline(always)]
    unsafe fn e_number(&self, i: u32, x: u128) -> u128 {
        unsafe { u128::from_be_bytes(E::store(self.e(0, i, Self::block(x)))) }
    }

    #[inline(always)]
    pub(super) unsafe fn tiny(&self, delta: E::Block, data: &mut [u8], direction: Direction) {
        unsafe {
            let n = data.len();
            if n == 0 || n >= 2 * BLOCK {
                return;
            }
            let delta = u128::from_be_bytes(E::store(delta));
            let rounds = match n {
                1 => 24,
                2 => 16,
                3..16 => 10,
                _ => 8,
            };
            let tweak = if n < BLOCK { 7 } else { 6 };
            if n < BLOCK && direction == Direction::Decipher {
                self.flip(delta, data);
            }
            // The halves, 4n bits each, stand at the top of their integers.
            let bits = 4 * n as u32;
            let (mut left, mut right) = halves(data);
            for step in 0..rounds {
                let k = if direction == Direction::Encipher {
                    step
                } else {
                    rounds - 1 - step
                };
                let block = right | 1 << (127 - bits);
                let mask = self.e_number(tweak, block ^ delta ^ k) >> (128 - bits) << (128 - bits);
                (left, right) = (right, left ^ mask);
            }
            // Output: right || left.
            join(right, left, data);
            if n < BLOCK && direction == Direction::Encipher {
                self.flip(delta, data);
            }
            left.zeroize();
            right.zeroize();
        }
    }

    #[inline(always)]
    unsafe fn flip(&self, delta: u128, data: &mut [u8]) {
        let mut z = [0; BLOCK];
        for (to, from) in z.iter_mut().zip(data.iter()) {
            *to = *from;
        }
        let bit =
            unsafe { self.e_number(3, delta ^ (u128::from_be_bytes(z) | 1 << 127)) } >> 120 & 0x80;
        if let Some(first) = data.first_mut() {
            *first ^= bit as u8;
        }
    }
}

/// (left, right): nibble by nibble, the first nibbles of each in its top bits.
fn halves(data: &[u8]) -> (u128, u128) {
    let n = data.len();
    let mut parts = (0u128, 0u128);
    for (at, nibble) in data
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .enumerate()
    {
        let (part, place) = if at < n {
            (&mut parts.0, at)
        } else {
            (&mut parts.1, at - n)
        };
        *part |= u128::from(nibble) << (124 - 4 * place);
    }
    parts
}

/// The inverse of [`halves`], into data of the same length.
fn join(first: u128, second: u128, data: &mut [u8]) {
    let n = data.len();
    let nibble = |at: usize| {
        let (part, place) = if at < n {
            (first, at)
        } else {
            (second, at - n)
        };
        (part >> (124 - 4 * place)) as u8 & 15
    };
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = nibble(2 * i) << 4 | nibble(2 * i + 1);
    }
}
