//! AES rounds for processors without AES instructions: eight blocks in bit planes, no table, no secret-dependent time.
//!
//! Plane k holds bit k of all 128 bytes of eight blocks: byte p of block b is bit 8·p + b. In this order ShiftRows is a
//! rotation of rows by whole 32-bit columns and MixColumns a rotation inside each column. SubBytes inverts in
//! GF((2^4)^2): the tower is GF(2^4) = GF(2)[x]/(x^4 + x + 1) and y^2 = y + λ with λ = x^3 + x.

use super::{BLOCK, Engine, LANES};

pub enum Portable {}

type Planes = [u128; 8];
type Nibble = [u128; 4];

/// From AES's field to the tower, row k giving bit k: x goes to a root of AES's polynomial there.
const TO_TOWER: [u8; 8] = [0xa5, 0xe4, 0x04, 0x18, 0xa2, 0x0c, 0xd2, 0xa0];
/// Back, and AES's affine map after it (without its constant).
const FROM_TOWER: [u8; 8] = [0xaf, 0x13, 0xed, 0x4f, 0x19, 0x66, 0x70, 0x0e];
const AFFINE_CONSTANT: u8 = 0x63;

impl Engine for Portable {
    type Block = u128;

    #[inline(always)]
    unsafe fn load(bytes: &[u8; BLOCK]) -> u128 {
        u128::from_le_bytes(*bytes)
    }

    #[inline(always)]
    unsafe fn store(block: u128) -> [u8; BLOCK] {
        block.to_le_bytes()
    }

    #[inline(always)]
    unsafe fn xor(a: u128, b: u128) -> u128 {
        a ^ b
    }

    #[inline(always)]
    unsafe fn rounds(blocks: &mut [u128; LANES], keys: &[u128]) {
        rounds(blocks, keys);
    }

    #[inline(always)]
    unsafe fn rounds_one(block: u128, keys: &[u128]) -> u128 {
        let mut blocks = [block; LANES];
        rounds(&mut blocks, keys);
        blocks[0]
    }
}

#[inline(never)]
fn rounds(blocks: &mut [u128; LANES], keys: &[u128]) {
    let mut planes = slice(blocks);
    for key in keys {
        let key_planes = broadcast(*key);
        planes = mix_columns(&shift_rows(&sub_bytes(&planes)));
        for (plane, key) in planes.iter_mut().zip(key_planes) {
            *plane ^= key;
        }
    }
    *blocks = unslice(&planes);
}

/// Transpose an 8 × 8 bit matrix: bit c of byte r becomes bit r of byte c.
#[inline(always)]
fn transpose(matrix: u64) -> u64 {
    let swap = |x: u64, mask: u64, shift: u32| {
        let t = (x ^ x >> shift) & mask;
        x ^ t ^ t << shift
    };
    let x = swap(matrix, 0x00aa_00aa_00aa_00aa, 7);
    let x = swap(x, 0x0000_cccc_0000_cccc, 14);
    swap(x, 0x0000_0000_f0f0_f0f0, 28)
}

#[inline(always)]
fn slice(blocks: &[u128; LANES]) -> Planes {
    let bytes = blocks.map(u128::to_le_bytes);
    let mut planes = [[0u8; BLOCK]; 8];
    for position in 0..BLOCK {
        let column = transpose(u64::from_le_bytes(bytes.map(|block| block[position])));
        for (plane, byte) in planes.iter_mut().zip(column.to_le_bytes()) {
            plane[position] = byte;
        }
    }
    planes.map(u128::from_le_bytes)
}

/// As [`slice`] of eight equal blocks.
#[inline(always)]
fn broadcast(block: u128) -> Planes {
    const LOW: u128 = 0x0101_0101_0101_0101_0101_0101_0101_0101;
    let mut planes = [0; 8];
    for (bit, plane) in planes.iter_mut().enumerate() {
        *plane = (block >> bit & LOW).wrapping_mul(0xff);
    }
    planes
}

#[inline(always)]
fn unslice(planes: &Planes) -> [u128; LANES] {
    // The same transposition, since it is its own inverse.
    slice(planes)
}

#[inline(always)]
fn linear(rows: &[u8; 8], input: &Planes) -> Planes {
    rows.map(|row| {
        (0..8)
            .filter(|bit| row >> bit & 1 == 1)
            .fold(0, |sum, bit| sum ^ input[bit])
    })
}

#[inline(always)]
fn add(a: &Nibble, b: &Nibble) -> Nibble {
    [a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]]
}

#[inline(always)]
fn multiply(a: &Nibble, b: &Nibble) -> Nibble {
    let c4 = a[1] & b[3] ^ a[2] & b[2] ^ a[3] & b[1];
    let c5 = a[2] & b[3] ^ a[3] & b[2];
    let c6 = a[3] & b[3];
    [
        a[0] & b[0] ^ c4,
        a[0] & b[1] ^ a[1] & b[0] ^ c4 ^ c5,
        a[0] & b[2] ^ a[1] & b[1] ^ a[2] & b[0] ^ c5 ^ c6,
        a[0] & b[3] ^ a[1] & b[2] ^ a[2] & b[1] ^ a[3] & b[0] ^ c6,
    ]
}

#[inline(always)]
fn square(a: &Nibble) -> Nibble {
    [a[0] ^ a[2], a[2], a[1] ^ a[3], a[3]]
}

/// λ·a for λ = x^3 + x.
#[inline(always)]
fn times_lambda(a: &Nibble) -> Nibble {
    [
        a[1] ^ a[3],
        a[0] ^ a[1] ^ a[2] ^ a[3],
        a[1] ^ a[2] ^ a[3],
        a[0] ^ a[2] ^ a[3],
    ]
}

/// a^14: the inverse, and 0 of 0.
#[inline(always)]
fn invert(a: &Nibble) -> Nibble {
    let a2 = square(a);
    let a4 = square(&a2);
    multiply(&multiply(&a2, &a4), &square(&a4))
}

#[inline(always)]
fn sub_bytes(planes: &Planes) -> Planes {
    let [a0, a1, a2, a3, b0, b1, b2, b3] = linear(&TO_TOWER, planes);
    let (low, high) = ([a0, a1, a2, a3], [b0, b1, b2, b3]);
    let both = add(&low, &high);
    let norm = add(&times_lambda(&square(&high)), &multiply(&both, &low));
    let inverse = invert(&norm);
    let [c0, c1, c2, c3] = multiply(&both, &inverse);
    let [d0, d1, d2, d3] = multiply(&high, &inverse);
    let mut out = linear(&FROM_TOWER, &[c0, c1, c2, c3, d0, d1, d2, d3]);
    for (bit, plane) in out.iter_mut().enumerate() {
        if AFFINE_CONSTANT >> bit & 1 == 1 {
            *plane = !*plane;
        }
    }
    out
}

#[inline(always)]
fn shift_rows(planes: &Planes) -> Planes {
    const ROW: u128 = 0x0000_00ff_0000_00ff_0000_00ff_0000_00ff;
    planes.map(|plane| {
        plane & ROW
            | (plane & ROW << 8).rotate_right(32)
            | (plane & ROW << 16).rotate_right(64)
            | (plane & ROW << 24).rotate_right(96)
    })
}

/// Each column turned so that row r holds what was in row r + 1.
#[inline(always)]
fn next_row(plane: u128) -> u128 {
    const TOP: u128 = 0xff00_0000_ff00_0000_ff00_0000_ff00_0000;
    plane >> 8 & !TOP | plane << 24 & TOP
}

#[inline(always)]
fn mix_columns(planes: &Planes) -> Planes {
    let next = planes.map(next_row);
    let mut sums = *planes;
    for (sum, next) in sums.iter_mut().zip(next) {
        *sum ^= next;
    }
    let far = sums.map(|sum| next_row(next_row(sum)));
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
    let doubled = [s7, s0 ^ s7, s1, s2 ^ s7, s3 ^ s7, s4, s5, s6];
    let mut out = doubled;
    for ((out, next), far) in out.iter_mut().zip(next).zip(far) {
        *out ^= next ^ far;
    }
    out
}
