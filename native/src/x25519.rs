//! X25519 (RFC 7748) by the fastest code that this processor runs, and products of blinding factors.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::cpu;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

pub const SIZE: usize = 32;
pub type Key = [u8; SIZE];
pub type Secret = Zeroizing<Key>;

/// X25519(scalar, point); None when the result is zero, that is for a point of low order.
pub fn multiply(scalar: &Key, point: &Key) -> Option<Secret> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if cpu::has_graviola() {
        use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};
        let shared =
            StaticPrivateKey::from_array(scalar).diffie_hellman(&PublicKey::from_array(point));
        return shared.ok().map(|secret| Zeroizing::new(secret.0));
    }
    let shared = Zeroizing::new(MontgomeryPoint(*point).mul_clamped(*scalar).0);
    if bool::from(shared.ct_eq(&[0; SIZE])) {
        None
    } else {
        Some(shared)
    }
}

/// X25519(scalar, base point): the public key of a private key, by a comb with precomputed tables.
pub fn multiply_base(scalar: &Key) -> Key {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if cpu::has_graviola() {
        use graviola::key_agreement::x25519::StaticPrivateKey;
        return StaticPrivateKey::from_array(scalar).public_key().as_bytes();
    }
    MontgomeryPoint::mul_base_clamped(*scalar).0
}

/// Whether this u-coordinate lies on the curve itself. A public key that somebody has a private key for always does;
/// other bytes may lie on the twist, whose group has another order.
pub fn is_on_curve(point: &Key) -> bool {
    MontgomeryPoint(*point).to_edwards(0).is_some()
}

/// The product of a private key and blinding factors, so that a builder multiplies each point once.
///
/// Building a packet asks for X25519(f_k, ... X25519(f_0, X25519(x, P))). Clamped scalars are multiples of 8, and the
/// order of every point of the curve divides 8·l. So with x = 8·x', all that matters is p = x'·f_0···f_k mod l, and the
/// result is the u-coordinate of 8·p·P. X25519 clamps the scalar that it is given: it computes just that if
/// 2^251 <= p < 2^252. Since P and -P have the same u-coordinate, l - p serves as well, and l is a little more than
/// 2^252: for all but one p in 2^126 exactly one of p and l - p is in that range.
pub struct Product(Zeroizing<Scalar>);

impl Product {
    /// Begin with a private key.
    pub fn new(private: &Key) -> Self {
        let clamped = Zeroizing::new(clamp_integer(*private));
        let mut eighth = Zeroizing::new([0; SIZE]);
        let mut carry = 0;
        for (out, byte) in eighth.iter_mut().zip(clamped.iter()).rev() {
            *out = byte >> 3 | carry;
            carry = byte << 5;
        }
        Product(Zeroizing::new(Scalar::from_bytes_mod_order(*eighth)))
    }

    /// Multiply by a blinding factor, clamped as X25519 would.
    pub fn blind(&mut self, factor: &Key) {
        *self.0 *= Scalar::from_bytes_mod_order(clamp_integer(*factor));
    }

    /// A scalar for [`multiply`] and [`multiply_base`]; None for the one product in 2^126 that has none.
    pub fn scalar(&self) -> Option<Secret> {
        let bit = |scalar: &Scalar, byte: usize, bit: u8| {
            Choice::from(scalar.as_bytes()[byte] >> bit & 1)
        };
        let negated = Zeroizing::new(-*self.0);
        let chosen = Zeroizing::new(Scalar::conditional_select(
            &negated,
            &self.0,
            bit(&self.0, 31, 3),
        ));
        let in_range = bit(&chosen, 31, 3) & !bit(&chosen, 31, 4);
        let mut out = Zeroizing::new([0; SIZE]);
        let mut carry = 0;
        for (out, byte) in out.iter_mut().zip(chosen.as_bytes()) {
            *out = byte << 3 | carry;
            carry = byte >> 5;
        }
        if bool::from(in_range) {
            Some(out)
        } else {
            None
        }
    }
}
