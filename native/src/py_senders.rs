//! Packets leave: they are sealed and written, for one link or for all that have some due.

use crate::delays::DelayHeap;
use crate::py_links::borrow;
use crate::py_records::{RecordSealer, collect};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::fd::RawFd;
use rustix::net::SendFlags;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Seals packets for one link and writes them.
#[pyclass(frozen, module = "katzentwist._native")]
pub struct PacketSender {
    fd: RawFd,
    sealer: Py<RecordSealer>,
    length: usize,
    pad_to: usize,
    rest: Py<PyAny>,
    open: AtomicBool,
    /// When send_due() last sent something, by the caller's clock: the bits of an f64.
    sent: AtomicU64,
}

#[pymethods]
impl PacketSender {
    /// For packets of *length* bytes, in SendPacket commands that are padded to *pad_to*. What the socket does not take
    /// goes to *rest*.
    #[new]
    fn new(
        fd: RawFd,
        sealer: Py<RecordSealer>,
        length: usize,
        pad_to: usize,
        rest: Py<PyAny>,
    ) -> Self {
        PacketSender {
            fd,
            sealer,
            length,
            pad_to,
            rest,
            open: AtomicBool::new(true),
            sent: AtomicU64::new(0),
        }
    }

    /// Whether it may send: all is written that the link's sealer has sealed, and the socket is still the link's.
    #[getter]
    fn open(&self) -> bool {
        self.open.load(Relaxed)
    }

    #[setter]
    fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// When send_due() last sent something; 0 if it did not.
    #[getter]
    fn sent(&self) -> f64 {
        f64::from_bits(self.sent.load(Relaxed))
    }

    /// Seal these, in one record each, and write them.
    fn send(&self, py: Python<'_>, packets: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut records = Vec::new();
        self.seal(py, &collect(packets)?, &mut records)?;
        self.write(py, &records)
    }
}

impl PacketSender {
    /// Append the records of these packets.
    fn seal(
        &self,
        py: Python<'_>,
        packets: &[impl AsRef<[u8]> + Sync],
        records: &mut Vec<u8>,
    ) -> PyResult<()> {
        if packets
            .iter()
            .any(|packet| packet.as_ref().len() != self.length)
        {
            return Err(PyValueError::new_err("not a packet of this network"));
        }
        let mut sealer = self.sealer.try_borrow_mut(py)?;
        sealer.packets(py, packets, self.pad_to, records)
    }

    /// Give records to the socket.
    fn write(&self, py: Python<'_>, records: &[u8]) -> PyResult<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // Full, or an error that comes again, and is dealt with, when Twisted writes.
        let sent = rustix::net::send(borrow(self.fd)?, records, flags).unwrap_or(0);
        match records.get(sent..) {
            None | Some([]) => Ok(()),
            Some(rest) => {
                self.set_open(false);
                self.rest.call1(py, (PyBytes::new(py, rest),)).map(drop)
            }
        }
    }
}

/// Send what is due in *heap*, by the senders that are open, which are known by where packets go. What is left by hop, in
/// order; how many were due before *oldest*, and are gone; how many were sent.
#[pyfunction]
pub fn send_due<'py>(
    py: Python<'py>,
    heap: &Bound<'py, DelayHeap>,
    now: f64,
    most: usize,
    oldest: f64,
    senders: &Bound<'py, PyDict>,
) -> PyResult<(Bound<'py, PyDict>, usize, usize)> {
    let (due, late) = heap.try_borrow_mut()?.due(py, now, most, oldest);
    let left = PyDict::new(py);
    let mut sent = 0;
    // First all of ours, then all the kernel's work: in turns, each would find the other's in the caches.
    let mut records = Vec::new();
    let mut sealed = Vec::new();
    // The processor fetches the starts of all packets at the same time.
    let bytes: Vec<Vec<_>> = due
        .iter()
        .map(|(_, packets)| packets.iter().map(|packet| packet.as_bytes(py)).collect())
        .collect();
    for ((hop, packets), bytes) in due.iter().zip(bytes) {
        let start = records.len();
        match senders.get_item(hop)?.map(Bound::cast_into::<PacketSender>) {
            // What can not be sealed its link meets again, and it is counted.
            Some(Ok(sender))
                if sender.get().open() && sender.get().seal(py, &bytes, &mut records).is_ok() =>
            {
                sender.get().sent.store(now.to_bits(), Relaxed);
                sent += packets.len();
                sealed.push((sender, start..records.len()));
            }
            _ => {
                records.truncate(start);
                left.set_item(hop, packets)?;
            }
        }
    }
    for (sender, place) in sealed {
        let records = records.get(place).unwrap_or_default();
        if let Err(error) = sender.get().write(py, records) {
            sender.get().set_open(false);
            error.write_unraisable(py, Some(sender.as_any())); // others have packets as well
        }
    }
    Ok((left, late, sent))
}
