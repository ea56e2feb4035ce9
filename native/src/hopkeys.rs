//! The keys of one hop and what they drive (spec: sphinx 4).

use aes::Aes256;
use chacha20::ChaCha20Legacy;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512_256};
use zeroize::Zeroize;

use crate::x25519::Secret;

pub const MAC_SIZE: usize = 32;
pub const TAG_SIZE: usize = 32;
pub const SPRP_KEY_SIZE: usize = 48;
pub const IV_SIZE: usize = 16;
/// SPRP key and IV.
pub const SPRP_MATERIAL_SIZE: usize = SPRP_KEY_SIZE + IV_SIZE;

const KDF_INFO: &[u8] = b"katzenpost-kdf-v0-hkdf-sha256";
const MATERIAL_SIZE: usize = 160;

pub struct HopKeys {
    mac_key: [u8; 32],
    stream_key: [u8; 32],
    /// Serves the stream cipher and the SPRP.
    pub iv: [u8; IV_SIZE],
    pub sprp_key: [u8; SPRP_KEY_SIZE],
    blinding_seed: [u8; 32],
}

impl Drop for HopKeys {
    fn drop(&mut self) {
        self.mac_key.zeroize();
        self.stream_key.zeroize();
        self.iv.zeroize();
        self.sprp_key.zeroize();
        self.blinding_seed.zeroize();
    }
}

/// HMAC under a 32-byte key, padded to a block here since that can not fail.
fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let keyed = Hmac::<Sha256>::new(&block.into());
    block.zeroize();
    keyed
}

impl HopKeys {
    /// HKDF-Expand of the shared secret itself: there is no extract step.
    pub fn new(shared_secret: &[u8; 32]) -> Self {
        let keyed = hmac(shared_secret);
        let mut material = [0; MATERIAL_SIZE];
        let mut previous: Option<[u8; 32]> = None;
        for (counter, chunk) in (1u8..).zip(material.chunks_exact_mut(32)) {
            let mut mac = keyed.clone();
            if let Some(block) = &previous {
                mac.update(block);
            }
            mac.update(KDF_INFO);
            mac.update(&[counter]);
            let block: [u8; 32] = mac.finalize().into_bytes().into();
            chunk.copy_from_slice(&block);
            previous = Some(block);
        }
        let mut keys = HopKeys {
            mac_key: [0; 32],
            stream_key: [0; 32],
            iv: [0; IV_SIZE],
            sprp_key: [0; SPRP_KEY_SIZE],
            blinding_seed: [0; 32],
        };
        let mut rest = material.iter();
        let fields: [&mut [u8]; 5] = [
            &mut keys.mac_key,
            &mut keys.stream_key,
            &mut keys.iv,
            &mut keys.sprp_key,
            &mut keys.blinding_seed,
        ];
        for field in fields {
            for (to, from) in field.iter_mut().zip(rest.by_ref()) {
                *to = *from;
            }
        }
        material.zeroize();
        previous.zeroize();
        keys
    }

    /// XOR the AES-256-CTR keystream into *data*.
    pub fn apply_stream(&self, data: &mut [u8]) {
        Ctr128BE::<Aes256>::new(&self.stream_key.into(), &self.iv.into()).apply_keystream(data);
    }

    /// HMAC-SHA-256 over all parts.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_SIZE] {
        let mut mac = hmac(&self.mac_key);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The blinding factor: the first 32 bytes of ChaCha20 keystream under the seed.
    pub fn blinding_factor(&self) -> Secret {
        let mut factor = Secret::new([0; 32]);
        ChaCha20Legacy::new(&self.blinding_seed.into(), &[0; 8].into())
            .apply_keystream(&mut *factor);
        factor
    }
}

/// SHA-512/256 of the group element as received.
pub fn replay_tag(element: &[u8]) -> [u8; TAG_SIZE] {
    Sha512_256::digest(element).into()
}
