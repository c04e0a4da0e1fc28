//! From a datagram's bytes to facts: pure, without a socket, without allocation.
//!
//! Source of the rules: `drivers/connector/cn_proc.c`, `linux/cn_proc.h` and
//! `netlink(7)`.

use std::iter::FusedIterator;

use kmonitor_event::{Comm, Pid, Tid, Timestamp};
use kmonitor_source::{Fact, FactKind};

use crate::wire;

/// One message of the proc connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Something happened.
    Fact(Fact),
    /// The answer to somebody's request: the kernel sends each to all listeners.
    Ack(Ack),
}

/// The kernel's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The `ack` of the request, plus one.
    pub ack: u32,
    /// An errno value (positive), or 0 where the request was granted.
    pub error: u32,
}

/// Why bytes are no message of the proc connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A length field that is too small, or that reaches beyond the datagram:
    /// nothing behind it can be found.
    #[error("a length field of {length} with {available} bytes there")]
    Length {
        /// What the field says, in bytes.
        length: u32,
        /// How many bytes there are.
        available: usize,
    },
    /// Too short for what it says it is.
    #[error("too short for what it says it is")]
    Short,
    /// A netlink message of a type that the connector does not use.
    #[error("unexpected netlink message type {0}")]
    Type(u16),
    /// A message of another connector.
    #[error("a message of connector {idx}:{val}")]
    Connector {
        /// Its `idx`.
        idx: u32,
        /// Its `val`.
        val: u32,
    },
    /// No process or thread has this number, and the event must name one.
    #[error("{0} is no task id")]
    Task(i32),
}

/// The messages in a datagram, in order. Nothing is allocated, and no bytes make
/// it panic.
///
/// A datagram may hold several messages, one after the other (`netlink(7)`). The
/// connector marks each of its messages as the last (`NLMSG_DONE`), so that mark
/// ends nothing here. A message that makes no sense is an `Err`, and those behind
/// it still come, unless its length is wrong.
///
/// ```
/// use kmonitor_connector::decode;
///
/// assert_eq!(decode(&[]).count(), 0);
/// assert!(decode(&[0xff; 76]).next().is_some_and(|message| message.is_err()));
/// ```
#[must_use]
pub fn decode(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// The messages in a datagram: see [`decode`].
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let frame = match Frame::first_of(self.rest) {
                Ok(frame) => frame,
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            };
            self.rest = &self.rest[frame.whole_bytes..];
            if frame.kind != wire::NLMSG_NOOP {
                return Some(decode_payload(frame.kind, frame.payload));
            }
        }
        None
    }
}

impl FusedIterator for Messages<'_> {}

/// One netlink message.
pub(crate) struct Frame<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// What is behind the header.
    pub(crate) payload: &'a [u8],
    /// How many bytes lead to the next message.
    pub(crate) whole_bytes: usize,
}

impl<'a> Frame<'a> {
    /// The first message in these bytes.
    #[inline]
    pub(crate) fn first_of(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (Some(length), Some(kind)) = (wire::word(bytes, 0), wire::half_word(bytes, 4)) else {
            return Err(DecodeError::Short);
        };
        let end = usize::try_from(length).unwrap_or(usize::MAX);
        let payload = bytes.get(wire::NLMSG_HEADER_BYTES..end);
        let payload = payload.ok_or(DecodeError::Length {
            length,
            available: bytes.len(),
        })?;
        Ok(Self {
            kind,
            payload,
            whole_bytes: wire::align(end).min(bytes.len()),
        })
    }
}

/// The connector message in a netlink message of type `kind`.
pub(crate) fn decode_payload(kind: u16, payload: &[u8]) -> Result<Message, DecodeError> {
    if kind != wire::NLMSG_DONE {
        return Err(DecodeError::Type(kind));
    }
    let idx = wire::word(payload, 0).ok_or(DecodeError::Short)?;
    let val = wire::word(payload, 4).ok_or(DecodeError::Short)?;
    if (idx, val) != (wire::CN_IDX_PROC, wire::CN_VAL_PROC) {
        return Err(DecodeError::Connector { idx, val });
    }
    let ack = wire::word(payload, 12).ok_or(DecodeError::Short)?;
    let length = wire::half_word(payload, 16).ok_or(DecodeError::Short)?;
    let behind = payload
        .get(wire::CN_HEADER_BYTES..)
        .ok_or(DecodeError::Short)?;
    let event = behind
        .get(..usize::from(length))
        .ok_or(DecodeError::Length {
            length: u32::from(length),
            available: behind.len(),
        })?;
    decode_event(ack, event)
}

/// A `struct proc_event`. It has grown with the years; what a kind of event does
/// not need may be missing.
fn decode_event(ack: u32, event: &[u8]) -> Result<Message, DecodeError> {
    let what = wire::word(event, 0).ok_or(DecodeError::Short)?;
    let nanos = event
        .get(8..)
        .and_then(|bytes| bytes.first_chunk::<8>())
        .ok_or(DecodeError::Short)?;
    let time = Timestamp::from_nanos(u64::from_ne_bytes(*nanos));
    let data = Data(&event[wire::EVENT_HEADER_BYTES..]);
    let kind = match what {
        wire::NONE => {
            let error = data.word(0)?;
            return Ok(Message::Ack(Ack { ack, error }));
        }
        wire::FORK => {
            let (tid, child) = (data.tid(2)?, data.pid(3)?);
            if tid.is_leader_of(child) {
                let parent = data.pid_if_any(1);
                FactKind::Forked { parent, child }
            } else {
                let process = child;
                FactKind::ThreadCreated { process, tid }
            }
        }
        wire::EXEC => FactKind::Execed {
            process: data.pid(1)?,
        },
        wire::EXIT => FactKind::TaskExited {
            process: data.pid(1)?,
            tid: data.tid(0)?,
            code: data.word(2)?.cast_signed(),
            parent: data.pid_if_any(5),
        },
        wire::UID => FactKind::Uid {
            process: data.pid(1)?,
            tid: data.tid(0)?,
            real: data.word(2)?,
            effective: data.word(3)?,
        },
        wire::GID => FactKind::Gid {
            process: data.pid(1)?,
            tid: data.tid(0)?,
            real: data.word(2)?,
            effective: data.word(3)?,
        },
        wire::SID => FactKind::Sid {
            process: data.pid(1)?,
        },
        wire::PTRACE => {
            // The tracer must be told: its absence means that it left.
            data.word(3)?;
            FactKind::Ptrace {
                process: data.pid(1)?,
                tid: data.tid(0)?,
                tracer: data.pid_if_any(3),
            }
        }
        wire::COMM => FactKind::Comm {
            process: data.pid(1)?,
            tid: data.tid(0)?,
            comm: Comm::new(data.bytes(2, 16)?),
        },
        wire::COREDUMP => FactKind::Coredump {
            process: data.pid(1)?,
            tid: data.tid(0)?,
            parent: data.pid_if_any(3),
        },
        what => FactKind::Other {
            what,
            process: data.pid_if_any(1),
        },
    };
    Ok(Message::Fact(Fact::new(time, kind)))
}

/// `event_data`, in 32-bit words.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn word(&self, index: usize) -> Result<u32, DecodeError> {
        wire::word(self.0, index * 4).ok_or(DecodeError::Short)
    }

    fn bytes(&self, index: usize, count: usize) -> Result<&'a [u8], DecodeError> {
        self.0
            .get(index * 4..index * 4 + count)
            .ok_or(DecodeError::Short)
    }

    fn pid(&self, index: usize) -> Result<Pid, DecodeError> {
        let raw = self.word(index)?.cast_signed();
        Pid::new(raw).ok_or(DecodeError::Task(raw))
    }

    fn tid(&self, index: usize) -> Result<Tid, DecodeError> {
        let raw = self.word(index)?.cast_signed();
        Tid::new(raw).ok_or(DecodeError::Task(raw))
    }

    fn pid_if_any(&self, index: usize) -> Option<Pid> {
        self.pid(index).ok()
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
