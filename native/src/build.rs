//! Building headers, packets and SURBs (spec: sphinx 7, 8, 10).

use crate::aez::{self, Direction};
use crate::commands::next_node_hop;
use crate::hopkeys::{HopKeys, IV_SIZE, SPRP_KEY_SIZE, SPRP_MATERIAL_SIZE};
use crate::shape::{AD, ID_SIZE, MAC_SIZE, PAYLOAD_TAG_SIZE, PER_HOP, Shape};
use crate::unwrap::without_tag;
use crate::x25519::{self, Key, Product, Secret};
use zeroize::{Zeroize, Zeroizing};

/// One hop; the commands are encoded, without the next node hop and without padding.
pub struct Hop<'a> {
    pub id: [u8; ID_SIZE],
    pub public_key: Key,
    pub commands: &'a [u8],
}

/// A header and the keys of its hops in path order.
pub struct Header {
    pub data: Vec<u8>,
    pub keys: Vec<HopKeys>,
}

const INVALID_PATH: &str = "sphinx: invalid path";

/// The group element that each hop sees, and each hop's keys: one multiplication of a point and one of the base per hop.
fn secrets(hops: &[Hop], ephemeral: &Key) -> Result<(Vec<Key>, Vec<HopKeys>), String> {
    let mut product = Product::new(ephemeral);
    let mut factors: Vec<Secret> = Vec::with_capacity(hops.len());
    let mut elements: Vec<Key> = Vec::with_capacity(hops.len());
    let mut keys = Vec::with_capacity(hops.len());
    for (number, hop) in hops.iter().enumerate() {
        let refused =
            || format!("sphinx: invalid mix key of hop {number}: low order x25519 public key");
        let scalar = product.scalar();
        let element = match (&scalar, elements.last(), factors.last()) {
            (Some(scalar), ..) => x25519::multiply_base(scalar),
            (None, Some(element), Some(factor)) => {
                *x25519::multiply(factor, element).ok_or_else(refused)?
            }
            _ => x25519::multiply_base(ephemeral),
        };
        let secret = match &scalar {
            Some(scalar) if x25519::is_on_curve(&hop.public_key) => {
                x25519::multiply(scalar, &hop.public_key)
            }
            // Bytes that are nobody's public key: one by one, as the specification writes it.
            _ => factors
                .iter()
                .try_fold(
                    x25519::multiply(ephemeral, &hop.public_key),
                    |secret, factor| Some(x25519::multiply(factor, &*secret?)),
                )
                .flatten(),
        };
        let hop_keys = HopKeys::new(&*secret.ok_or_else(refused)?);
        let factor = hop_keys.blinding_factor();
        product.blind(&factor);
        factors.push(factor);
        elements.push(element);
        keys.push(hop_keys);
    }
    Ok((elements, keys))
}

/// A header. *unused* is the random filler for the hops that the path does not have.
pub fn header(
    hops: &[Hop],
    ephemeral: &Key,
    unused: &[u8],
    shape: Shape,
) -> Result<Header, String> {
    let used = hops.len().saturating_mul(PER_HOP);
    if hops.is_empty() || used.checked_add(unused.len()) != Some(shape.routing_size()) {
        return Err(INVALID_PATH.into());
    }
    let (elements, keys) = secrets(hops, ephemeral)?;

    // Hop i sees (nr_hops - i) blocks of ours and i blocks of filler: what the streams of the hops before it leave when
    // they run over the zeros that each hop appends.
    let mut streams = Vec::with_capacity(keys.len());
    let mut fillers: Vec<Vec<u8>> = Vec::with_capacity(keys.len());
    for (i, hop_keys) in keys.iter().enumerate() {
        let mut stream = Zeroizing::new(vec![0; shape.routing_size() + PER_HOP]);
        hop_keys.apply_stream(&mut stream);
        let mut filler = stream.split_off(shape.routing_size() - i * PER_HOP);
        if let Some(previous) = fillers.last() {
            xor_into(&mut filler, previous);
        }
        streams.push(stream);
        fillers.push(filler);
    }

    let mut routing = unused.to_vec();
    let mut mac = [0; MAC_SIZE];
    let mut next_id: Option<[u8; ID_SIZE]> = None;
    let parts = hops.iter().zip(&elements).zip(&keys).zip(&streams);
    for (i, (((hop, element), hop_keys), stream)) in parts.enumerate().rev() {
        let mut block = Vec::with_capacity(PER_HOP + routing.len());
        block.extend_from_slice(hop.commands);
        if let Some(id) = &next_id {
            block.extend(next_node_hop(id, &mac));
        }
        if block.len() > PER_HOP {
            return Err("sphinx: invalid commands, oversized serialized block".into());
        }
        block.resize(PER_HOP, 0);
        block.append(&mut routing);
        xor_into(&mut block, stream);
        routing = block;
        let filler = i
            .checked_sub(1)
            .and_then(|before| fillers.get(before))
            .map_or(&[][..], |filler| filler);
        mac = hop_keys.mac(&[&AD, element, &routing, filler]);
        next_id = Some(hop.id);
    }

    let mut data = Vec::with_capacity(shape.header_size());
    data.extend_from_slice(&AD);
    data.extend(elements.first().into_iter().flatten());
    data.append(&mut routing);
    data.extend_from_slice(&mac);
    Ok(Header { data, keys })
}

fn xor_into(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to ^= from;
    }
}

/// A forward packet.
pub fn packet(
    hops: &[Hop],
    payload: &[u8],
    ephemeral: &Key,
    unused: &[u8],
    shape: Shape,
) -> Result<Vec<u8>, String> {
    let Header { mut data, keys } = header(hops, ephemeral, unused, shape)?;
    let header_size = data.len();
    data.reserve_exact(PAYLOAD_TAG_SIZE + payload.len());
    data.resize(header_size + PAYLOAD_TAG_SIZE, 0);
    data.extend_from_slice(payload);
    if let Some(body) = data.get_mut(header_size..) {
        for hop_keys in keys.iter().rev() {
            aez::permute(&hop_keys.sprp_key, &hop_keys.iv, body, Direction::Encipher);
        }
    }
    Ok(data)
}

/// (SURB, decryption keys).
pub fn surb(
    hops: &[Hop],
    payload_key: &[u8; SPRP_MATERIAL_SIZE],
    ephemeral: &Key,
    unused: &[u8],
    shape: Shape,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), String> {
    let Header {
        mut data,
        keys: hop_keys,
    } = header(hops, ephemeral, unused, shape)?;
    let mut keys = Zeroizing::new(Vec::with_capacity(
        (hop_keys.len() + 1) * SPRP_MATERIAL_SIZE,
    ));
    for hop in hop_keys.iter().rev() {
        keys.extend_from_slice(&hop.sprp_key);
        keys.extend_from_slice(&hop.iv);
    }
    keys.extend_from_slice(payload_key);
    data.extend(hops.first().map_or([0; ID_SIZE], |hop| hop.id));
    data.extend_from_slice(payload_key);
    Ok((data, keys))
}

/// The reply in a payload that came back, tag included.
pub fn decrypt_reply(keys: &[u8], payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    const INVALID_KEYS: &str = "sphinx: invalid SURB decryption keys";
    let (parts, rest) = keys.as_chunks::<SPRP_MATERIAL_SIZE>();
    let (payload_key, hop_keys) = parts.split_last().ok_or(INVALID_KEYS)?;
    if !rest.is_empty() {
        return Err(INVALID_KEYS);
    }
    let mut body = payload.to_vec();
    for key in hop_keys {
        permute_with(key, &mut body, Direction::Encipher);
    }
    permute_with(payload_key, &mut body, Direction::Decipher);
    without_tag(body)
}

fn permute_with(material: &[u8; SPRP_MATERIAL_SIZE], body: &mut [u8], direction: Direction) {
    let (mut key, mut iv) = ([0; SPRP_KEY_SIZE], [0; IV_SIZE]);
    for (to, from) in key.iter_mut().chain(&mut iv).zip(material) {
        *to = *from;
    }
    aez::permute(&key, &iv, body, direction);
    key.zeroize();
}
