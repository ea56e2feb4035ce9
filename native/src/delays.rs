//! The delay queue of a mix in memory: a heap by due time, and the due packets sorted by where they go.
//!
//! `katzentwist/mix/scheduler.py` has the same in Python. An entry costs 32 bytes here, and no look at Python objects.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::cmp::Ordering;

struct Entry {
    due: f64,
    serial: u64,
    hop: Py<PyBytes>,
    packet: Py<PyBytes>,
}

impl Entry {
    /// Whether it leaves before another one: the earlier, and of the same time the older.
    fn before(&self, other: &Entry) -> bool {
        self.due
            .total_cmp(&other.due)
            .then(self.serial.cmp(&other.serial))
            == Ordering::Less
    }
}

/// (Next hop, packets for it).
pub type Due = (Py<PyBytes>, Vec<Py<PyBytes>>);

/// Delayed packets with their next hops.
#[pyclass(module = "katzentwist._native")]
pub struct DelayHeap {
    heap: Vec<Entry>,
    serial: u64,
}

#[pymethods]
impl DelayHeap {
    #[new]
    fn new() -> Self {
        DelayHeap {
            heap: Vec::new(),
            serial: 0,
        }
    }

    /// Add a packet.
    fn push(&mut self, due: f64, hop: Py<PyBytes>, packet: Py<PyBytes>) {
        self.serial += 1;
        self.heap.push(Entry {
            due,
            serial: self.serial,
            hop,
            packet,
        });
        self.rise(self.heap.len() - 1);
    }

    /// Remove up to *most* entries that are due: the packets by next hop, in order, and how many were due before *oldest*,
    /// which are gone.
    fn take_due<'py>(
        &mut self,
        py: Python<'py>,
        now: f64,
        most: usize,
        oldest: f64,
    ) -> PyResult<(Bound<'py, PyDict>, usize)> {
        let out = PyDict::new(py);
        let (due, late) = self.due(py, now, most, oldest);
        for (hop, packets) in due {
            out.set_item(hop, packets)?;
        }
        Ok((out, late))
    }

    /// Due time of the earliest entry.
    fn next_due(&self) -> Option<f64> {
        self.heap.first().map(|entry| entry.due)
    }

    /// Take the entry at a place out, whichever that is.
    fn remove(&mut self, at: usize) -> PyResult<()> {
        self.take(at)
            .map(drop)
            .ok_or(PyIndexError::new_err("no entry has this place"))
    }

    fn __len__(&self) -> usize {
        self.heap.len()
    }

    /// Drop everything.
    fn clear(&mut self) {
        self.heap = Vec::new();
    }
}

impl DelayHeap {
    /// See take_due().
    pub fn due(&mut self, py: Python<'_>, now: f64, most: usize, oldest: f64) -> (Vec<Due>, usize) {
        let mut out: Vec<Due> = Vec::new();
        let mut late = 0;
        for _ in 0..most {
            if self.heap.first().is_none_or(|entry| entry.due > now) {
                break;
            }
            let Some(entry) = self.take(0) else {
                break;
            };
            if entry.due < oldest {
                late += 1;
                continue;
            }
            // Few enough, in one burst, to look through; and an id is nearly always the same object.
            let place = out
                .iter()
                .position(|(hop, _)| hop.is(&entry.hop))
                .or_else(|| {
                    let id = entry.hop.as_bytes(py);
                    out.iter().position(|(hop, _)| hop.as_bytes(py) == id)
                });
            match place.and_then(|place| out.get_mut(place)) {
                Some((_, packets)) => packets.push(entry.packet),
                None => out.push((entry.hop, vec![entry.packet])),
            }
        }
        (out, late)
    }

    fn take(&mut self, at: usize) -> Option<Entry> {
        if at >= self.heap.len() {
            return None;
        }
        let out = self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.rise(at);
            self.sink(at);
        }
        Some(out)
    }

    fn is_before(&self, one: usize, other: usize) -> bool {
        match (self.heap.get(one), self.heap.get(other)) {
            (Some(one), Some(other)) => one.before(other),
            _ => false,
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.is_before(at, (at - 1) / 2) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.is_before(right, left) {
                right
            } else {
                left
            };
            if !self.is_before(child, at) {
                break;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }
}
