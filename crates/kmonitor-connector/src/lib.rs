//! The kernel's proc connector as a [`kmonitor_source::EventSource`].
//!
//! The proc connector is a netlink multicast group to which the kernel reports
//! each fork, exec and exit, each change of user, group, session, tracer and name,
//! and each core dump, of all processes of the host. [`ConnectorSource`] reads it
//! in batches (one `recvmmsg(2)` for many events), decodes it ([`decode()`]) into
//! facts, and says at its place in the stream, and with its exact count, when the
//! kernel had to drop some.
//!
//! What it cannot do: it serves the initial network, pid, user and time namespaces only,
//! it tells nothing of processes that were there before, and the kernel says
//! nothing of an event that it had no memory to allocate, which shows only where all
//! events of the host pass, by a number that is missing.
//!
//! Source of the rules: `drivers/connector/cn_proc.c`, `net/netlink/af_netlink.c`
//! and `netlink(7)`.
#![deny(unsafe_code)]

mod buffer;
mod builder;
mod codec;
mod decode;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod listen;
mod namespaces;
mod overflow;
mod pace;
mod sequence;
mod socket;
mod source;
#[expect(unsafe_code, reason = "system calls that no safe crate offers")]
mod sys;
mod wait;
mod wire;

pub use builder::ConnectorBuilder;
pub use decode::{Ack, DecodeError, Message, Messages, decode};
pub use source::ConnectorSource;
