//! The lengths of an x25519 geometry: all follow from the number of hops (spec: sphinx 2).

pub const AD: [u8; 2] = [0, 0];
pub const ELEMENT_SIZE: usize = 32;
pub const ID_SIZE: usize = 32;
pub const MAC_SIZE: usize = 32;
pub const PAYLOAD_TAG_SIZE: usize = 32;
/// One hop's block of commands.
pub const PER_HOP: usize = 82;

const ROUTING_AT: usize = AD.len() + ELEMENT_SIZE;

#[derive(Clone, Copy)]
pub struct Shape {
    pub nr_hops: usize,
}

impl Shape {
    /// Saturating: with a nonsensical number of hops every packet is too short.
    pub fn routing_size(self) -> usize {
        self.nr_hops.saturating_mul(PER_HOP)
    }

    pub fn mac_at(self) -> usize {
        self.routing_size().saturating_add(ROUTING_AT)
    }

    pub fn header_size(self) -> usize {
        self.mac_at().saturating_add(MAC_SIZE)
    }
}
