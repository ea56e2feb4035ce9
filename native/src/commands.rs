//! One hop's commands (spec: sphinx 6), and the kind of packet that they make (spec: sphinx 12).

use crate::shape::{ID_SIZE, MAC_SIZE};

pub const INVALID: &str = "sphinx: invalid per-hop command";
pub const REDUNDANT: &str = "redundant command";
pub const SENSELESS: &str = "sphinx: invalid combination of commands";
const TWO_NEXT_NODES: &str = "sphinx: invalid packet, > 1 next_node";
const TWO_SURB_REPLIES: &str = "sphinx: invalid packet, > 1 surb_reply";

const NEXT_NODE_HOP: u8 = 0x01;
const RECIPIENT: u8 = 0x02;
const SURB_REPLY: u8 = 0x03;
const NODE_DELAY: u8 = 0x80;

/// `NextNodeHop` as the builder appends it: 65 bytes.
pub fn next_node_hop(id: &[u8; ID_SIZE], mac: &[u8; MAC_SIZE]) -> impl Iterator<Item = u8> {
    [NEXT_NODE_HOP].into_iter().chain(*id).chain(*mac)
}

#[derive(Default, Clone)]
pub struct Commands {
    /// Node id and MAC.
    pub next_hop: Option<([u8; ID_SIZE], [u8; MAC_SIZE])>,
    pub delay: Option<u32>,
    pub recipient: Option<[u8; 32]>,
    pub surb_id: Option<[u8; 16]>,
    /// A delay or recipient came twice; the first stands here.
    pub redundant: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invalid = 0,
    Forward = 1,
    ToUser = 2,
    SurbReply = 3,
    Redundant = 4,
    Senseless = 5,
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (first, rest) = body.split_first_chunk::<N>().ok_or(INVALID)?;
    *body = rest;
    Ok(*first)
}

impl Commands {
    pub fn parse(mut block: &[u8]) -> Result<Self, &'static str> {
        let mut found = Commands::default();
        while let Some((code, mut body)) = block.split_first() {
            match *code {
                0 if body.iter().all(|byte| *byte == 0) => break,
                NEXT_NODE_HOP => {
                    let hop = (take(&mut body)?, take(&mut body)?);
                    if found.next_hop.replace(hop).is_some() {
                        return Err(TWO_NEXT_NODES);
                    }
                }
                RECIPIENT => {
                    let id = take(&mut body)?;
                    found.redundant |= found.recipient.is_some();
                    found.recipient.get_or_insert(id);
                }
                SURB_REPLY => {
                    if found.surb_id.replace(take(&mut body)?).is_some() {
                        return Err(TWO_SURB_REPLIES);
                    }
                }
                NODE_DELAY => {
                    let delay = u32::from_be_bytes(take(&mut body)?);
                    found.redundant |= found.delay.is_some();
                    found.delay.get_or_insert(delay);
                }
                _ => return Err(INVALID),
            }
            block = body;
        }
        Ok(found)
    }

    pub fn kind(&self) -> Kind {
        if self.redundant {
            return Kind::Redundant;
        }
        match (
            self.next_hop.is_some(),
            self.delay.is_some(),
            self.recipient.is_some(),
            self.surb_id.is_some(),
        ) {
            (true, true, false, false) => Kind::Forward,
            (false, _, true, false) => Kind::ToUser,
            (false, false, true, true) => Kind::SurbReply,
            _ => Kind::Senseless,
        }
    }
}
