//! The record layer of a link (spec: link 6), many records at a time.
//!
//! record = AEAD(k, n, "", be32(L)) || AEAD(k, n + 1, "", command), L = command + 16; then n += 2 and a new key.

use crate::aead::{self, Key, LAST_NONCE, Stream, TAG_SIZE};
use std::ops::Range;

const LENGTH_SIZE: usize = 4;
pub const SEALED_HEADER: usize = LENGTH_SIZE + TAG_SIZE;

/// The largest command (spec: link 6); also keeps a mistaken padding length from asking for all memory.
const MAX_COMMAND: u32 = 500_000_000 - TAG_SIZE as u32;
/// What is reserved ahead for one call's output, at most.
const MAX_RESERVE: u64 = 1 << 24;

/// A command from this size on is opened as its bytes come: at its end there is not all of the work to do at once.
const LARGE: usize = 1 << 16;

const USED_UP: &str = "the nonce counter is used up";
const TOO_LONG: &str = "the command is too long for a record";
const BAD_TAG: &str = "authentication tag does not fit";
const UNFINISHED: &str = "a record is begun and not complete";
const TOO_MUCH: &str = "more than the record was begun for";

/// Key and counter of one direction.
pub struct Direction {
    pub key: Key,
    pub nonce: u64,
    /// The record that is being sealed piece by piece, and how much of its command is to come.
    begun: Option<(Box<Stream>, usize)>,
}

impl Direction {
    pub fn new(key: Key, nonce: u64) -> Self {
        Direction {
            key,
            nonce,
            begun: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.begun.is_some() {
            Err(UNFINISHED.into())
        } else if self.nonce >= LAST_NONCE - 1 {
            Err(USED_UP.into())
        } else {
            Ok(())
        }
    }

    /// After a record.
    fn advance(&mut self) -> Result<(), String> {
        self.nonce += 2;
        self.key = aead::rekey(&self.key).ok_or(USED_UP)?;
        Ok(())
    }

    /// Append one record of a command of *size* bytes, which *write* appends to the output.
    fn seal_one(
        &mut self,
        size: u32,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), String> {
        self.check()?;
        let mut header = (size + TAG_SIZE as u32).to_be_bytes();
        let tag = aead::seal(&self.key, self.nonce, &mut header).ok_or(TOO_LONG)?;
        out.extend_from_slice(&header);
        out.extend_from_slice(&tag);
        let start = out.len();
        write(out);
        let body = out.get_mut(start..).unwrap_or_default();
        let tag = aead::seal(&self.key, self.nonce + 1, body).ok_or(TOO_LONG)?;
        out.extend_from_slice(&tag);
        self.advance()
    }

    /// The sealed header of a record for a command of *size* bytes, which [`Self::seal_piece`] gets.
    pub fn begin(&mut self, size: usize) -> Result<Vec<u8>, String> {
        self.check()?;
        let size = check_size(size)?;
        let mut header = (size + TAG_SIZE as u32).to_be_bytes();
        let tag = aead::seal(&self.key, self.nonce, &mut header).ok_or(TOO_LONG)?;
        self.begun = Some((Stream::boxed(&self.key, self.nonce + 1), size as usize));
        Ok([header.as_slice(), tag.as_slice()].concat())
    }

    /// The next piece of the command; with its last byte the record is complete.
    pub fn seal_piece(&mut self, piece: &[u8]) -> Result<Vec<u8>, String> {
        let (mut stream, size) = self.begun.take().ok_or(TOO_MUCH)?;
        let Some(left) = size.checked_sub(piece.len()) else {
            self.begun = Some((stream, size));
            return Err(TOO_MUCH.into());
        };
        let mut out = Vec::with_capacity(piece.len() + TAG_SIZE);
        out.extend_from_slice(piece);
        stream.seal(&mut out);
        if left > 0 {
            self.begun = Some((stream, left));
        } else {
            out.extend_from_slice(&stream.tag());
            self.advance()?;
        }
        Ok(out)
    }

    /// The records of these commands.
    pub fn seal(&mut self, commands: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, String> {
        let sizes = check_sizes(commands.iter().map(|command| command.as_ref().len()))?;
        let mut out = Vec::with_capacity(room(&sizes));
        for (command, size) in commands.iter().zip(sizes) {
            self.seal_one(size, &mut out, |out| {
                out.extend_from_slice(command.as_ref())
            })?;
        }
        Ok(out)
    }

    /// Append the records of `SendPacket` commands (02 00, be32 of the length, packet), zero-padded to *pad_to* bytes.
    pub fn seal_packets(
        &mut self,
        packets: &[impl AsRef<[u8]>],
        pad_to: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let frames = packets.iter().map(|packet| 6 + packet.as_ref().len());
        let sizes = check_sizes(frames.map(|frame| frame.max(pad_to)))?;
        out.reserve(room(&sizes));
        for (packet, size) in packets.iter().zip(sizes) {
            let packet = packet.as_ref();
            self.seal_one(size, out, |out| {
                let end = out.len() + size as usize;
                out.extend_from_slice(&[0x02, 0x00]);
                out.extend_from_slice(&(packet.len() as u32).to_be_bytes());
                out.extend_from_slice(packet);
                out.resize(end, 0);
            })?;
        }
        Ok(())
    }
}

/// All sizes of a call, before its first record is sealed: an error must not leave the key half way.
fn check_sizes(sizes: impl Iterator<Item = usize>) -> Result<Vec<u32>, String> {
    sizes.map(check_size).collect()
}

fn check_size(size: usize) -> Result<u32, String> {
    match u32::try_from(size) {
        Ok(size) if size <= MAX_COMMAND => Ok(size),
        _ => Err(TOO_LONG.into()),
    }
}

/// What to reserve for the records of such commands.
fn room(sizes: &[u32]) -> usize {
    let wanted: u64 = sizes
        .iter()
        .map(|size| u64::from(*size) + (SEALED_HEADER + TAG_SIZE) as u64)
        .sum();
    wanted.min(MAX_RESERVE) as usize
}

/// Takes the bytes of one direction as they come; holds what is not complete yet, and nothing ahead of its arrival.
pub struct Opener {
    state: State,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    done: usize,
    dead: bool,
}

/// Where the stream stands: at the start of a record, or behind its header.
struct State {
    direction: Direction,
    max_body: usize,
    /// L of the record whose header is open.
    length: Option<usize>,
    /// The large command that is being opened, and how much of it is: nobody sees it before its tag was found right.
    large: Option<(Box<Stream>, usize)>,
}

/// Commands, as places in the bytes where they were opened.
pub struct Opened<'a> {
    bytes: &'a [u8],
    places: Vec<Range<usize>>,
}

impl<'a> Opened<'a> {
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        self.places
            .iter()
            .map(move |place| bytes.get(place.clone()).unwrap_or_default())
    }
}

impl Opener {
    pub fn new(key: Key, max_body: usize) -> Self {
        let state = State {
            direction: Direction::new(key, 0),
            max_body,
            length: None,
            large: None,
        };
        Opener {
            state,
            buffer: Vec::new(),
            done: 0,
            dead: false,
        }
    }

    pub fn direction(&self) -> &Direction {
        &self.state.direction
    }

    /// Whether a large command is on its way: with it the buffer grows, and may have to move megabytes.
    pub fn has_large(&self) -> bool {
        self.state.large.is_some()
    }

    /// The commands that are complete now. After an error it opens nothing more.
    pub fn feed(&mut self, data: &[u8]) -> Result<Opened<'_>, String> {
        self.begin()?;
        self.buffer.extend_from_slice(data);
        let mut places = Vec::new();
        let result = self
            .state
            .open_all(&mut self.buffer, &mut self.done, &mut places);
        self.dead = result.is_err();
        let bytes = &self.buffer;
        result.map(|()| Opened { bytes, places })
    }

    /// The same where *data* may be changed: whole records are opened in there, without a copy.
    pub fn feed_in_place<'a>(&'a mut self, data: &'a mut [u8]) -> Result<Opened<'a>, String> {
        self.begin()?;
        if !self.buffer.is_empty() {
            return self.feed(data);
        }
        let (mut done, mut places) = (0, Vec::new());
        let result = self.state.open_all(data, &mut done, &mut places);
        self.dead = result.is_err();
        self.buffer
            .extend_from_slice(data.get(done..).unwrap_or_default());
        let bytes = data;
        result.map(|()| Opened { bytes, places })
    }

    fn begin(&mut self) -> Result<(), String> {
        if self.dead {
            return Err("the record layer has failed before".into());
        }
        self.buffer.drain(..self.done.min(self.buffer.len()));
        self.done = 0;
        Ok(())
    }
}

impl State {
    /// Open what is complete in the buffer from *done* on.
    fn open_all(
        &mut self,
        buffer: &mut [u8],
        done: &mut usize,
        commands: &mut Vec<Range<usize>>,
    ) -> Result<(), String> {
        let State {
            direction,
            max_body,
            length,
            large,
        } = self;
        loop {
            let body = match *length {
                Some(body) => body,
                None => {
                    let rest = buffer.get_mut(*done..).unwrap_or_default();
                    let Some((header, rest)) = rest.split_first_chunk_mut::<LENGTH_SIZE>() else {
                        return Ok(());
                    };
                    let Some(tag) = rest.first_chunk::<TAG_SIZE>() else {
                        return Ok(());
                    };
                    direction.check()?;
                    aead::open(&direction.key, direction.nonce, header, tag).ok_or(BAD_TAG)?;
                    let body = u32::from_be_bytes(*header) as usize;
                    if body < TAG_SIZE || body > *max_body {
                        return Err(format!("record body of {body} bytes"));
                    }
                    *done += SEALED_HEADER;
                    *length = Some(body);
                    if body >= LARGE {
                        *large = Some((Stream::boxed(&direction.key, direction.nonce + 1), 0));
                    }
                    body
                }
            };
            let rest = buffer.get_mut(*done..).unwrap_or_default();
            if let Some((stream, opened)) = large {
                let there = rest.len().min(body - TAG_SIZE);
                stream.open(rest.get_mut(*opened..there).unwrap_or_default());
                *opened = there;
            }
            let Some((record, _)) = rest.split_at_mut_checked(body) else {
                return Ok(());
            };
            let Some((command, tag)) = record.split_last_chunk_mut::<TAG_SIZE>() else {
                return Ok(());
            };
            let right = match large.take() {
                Some((stream, _)) => stream.verify(tag),
                None => aead::open(&direction.key, direction.nonce + 1, command, tag).is_some(),
            };
            if !right {
                return Err(BAD_TAG.into());
            }
            commands.push(*done..*done + command.len());
            *done += body;
            *length = None;
            direction.advance()?;
        }
    }
}
