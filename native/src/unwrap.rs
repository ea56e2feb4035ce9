//! One hop's work on a packet (spec: sphinx 9).

use crate::aez::{self, Direction};
use crate::commands::{Commands, Kind};
use crate::hopkeys::{HopKeys, TAG_SIZE, replay_tag};
use crate::shape::{AD, ELEMENT_SIZE, ID_SIZE, PAYLOAD_TAG_SIZE, PER_HOP, Shape};
use crate::x25519::{self, Key};
use subtle::ConstantTimeEq;

pub const TRUNCATED_PAYLOAD: &str = "sphinx: truncated payload";
pub const PAYLOAD_AUTH_FAILED: &str = "sphinx: payload auth failed";
const LOW_ORDER: &str = "sphinx: invalid packet, low order group element";

/// What a hop finds.
pub struct Unwrapped {
    pub tag: [u8; TAG_SIZE],
    pub commands: Commands,
    pub block: [u8; PER_HOP],
    pub content: Content,
}

pub enum Content {
    /// The packet goes on.
    Next(Vec<u8>),
    /// It ends here: the payload without its tag, or all of it with a SURB reply command.
    Payload(Vec<u8>),
}

/// Why not; with the replay tag from the MAC check on.
#[derive(Clone)]
pub struct Refusal {
    pub text: &'static str,
    pub tag: Option<[u8; TAG_SIZE]>,
}

impl Refusal {
    fn untagged(text: &'static str) -> Self {
        Refusal { text, tag: None }
    }
}

/// Unwrap one packet of any length with one key.
pub fn unwrap(private_key: &Key, packet: &[u8], shape: Shape) -> Result<Unwrapped, Refusal> {
    let truncated = Refusal::untagged("sphinx: invalid packet, truncated");
    let (header, payload) = packet
        .split_at_checked(shape.header_size())
        .ok_or(truncated.clone())?;
    let (covered, mac) = header
        .split_at_checked(shape.mac_at())
        .ok_or(truncated.clone())?;
    let (version, rest) = covered
        .split_first_chunk::<{ AD.len() }>()
        .ok_or(truncated.clone())?;
    let (element, routing) = rest.split_first_chunk::<ELEMENT_SIZE>().ok_or(truncated)?;
    if *version != AD {
        return Err(Refusal::untagged("sphinx: invalid packet, unknown version"));
    }
    let secret = x25519::multiply(private_key, element).ok_or(Refusal::untagged(LOW_ORDER))?;
    let tag = replay_tag(element);
    let refuse = |text| Refusal {
        text,
        tag: Some(tag),
    };
    let keys = HopKeys::new(&secret);
    if !bool::from(keys.mac(&[covered]).ct_eq(mac)) {
        return Err(refuse("sphinx: invalid packet, MAC mismatch"));
    }

    // The packet for the next hop is made in the place where it will stand: AD || element || routing || MAC || payload.
    let mut routing_info = Vec::with_capacity(routing.len() + PER_HOP);
    routing_info.extend_from_slice(routing);
    routing_info.resize(routing.len() + PER_HOP, 0);
    keys.apply_stream(&mut routing_info);
    let (block, next_routing) = routing_info
        .split_first_chunk::<PER_HOP>()
        .ok_or(refuse(TRUNCATED_PAYLOAD))?;
    let commands = Commands::parse(block).map_err(refuse)?;

    let content = match &commands.next_hop {
        Some((_, next_mac)) => {
            let element =
                x25519::multiply(&keys.blinding_factor(), element).ok_or(refuse(LOW_ORDER))?;
            let mut next = Vec::with_capacity(packet.len());
            for part in [&AD, &*element as &[u8], next_routing, next_mac, payload] {
                next.extend_from_slice(part);
            }
            if let Some(body) = next.get_mut(shape.header_size()..) {
                aez::permute(&keys.sprp_key, &keys.iv, body, Direction::Decipher);
            }
            Content::Next(next)
        }
        None => Content::Payload(open_payload(&keys, payload, &commands).map_err(refuse)?),
    };
    Ok(Unwrapped {
        tag,
        commands,
        block: *block,
        content,
    })
}

fn open_payload(
    keys: &HopKeys,
    payload: &[u8],
    commands: &Commands,
) -> Result<Vec<u8>, &'static str> {
    if payload.len() < PAYLOAD_TAG_SIZE {
        return Err(TRUNCATED_PAYLOAD);
    }
    let mut payload = payload.to_vec();
    aez::permute(&keys.sprp_key, &keys.iv, &mut payload, Direction::Decipher);
    if commands.surb_id.is_some() {
        Ok(payload)
    } else {
        without_tag(payload)
    }
}

/// Check and cut the zero bytes in front.
pub fn without_tag(mut payload: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    match payload.first_chunk::<PAYLOAD_TAG_SIZE>() {
        None => Err(TRUNCATED_PAYLOAD),
        Some(tag) if bool::from(tag.ct_eq(&[0; PAYLOAD_TAG_SIZE])) => {
            Ok(payload.split_off(PAYLOAD_TAG_SIZE))
        }
        Some(_) => Err(PAYLOAD_AUTH_FAILED),
    }
}

/// One packet's result in a batch.
pub enum Sorted {
    /// Wrong length.
    Size(usize),
    Refused(Refusal),
    Forward {
        key: usize,
        tag: [u8; TAG_SIZE],
        id: [u8; ID_SIZE],
        delay: u32,
        packet: Vec<u8>,
    },
    ToUser {
        key: usize,
        tag: [u8; TAG_SIZE],
        recipient: [u8; 32],
        delay: Option<u32>,
        payload: Vec<u8>,
    },
    SurbReply {
        key: usize,
        tag: [u8; TAG_SIZE],
        recipient: [u8; 32],
        surb_id: [u8; 16],
        payload: Vec<u8>,
    },
    Redundant {
        key: usize,
        tag: [u8; TAG_SIZE],
    },
    Senseless {
        key: usize,
        tag: [u8; TAG_SIZE],
    },
}

/// Unwrap with the first key that can (spec: sphinx 12); of the refusals the last one counts.
pub fn unwrap_and_sort(
    keys: &[impl AsRef<Key>],
    packet: &[u8],
    packet_size: usize,
    shape: Shape,
) -> Sorted {
    if packet.len() != packet_size {
        return Sorted::Size(packet.len());
    }
    let mut refusal = Refusal::untagged("no mix key to unwrap with");
    for (key, private_key) in keys.iter().enumerate() {
        match unwrap(private_key.as_ref(), packet, shape) {
            Ok(found) => return sort(key, found),
            Err(error) => refusal = error,
        }
    }
    Sorted::Refused(refusal)
}

fn sort(key: usize, found: Unwrapped) -> Sorted {
    let Unwrapped {
        tag,
        commands,
        content,
        ..
    } = found;
    let kind = commands.kind();
    let Commands {
        next_hop,
        delay,
        recipient,
        surb_id,
        ..
    } = commands;
    match (kind, content, next_hop, recipient, surb_id, delay) {
        (Kind::Forward, Content::Next(packet), Some((id, _)), _, _, Some(delay)) => {
            Sorted::Forward {
                key,
                tag,
                id,
                delay,
                packet,
            }
        }
        (Kind::ToUser, Content::Payload(payload), _, Some(recipient), _, delay) => Sorted::ToUser {
            key,
            tag,
            recipient,
            delay,
            payload,
        },
        (Kind::SurbReply, Content::Payload(payload), _, Some(recipient), Some(surb_id), _) => {
            Sorted::SurbReply {
                key,
                tag,
                recipient,
                surb_id,
                payload,
            }
        }
        (Kind::Redundant, ..) => Sorted::Redundant { key, tag },
        _ => Sorted::Senseless { key, tag },
    }
}
