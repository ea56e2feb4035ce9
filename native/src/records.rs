//! The record layer of a link (spec: link 6), many records at a time.
//!
//! record = AEAD(k, n, "", be32(L)) || AEAD(k, n + 1, "", command), L = command + 16; then n += 2 and a new key.

use crate::aead::{self, Key, LAST_NONCE, TAG_SIZE};
use std::ops::Range;

const LENGTH_SIZE: usize = 4;
pub const SEALED_HEADER: usize = LENGTH_SIZE + TAG_SIZE;

/// The largest command (spec: link 6); also keeps a mistaken padding length from asking for all memory.
const MAX_COMMAND: u32 = 500_000_000 - TAG_SIZE as u32;
/// What is reserved ahead for one call's output, at most.
const MAX_RESERVE: u64 = 1 << 24;

const USED_UP: &str = "the nonce counter is used up";
const TOO_LONG: &str = "the command is too long for a record";
const BAD_TAG: &str = "authentication tag does not fit";

/// Key and counter of one direction.
pub struct Direction {
    pub key: Key,
    pub nonce: u64,
}

impl Direction {
    fn check(&self) -> Result<(), String> {
        if self.nonce >= LAST_NONCE - 1 {
            Err(USED_UP.into())
        } else {
            Ok(())
        }
    }

    /// After a record.
    fn advance(&mut self) {
        self.nonce += 2;
        self.key = aead::rekey(&self.key);
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
        self.advance();
        Ok(())
    }

    /// The records of these commands.
    pub fn seal(&mut self, commands: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, String> {
        let sizes = check_sizes(commands.iter().map(|command| command.as_ref().len()))?;
        let mut out = reserve(&sizes);
        for (command, size) in commands.iter().zip(sizes) {
            self.seal_one(size, &mut out, |out| {
                out.extend_from_slice(command.as_ref())
            })?;
        }
        Ok(out)
    }

    /// The records of `SendPacket` commands (02 00, be32 of the length, packet), zero-padded to *pad_to* bytes.
    pub fn seal_packets(
        &mut self,
        packets: &[impl AsRef<[u8]>],
        pad_to: usize,
    ) -> Result<Vec<u8>, String> {
        let frames = packets.iter().map(|packet| 6 + packet.as_ref().len());
        let sizes = check_sizes(frames.map(|frame| frame.max(pad_to)))?;
        let mut out = reserve(&sizes);
        for (packet, size) in packets.iter().zip(sizes) {
            let packet = packet.as_ref();
            self.seal_one(size, &mut out, |out| {
                let end = out.len() + size as usize;
                out.extend_from_slice(&[0x02, 0x00]);
                out.extend_from_slice(&(packet.len() as u32).to_be_bytes());
                out.extend_from_slice(packet);
                out.resize(end, 0);
            })?;
        }
        Ok(out)
    }
}

/// All sizes of a call, before its first record is sealed: an error must not leave the key half way.
fn check_sizes(sizes: impl Iterator<Item = usize>) -> Result<Vec<u32>, String> {
    sizes
        .map(|size| match u32::try_from(size) {
            Ok(size) if size <= MAX_COMMAND => Ok(size),
            _ => Err(TOO_LONG.into()),
        })
        .collect()
}

fn reserve(sizes: &[u32]) -> Vec<u8> {
    let wanted: u64 = sizes
        .iter()
        .map(|size| u64::from(*size) + (SEALED_HEADER + TAG_SIZE) as u64)
        .sum();
    Vec::with_capacity(wanted.min(MAX_RESERVE) as usize)
}

/// Takes the bytes of one direction as they come; holds what is not complete yet, and nothing ahead of its arrival.
pub struct Opener {
    pub direction: Direction,
    max_body: usize,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    done: usize,
    /// L of the record whose header is open.
    length: Option<usize>,
    dead: bool,
}

impl Opener {
    pub fn new(key: Key, max_body: usize) -> Self {
        Opener {
            direction: Direction { key, nonce: 0 },
            max_body,
            buffer: Vec::new(),
            done: 0,
            length: None,
            dead: false,
        }
    }

    /// Where in [`Self::bytes`] the commands stand that are complete now. After an error it opens nothing more.
    pub fn feed(&mut self, data: &[u8]) -> Result<Vec<Range<usize>>, String> {
        if self.dead {
            return Err("the record layer has failed before".into());
        }
        self.buffer.drain(..self.done.min(self.buffer.len()));
        self.done = 0;
        self.buffer.extend_from_slice(data);
        let mut commands = Vec::new();
        let result = self.open_all(&mut commands);
        self.dead = result.is_err();
        result.map(|()| commands)
    }

    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.buffer.get(range.clone()).unwrap_or_default()
    }

    fn open_all(&mut self, commands: &mut Vec<Range<usize>>) -> Result<(), String> {
        let Opener {
            direction,
            max_body,
            buffer,
            done,
            length,
            ..
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
                    body
                }
            };
            let rest = buffer.get_mut(*done..).unwrap_or_default();
            let Some((record, _)) = rest.split_at_mut_checked(body) else {
                return Ok(());
            };
            let Some((command, tag)) = record.split_last_chunk_mut::<TAG_SIZE>() else {
                return Ok(());
            };
            aead::open(&direction.key, direction.nonce + 1, command, tag).ok_or(BAD_TAG)?;
            commands.push(*done..*done + command.len());
            *done += body;
            *length = None;
            direction.advance();
        }
    }
}
