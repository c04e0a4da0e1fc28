//! Process-lifecycle events as types.
//!
//! This crate holds the words that event sources, the hub and applications
//! share: what happened ([`EventKind`]), to whom ([`ProcessKey`]), when
//! ([`Timestamp`]), with which outcome ([`Status`]) and what was missed
//! ([`Lost`]). It does no I/O, spawns nothing and knows no async runtime.
//!
//! The names of kinds, mask bits and JSON fields are a contract; each is
//! documented where it is defined and listed in the changelog when it changes.
//!
//! ```
//! use kmonitor_event::{EventMask, ProcessRef};
//!
//! let mask: EventMask = "fork,exec,exit".parse()?;
//! assert_eq!(mask, EventMask::FORK | EventMask::EXEC | EventMask::EXIT);
//!
//! let target: ProcessRef = "1234:5678".parse()?;
//! assert_eq!(target.inode.map(|inode| inode.get()), Some(5678));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod event;
#[cfg(feature = "serde")]
mod json;
mod key;
mod mask;
mod pid;
mod status;
mod time;

pub use event::{Comm, Event, EventKind, Exit, LossOrigin, Lost, Resync};
pub use key::{ProcessKey, ProcessRef};
pub use mask::{EventMask, ParseMaskError};
pub use pid::{ParsePidError, Pid, Tid};
pub use status::{Status, StatusSource, UnknownReason};
pub use time::{ClockAnchor, Timestamp};
