//! ML-KEM-768 (FIPS 203) with chosen randomness, by libcrux.

use libcrux_ml_kem::mlkem768::{self, MlKem768Ciphertext, MlKem768PrivateKey, MlKem768PublicKey};
use zeroize::Zeroizing;

pub const SEED_SIZE: usize = 64;
pub const CIPHERTEXT_SIZE: usize = 1088;
pub const PUBLIC_KEY_SIZE: usize = 1184;
pub const PRIVATE_KEY_SIZE: usize = 2400;

pub type PublicKey = [u8; PUBLIC_KEY_SIZE];
pub type PrivateKey = Zeroizing<[u8; PRIVATE_KEY_SIZE]>;
pub type Ciphertext = [u8; CIPHERTEXT_SIZE];
pub type Secret = Zeroizing<[u8; 32]>;

/// The expanded decapsulation key and the encapsulation key of a seed d || z.
pub fn keypair(seed: &[u8; SEED_SIZE]) -> (PrivateKey, PublicKey) {
    let pair = mlkem768::generate_key_pair(*seed);
    (Zeroizing::new(*pair.sk()), *pair.pk())
}

/// (ciphertext, shared secret) for the chosen m; None when the key fails the modulus check.
pub fn encapsulate(public: &PublicKey, message: &[u8; 32]) -> Option<(Ciphertext, Secret)> {
    let key = MlKem768PublicKey::from(public);
    if !mlkem768::validate_public_key(&key) {
        return None;
    }
    let (ciphertext, secret) = mlkem768::encapsulate(&key, *message);
    Some((*ciphertext.as_slice(), Zeroizing::new(secret)))
}

/// The shared secret; a bad ciphertext gives a pseudo-random one, by design.
pub fn decapsulate(private: &[u8; PRIVATE_KEY_SIZE], ciphertext: &Ciphertext) -> Secret {
    Zeroizing::new(mlkem768::decapsulate(
        &MlKem768PrivateKey::from(private),
        &MlKem768Ciphertext::from(ciphertext),
    ))
}

/// As [`decapsulate`], from the seed.
pub fn decapsulate_from_seed(seed: &[u8; SEED_SIZE], ciphertext: &Ciphertext) -> Secret {
    let pair = mlkem768::generate_key_pair(*seed);
    Zeroizing::new(mlkem768::decapsulate(
        pair.private_key(),
        &MlKem768Ciphertext::from(ciphertext),
    ))
}
