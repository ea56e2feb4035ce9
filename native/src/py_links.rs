//! Established links over sockets: many are read and opened in one call, and packets are sealed and written in one.
//!
//! Everything here keeps the interpreter lock: no call blocks, and none works longer than a fraction of a millisecond.

use crate::py_records::{RecordOpener, RecordSealer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyTuple};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;

/// What one link reads before others have their turn: some twenty packets.
const READ_SIZE: usize = 1 << 16;
/// What all links read in one call, more or less: 170 packets, 0.6 ms of work. Who had no turn comes first in the next.
const READ_AT_ONCE: usize = 1 << 19;
const EVENTS: usize = 256;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The descriptor of a socket that Twisted keeps open.
fn borrow<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: not -1. Should it have been closed (against the rule), the kernel refuses it; nothing is kept in memory by it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

struct Link {
    token: Py<PyAny>,
    opener: Py<RecordOpener>,
    /// How commands start that carry a packet, and their padded size. Without a start none may come.
    start: Vec<u8>,
    size: usize,
}

/// What came: (token, packets, then other commands, or text of a refusal, or None at an end or an error of the socket).
type Came<'py> = (Py<PyAny>, Bound<'py, PyList>, Bound<'py, PyAny>);

/// Sockets of established links, in one epoll set.
#[pyclass(module = "katzentwist._native")]
pub struct LinkSet {
    epoll: OwnedFd,
    links: HashMap<RawFd, Link>,
    /// Who has something to read, as far as the kernel told, which tells each arrival once.
    ready: VecDeque<Ready>,
    buffer: Box<[u8]>,
}

struct Ready {
    fd: RawFd,
    /// There is no more to come; to be read until it shows.
    ended: bool,
}

#[pymethods]
impl LinkSet {
    #[new]
    fn new() -> PyResult<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        Ok(LinkSet {
            epoll,
            links: HashMap::new(),
            ready: VecDeque::new(),
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
        })
    }

    fn fileno(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn __len__(&self) -> usize {
        self.links.len()
    }

    /// Watch a socket. Commands of *size* bytes that begin with *start* carry a packet.
    fn add(
        &mut self,
        fd: RawFd,
        token: Py<PyAny>,
        opener: Py<RecordOpener>,
        start: Vec<u8>,
        size: usize,
    ) -> PyResult<()> {
        let socket = borrow(fd)?;
        epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(fd as u64),
            EventFlags::IN | EventFlags::RDHUP | EventFlags::ET,
        )
        .map_err(io::Error::from)?;
        let link = Link {
            token,
            opener,
            start,
            size,
        };
        self.links.insert(fd, link);
        Ok(())
    }

    /// Watch a socket no more; False if it was not watched. It may be closed already.
    fn remove(&mut self, fd: RawFd) -> PyResult<bool> {
        if self.links.remove(&fd).is_none() {
            return Ok(false);
        }
        let _ = epoll::delete(&self.epoll, borrow(fd)?); // a closed one has left by itself
        Ok(true)
    }

    /// Whether links have something to read that had no turn: read() is to be called again, descriptor or not.
    #[getter]
    fn waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Read from all links that have something, in turn, and open what is complete.
    fn read<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<Came<'py>>> {
        self.ask()?;
        let mut out = Vec::new();
        let mut bytes = 0;
        while bytes < READ_AT_ONCE
            && let Some(Ready { fd, ended }) = self.ready.pop_front()
        {
            let Some(link) = self.links.get(&fd) else {
                continue;
            };
            match rustix::net::recv(borrow(fd)?, &mut *self.buffer, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok((count, _)) if count > 0 => {
                    bytes += count;
                    let data = self.buffer.get_mut(..count).unwrap_or_default();
                    out.push(link.open(py, data)?);
                    if ended || count == READ_SIZE {
                        self.ready.push_back(Ready { fd, ended });
                    }
                }
                _ => out.push((
                    link.token.clone_ref(py),
                    PyList::empty(py),
                    py.None().into_bound(py),
                )),
            }
        }
        Ok(out)
    }
}

impl LinkSet {
    /// Ask the kernel who has something to read. What does not fit it tells the next time.
    fn ask(&mut self) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let told = match epoll::wait(&self.epoll, &mut events, Some(&AT_ONCE)) {
            Ok((told, _)) => told,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.ready.extend(told.iter().map(|event| Ready {
            fd: { event.data }.u64() as RawFd,
            ended: { event.flags }.intersects(end),
        }));
        Ok(())
    }
}

impl Link {
    fn open<'py>(&self, py: Python<'py>, data: &mut [u8]) -> PyResult<Came<'py>> {
        let mut opener = self.opener.try_borrow_mut(py)?;
        let packets = PyList::empty(py);
        let rest = match opener.open(data) {
            Err(text) => text.into_pyobject(py)?.into_any(),
            Ok(opened) => {
                let mut commands = opened.iter().peekable();
                while let Some(packet) = commands.peek().and_then(|command| self.packet(command)) {
                    packets.append(PyBytes::new(py, packet))?;
                    commands.next();
                }
                if commands.peek().is_none() {
                    PyTuple::empty(py).into_any() // always the same one, and nearly always this
                } else {
                    let rest: Vec<_> = commands.map(|rest| PyBytes::new(py, rest)).collect();
                    PyList::new(py, rest)?.into_any()
                }
            }
        };
        Ok((self.token.clone_ref(py), packets, rest))
    }

    fn packet<'a>(&self, command: &'a [u8]) -> Option<&'a [u8]> {
        if self.start.is_empty() || command.len() != self.size {
            return None;
        }
        command.strip_prefix(&*self.start)
    }
}

/// Seal SendPacket commands with these packets of *length* bytes, padded to *pad_to*, and write them: what the socket
/// did not take.
#[pyfunction]
pub fn send_packets<'py>(
    py: Python<'py>,
    fd: RawFd,
    packets: Vec<PyBackedBytes>,
    sealer: &mut RecordSealer,
    length: usize,
    pad_to: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    if packets.iter().any(|packet| packet.len() != length) {
        return Err(PyValueError::new_err("not a packet of this network"));
    }
    let records = sealer.packets(py, &packets, pad_to)?;
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // Full, or an error that comes again, and is dealt with, when Twisted writes.
    let sent = rustix::net::send(borrow(fd)?, &records, flags).unwrap_or(0);
    Ok(PyBytes::new(py, records.get(sent..).unwrap_or_default()))
}
