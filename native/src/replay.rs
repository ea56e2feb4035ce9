//! Which packets a mix key has seen: 8 bytes each (spec: node 3.3).
//!
//! An entry is the start of a keyed hash of the tag. Entries live in 256 open-addressed tables, each of which grows by a
//! quarter when it is 85 % full: at most 12 bytes per packet, and no pause longer than the growth of one small table.

use hmac::{Hmac, KeyInit, Mac};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sha2::Sha256;

const TABLES: usize = 256;
const TAG_SIZE: usize = 32;
const ENTRY_SIZE: usize = 8;
const FIRST_SIZE: usize = 16;

struct Table {
    slots: Vec<u64>,
    used: usize,
}

impl Table {
    fn new() -> Self {
        Table { slots: vec![0; FIRST_SIZE], used: 0 }
    }

    /// Where an entry is, or the free slot where it belongs. There is always a free slot.
    fn place(slots: &[u64], entry: u64) -> usize {
        let spread = entry.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut at = ((u128::from(spread) * slots.len() as u128) >> 64) as usize;
        while slots[at] != 0 && slots[at] != entry {
            at += 1;
            if at == slots.len() {
                at = 0;
            }
        }
        at
    }

    /// Whether the entry is new; it is there afterwards.
    fn insert(&mut self, entry: u64) -> bool {
        let at = Self::place(&self.slots, entry);
        if self.slots[at] == entry {
            return false;
        }
        self.slots[at] = entry;
        self.used += 1;
        if self.used * 20 > self.slots.len() * 17 {
            self.grow();
        }
        true
    }

    fn grow(&mut self) {
        let mut larger = vec![0; self.slots.len() + self.slots.len() / 4 + 1];
        for &entry in self.slots.iter().filter(|&&e| e != 0) {
            let at = Self::place(&larger, entry);
            larger[at] = entry;
        }
        self.slots = larger;
    }
}

/// The tags seen under one mix key. `key` is secret, so that senders can not make entries collide.
#[pyclass]
pub struct ReplaySet {
    #[pyo3(get)]
    key: Py<PyBytes>,
    mac: Hmac<Sha256>,
    tables: Vec<Table>,
}

impl ReplaySet {
    fn entry(&self, tag: &[u8]) -> u64 {
        let mut mac = self.mac.clone();
        mac.update(tag);
        let digest = mac.finalize().into_bytes();
        let mut start = [0; ENTRY_SIZE];
        start.copy_from_slice(&digest[..ENTRY_SIZE]);
        u64::from_le_bytes(start)
    }

    fn insert(&mut self, entry: u64) -> bool {
        // Zero marks a free slot.
        let entry = entry.max(1);
        self.tables[(entry & 0xff) as usize].insert(entry)
    }
}

#[pymethods]
impl ReplaySet {
    #[new]
    fn new(key: Bound<'_, PyBytes>) -> PyResult<Self> {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
            .map_err(|_| pyo3::exceptions::PyValueError::new_err("bad key"))?;
        let tables = (0..TABLES).map(|_| Table::new()).collect();
        Ok(ReplaySet { key: key.unbind(), mac, tables })
    }

    /// For each tag, whether it was seen before (in this batch too) or is no tag; all are seen afterwards.
    fn test_and_set(&mut self, tags: Vec<Vec<u8>>) -> Vec<bool> {
        tags.iter()
            .map(|tag| tag.len() != TAG_SIZE || !self.insert(self.entry(tag)))
            .collect()
    }

    fn __len__(&self) -> usize {
        self.tables.iter().map(|table| table.used).sum()
    }

    /// The entries in pieces, for `restore`.
    fn dump<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.tables
            .iter()
            .map(|table| {
                let piece: Vec<u8> = table.slots.iter().filter(|&&e| e != 0).flat_map(|e| e.to_le_bytes()).collect();
                PyBytes::new(py, &piece)
            })
            .collect()
    }

    /// Add entries that `dump` gave; a cut last one is left out.
    fn restore(&mut self, entries: &[u8]) {
        for chunk in entries.chunks_exact(ENTRY_SIZE) {
            let mut start = [0; ENTRY_SIZE];
            start.copy_from_slice(chunk);
            self.insert(u64::from_le_bytes(start));
        }
    }

    /// Bytes of all tables.
    fn memory(&self) -> usize {
        self.tables.iter().map(|table| table.slots.len() * ENTRY_SIZE).sum()
    }
}
