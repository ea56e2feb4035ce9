//! AEZ-core, for 32 bytes and more (spec: aez 8, with its names).

use super::{BLOCK, Cipher, Direction, Engine, LANES, double, pad, times};

type Pair = [[u8; BLOCK]; 2];

/// Whether a run of E goes through indices 1, 2, 3... or repeats one offset.
struct Offsets<'a> {
    base: u128,
    doubled: u128,
    l: &'a [u128; 8],
}

impl Offsets<'_> {
    /// The offsets of the next eight indices: 8k+1 .. 8k+8 share one doubling of I.
    #[inline(always)]
    fn next(&mut self) -> [u128; LANES] {
        self.doubled = double(self.doubled);
        let mut out = [self.base ^ self.doubled; LANES];
        for (i, offset) in (1usize..).zip(out.iter_mut()) {
            *offset ^= self.l[i % 8];
        }
        out
    }
}

impl<E: Engine> Cipher<'_, E> {
    #[inline(always)]
    unsafe fn offsets(&self, j: u32) -> Offsets<'_> {
        Offsets {
            base: times(j, self.subkeys.j),
            doubled: self.subkeys.i,
            l: &self.subkeys.l,
        }
    }

    /// XOR offsets in, run AES4: E on eight blocks.
    #[inline(always)]
    unsafe fn e8(
        &self,
        blocks: &[E::Block; LANES],
        offsets: &[E::Block; LANES],
    ) -> [E::Block; LANES] {
        unsafe {
            let mut out = xor8::<E>(blocks, offsets);
            E::rounds(&mut out, &self.aes4);
            out
        }
    }

    #[inline(always)]
    unsafe fn blocks(numbers: &[u128; LANES]) -> [E::Block; LANES] {
        unsafe {
            let mut out = [Self::block(0); LANES];
            for (to, from) in out.iter_mut().zip(numbers) {
                *to = Self::block(*from);
            }
            out
        }
    }

    #[inline(always)]
    pub(super) unsafe fn core(&self, delta: E::Block, data: &mut [u8], direction: Direction) {
        unsafe {
            let d = if direction == Direction::Encipher {
                0
            } else {
                1
            };
            let fragment_size = data.len() % (2 * BLOCK);
            let (head, last) = data.split_at_mut(data.len() - 2 * BLOCK);
            let (pairs, fragment) = head.split_at_mut(head.len() - fragment_size);
            let Some(last) = last.as_chunks_mut::<BLOCK>().0.first_chunk_mut::<2>() else {
                return;
            };

            let mut x = self.first_pass(pairs);
            x = E::xor(x, self.fragment_sum(fragment));

            let q = E::load(&last[1]);
            let s1 = E::xor(
                E::xor(E::load(&last[0]), delta),
                E::xor(x, self.e(0, 1 + d, q)),
            );
            let s2 = E::xor(q, self.e10(1 + d as usize, s1));
            let s = E::xor(s1, s2);

            let mut y = self.second_pass(pairs, s);
            let masks = [E::store(self.e10(4, s)), E::store(self.e10(5, s))];
            for (byte, mask) in fragment.iter_mut().zip(masks.as_flattened()) {
                *byte ^= mask;
            }
            y = E::xor(y, self.fragment_sum(fragment));

            let q = E::xor(s1, self.e10(2 - d as usize, s2));
            let p = E::xor(E::xor(s2, self.e(0, 2 - d, q)), E::xor(delta, y));
            *last = [E::store(p), E::store(q)];
        }
    }

    /// Writes W, X over each pair A, B; gives the sum of all X.
    #[inline(always)]
    unsafe fn first_pass(&self, pairs: &mut [u8]) -> E::Block {
        unsafe {
            let zero = [Self::block(self.subkeys.offset(0, 0)); LANES];
            let mut offsets = self.offsets(1);
            let mut x = Self::block(0);
            for group in as_pairs(pairs).chunks_mut(LANES) {
                let (a, b) = load_pairs::<E>(group);
                let w = xor8::<E>(&a, &self.e8(&b, &Self::blocks(&offsets.next())));
                let last = xor8::<E>(&b, &self.e8(&w, &zero));
                x = E::xor(x, sum::<E>(&last, group.len()));
                store_pairs::<E>(group, &w, &last);
            }
            x
        }
    }

    /// Writes C, D over each pair W, X; gives the sum of all Y.
    #[inline(always)]
    unsafe fn second_pass(&self, pairs: &mut [u8], s: E::Block) -> E::Block {
        unsafe {
            let zero = [Self::block(self.subkeys.offset(0, 0)); LANES];
            let s = [s; LANES];
            let mut offsets1 = self.offsets(1);
            let mut offsets2 = self.offsets(2);
            let mut sum_y = Self::block(0);
            for group in as_pairs(pairs).chunks_mut(LANES) {
                let (w, x) = load_pairs::<E>(group);
                let t = self.e8(&s, &Self::blocks(&offsets2.next()));
                let y = xor8::<E>(&w, &t);
                let z = xor8::<E>(&x, &t);
                sum_y = E::xor(sum_y, sum::<E>(&y, group.len()));
                let d = xor8::<E>(&y, &self.e8(&z, &zero));
                let c = xor8::<E>(&z, &self.e8(&d, &Self::blocks(&offsets1.next())));
                store_pairs::<E>(group, &c, &d);
            }
            sum_y
        }
    }

    /// What the 0 to 31 bytes before the last pair add to x or y.
    #[inline(always)]
    unsafe fn fragment_sum(&self, fragment: &[u8]) -> E::Block {
        unsafe {
            match fragment.split_first_chunk::<BLOCK>() {
                Some((u, v)) => E::xor(self.e(0, 4, E::load(u)), self.e(0, 5, E::load(&pad(v)))),
                None if fragment.is_empty() => Self::block(0),
                None => self.e(0, 4, E::load(&pad(fragment))),
            }
        }
    }
}

/// The length is a multiple of 32.
#[inline(always)]
fn as_pairs(bytes: &mut [u8]) -> &mut [Pair] {
    bytes.as_chunks_mut::<BLOCK>().0.as_chunks_mut::<2>().0
}

#[inline(always)]
unsafe fn xor8<E: Engine>(a: &[E::Block; LANES], b: &[E::Block; LANES]) -> [E::Block; LANES] {
    let mut out = *a;
    for (to, from) in out.iter_mut().zip(b) {
        *to = unsafe { E::xor(*to, *from) };
    }
    out
}

/// The sum of the first *count* blocks: the others belong to no pair.
#[inline(always)]
unsafe fn sum<E: Engine>(blocks: &[E::Block; LANES], count: usize) -> E::Block {
    unsafe {
        blocks
            .iter()
            .take(count)
            .fold(E::load(&[0; BLOCK]), |sum, block| E::xor(sum, *block))
    }
}

#[inline(always)]
unsafe fn load_pairs<E: Engine>(group: &[Pair]) -> ([E::Block; LANES], [E::Block; LANES]) {
    let zero = unsafe { E::load(&[0; BLOCK]) };
    let (mut a, mut b) = ([zero; LANES], [zero; LANES]);
    for ((a, b), pair) in a.iter_mut().zip(b.iter_mut()).zip(group) {
        unsafe { (*a, *b) = (E::load(&pair[0]), E::load(&pair[1])) };
    }
    (a, b)
}

#[inline(always)]
unsafe fn store_pairs<E: Engine>(group: &mut [Pair], a: &[E::Block; LANES], b: &[E::Block; LANES]) {
    for ((a, b), pair) in a.iter().zip(b).zip(group) {
        *pair = unsafe { [E::store(*a), E::store(*b)] };
    }
}
