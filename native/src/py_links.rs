//! Established links over sockets: many are read, and their records opened, in one call. `py_senders.rs` sends.
//!
//! Everything here keeps the interpreter lock: no call blocks, and none works longer than a fraction of a millisecond.

use crate::py_records::RecordOpener;
use crate::python::exactly;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Type, flags and length: what stands before a packet.
const START: usize = 6;
/// What one link reads before others have their turn: some twenty packets.
const READ_SIZE: usize = 1 << 16;
/// What all links read in one call, more or less: 170 packets, 0.6 ms of work. Who had no turn comes first in the next.
const READ_AT_ONCE: usize = 1 << 19;
/// What other commands count for than packets: Python parses each, and unpacks documents.
const DEAR: usize = 8;
const EVENTS: usize = 256;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The descriptor of a socket that Twisted keeps open.
pub fn borrow<'fd>(fd: RawFd) -> io::Result<BorrowedFd<'fd>> {
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
    start: Option<[u8; START]>,
    size: usize,
    /// Who takes its packets, with those of others.
    sink: Option<Py<PyAny>>,
    /// When it got some, by the caller's clock.
    heard: f64,
    /// Whether it waits for its turn to read.
    ready: bool,
    /// There is no more to come; to be read until it shows.
    ended: bool,
}

/// What came: (token, packets, then other commands, or text of a refusal, or None at an end or an error of the socket).
type Came<'py> = (Py<PyAny>, Bound<'py, PyList>, Bound<'py, PyAny>);

/// (Sink, packets for it).
type Sunk<'py> = (Py<PyAny>, Bound<'py, PyList>);

/// Sockets of established links, in one epoll set.
#[pyclass(module = "katzentwist._native")]
pub struct LinkSet {
    epoll: OwnedFd,
    links: HashMap<RawFd, Link>,
    /// Who has something to read, as far as the kernel told, which tells each arrival once.
    ready: VecDeque<RawFd>,
    /// What was read since others had their turn: less than READ_SIZE before each read.
    buffer: Box<[u8]>,
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
            buffer: vec![0; 2 * READ_SIZE].into_boxed_slice(),
        })
    }

    fn fileno(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn __len__(&self) -> usize {
        self.links.len()
    }

    /// Watch a socket. Commands of *size* bytes that begin with *start* carry a packet; none if that is empty.
    fn add(
        &mut self,
        fd: RawFd,
        token: Py<PyAny>,
        opener: Py<RecordOpener>,
        start: &[u8],
        size: usize,
    ) -> PyResult<()> {
        let start = match start {
            [] => None,
            _ => Some(exactly("start of a packet", start)?),
        };
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
            sink: None,
            heard: 0.0,
            ready: false,
            ended: false,
        };
        self.links.insert(fd, link);
        Ok(())
    }

    /// Give the packets of a link to *sink* from now on, together with those of others; with None to its own token.
    fn pass_on(&mut self, fd: RawFd, sink: Option<Py<PyAny>>) {
        if let Some(link) = self.links.get_mut(&fd) {
            link.sink = sink;
        }
    }

    /// When a sink last got packets of this link; 0 if none did.
    fn heard(&self, fd: RawFd) -> f64 {
        self.links.get(&fd).map_or(0.0, |link| link.heard)
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

    /// Read from all links that have something, in turn, and open what is complete: what sinks get, and all else.
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        now: f64,
    ) -> PyResult<(Vec<Sunk<'py>>, Vec<Came<'py>>)> {
        self.ask()?;
        let mut sunk = Vec::new();
        let mut out = Vec::new();
        let mut bytes = 0;
        while bytes < READ_AT_ONCE && !self.ready.is_empty() {
            // First all the kernel's work, then all of ours: in turns, each would find the other's in the caches.
            for (fd, place) in self.receive(py, &mut out)? {
                let (Some(link), Some(data)) =
                    (self.links.get_mut(&fd), self.buffer.get_mut(place))
                else {
                    continue;
                };
                let count = data.len();
                let others = link.open(py, data, now, &mut sunk, &mut out);
                bytes += match others {
                    Ok(false) => count,
                    Ok(true) => count * DEAR,
                    Err(error) => {
                        let text = error.to_string().into_pyobject(py)?.into_any();
                        out.push((link.token.clone_ref(py), PyList::empty(py), text));
                        count * DEAR
                    }
                };
                if link.ended || count == READ_SIZE {
                    link.ready = true;
                    self.ready.push_back(fd);
                }
            }
        }
        Ok((sunk, out))
    }
}

impl LinkSet {
    /// Take some READ_SIZE bytes, each from those that are ready: where they lie in the buffer. Ends and errors go to *out*.
    fn receive<'py>(
        &mut self,
        py: Python<'py>,
        out: &mut Vec<Came<'py>>,
    ) -> io::Result<Vec<(RawFd, Range<usize>)>> {
        let mut received = Vec::new();
        let mut filled = 0;
        while filled < READ_SIZE
            && let Some(fd) = self.ready.pop_front()
        {
            let Some(link) = self.links.get_mut(&fd) else {
                continue;
            };
            link.ready = false;
            let room = self.buffer.get_mut(filled..filled + READ_SIZE);
            match rustix::net::recv(borrow(fd)?, room.unwrap_or_default(), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok((count, _)) if count > 0 => {
                    received.push((fd, filled..filled + count));
                    filled += count;
                }
                _ => out.push((
                    link.token.clone_ref(py),
                    PyList::empty(py),
                    py.None().into_bound(py),
                )),
            }
        }
        Ok(received)
    }

    /// Ask the kernel who has something to read. What does not fit it tells the next time.
    fn ask(&mut self) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let told = match epoll::wait(&self.epoll, &mut events, Some(&AT_ONCE)) {
            Ok((told, _)) => told,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        for event in told {
            let fd = { event.data }.u64() as RawFd;
            if let Some(link) = self.links.get_mut(&fd) {
                link.ended |= { event.flags }.intersects(end);
                if !link.ready {
                    link.ready = true;
                    self.ready.push_back(fd);
                }
            }
        }
        Ok(())
    }
}

impl Link {
    /// Open what came: packets go to the sink, if there is one; what is for the token, to *out*. Whether other commands came.
    fn open<'py>(
        &mut self,
        py: Python<'py>,
        data: &mut [u8],
        now: f64,
        sunk: &mut Vec<Sunk<'py>>,
        out: &mut Vec<Came<'py>>,
    ) -> PyResult<bool> {
        let mut opener = self.opener.try_borrow_mut(py)?;
        let opened = match opener.open(data) {
            Ok(opened) => opened,
            Err(text) => {
                let text = text.into_pyobject(py)?.into_any();
                out.push((self.token.clone_ref(py), PyList::empty(py), text));
                return Ok(true);
            }
        };
        let mut commands = opened.iter().peekable();
        let mut packets = None;
        while let Some(packet) = commands
            .peek()
            .and_then(|command| packet_in(command, &self.start, self.size))
        {
            let list = packets.get_or_insert_with(|| match &self.sink {
                Some(sink) => list_of(py, sunk, sink),
                None => PyList::empty(py),
            });
            list.append(PyBytes::new(py, packet))?;
            commands.next();
        }
        if self.sink.is_some() {
            if packets.take().is_some() {
                self.heard = now;
            }
            if commands.peek().is_none() {
                return Ok(false);
            }
        }
        let others = commands.peek().is_some();
        let rest = if !others {
            PyTuple::empty(py).into_any() // always the same one, and nearly always this
        } else {
            let rest: Vec<_> = commands.map(|rest| PyBytes::new(py, rest)).collect();
            PyList::new(py, rest)?.into_any()
        };
        let packets = packets.unwrap_or_else(|| PyList::empty(py));
        out.push((self.token.clone_ref(py), packets, rest));
        Ok(others)
    }
}

/// The list of a sink.
fn list_of<'py>(
    py: Python<'py>,
    sunk: &mut Vec<Sunk<'py>>,
    sink: &Py<PyAny>,
) -> Bound<'py, PyList> {
    if let Some((_, packets)) = sunk.iter().find(|(known, _)| known.is(sink)) {
        return packets.clone();
    }
    let packets = PyList::empty(py);
    sunk.push((sink.clone_ref(py), packets.clone()));
    packets
}

/// The packet that this command carries.
fn packet_in<'a>(command: &'a [u8], start: &Option<[u8; START]>, size: usize) -> Option<&'a [u8]> {
    let (first, packet) = command.split_first_chunk::<START>()?;
    (command.len() == size && start.as_ref() == Some(first)).then_some(packet)
}
