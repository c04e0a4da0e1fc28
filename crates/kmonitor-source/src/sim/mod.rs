//! A simulated kernel: processes, threads and their facts, run by a seed.
//!
//! It needs no operating system and no clock. What a real kernel does seldom and
//! by chance (a pid used again before the exit of its last owner was told, a
//! leader that dies first, a full queue) it does when told to, or often, and the
//! same again for the same seed. It is meant for tests: of the hub, and of
//! services that watch processes.
//!
//! * [`SimKernel`] is the kernel. Its methods are what processes do
//!   ([`fork`](SimKernel::fork), [`exec`](SimKernel::exec),
//!   [`exit_group`](SimKernel::exit_group), …), what their parents do
//!   ([`reap`](SimKernel::reap), which is the oracle: it says what `waitpid`
//!   would), and what a test does to the kernel ([`lose`](SimKernel::lose),
//!   [`set_next_pid`](SimKernel::set_next_pid), …).
//!   [`run`](SimKernel::run) does valid operations at random.
//! * [`SimSource`] and [`SimProbe`] are its [`EventSource`](crate::EventSource)
//!   and its [`ProcessProbe`](crate::ProcessProbe). As in reality, the probe runs
//!   ahead of the queue: it tells what is, not what was read.
//! * [`SimKernel::truth`] tells what happened, to hold reports against.
//!
//! ```
//! use std::task::{Context, Poll, Waker};
//! use kmonitor_source::sim::SimKernel;
//! use kmonitor_source::{EventSource, FactKind, KernelInterest};
//! use kmonitor_event::EventMask;
//!
//! let kernel = SimKernel::with_seed(1);
//! let mut source = kernel.source();
//! // Nothing is told before something is wanted.
//! let mut cx = Context::from_waker(Waker::noop());
//! let mut interest = KernelInterest::new();
//! interest.set_host(EventMask::LIFECYCLE);
//! assert!(source.poll_interest(&mut cx, &interest).is_ready());
//!
//! let shell = kernel.spawn()?;
//! let child = kernel.fork(shell)?;
//! kernel.exit_group(child.leader(), 3)?;
//! assert_eq!(kernel.reap(child), Some(3 << 8));
//!
//! let mut facts = Vec::new();
//! assert!(matches!(source.poll_batch(&mut cx, &mut facts), Poll::Ready(Ok(()))));
//! assert_eq!(facts[1].kind, FactKind::Forked { parent: Some(shell), child });
//! assert!(matches!(facts[2].kind, FactKind::TaskExited { code: 0x300, .. }));
//! assert!(source.poll_batch(&mut cx, &mut facts).is_pending());
//! # Ok::<(), kmonitor_source::sim::SimError>(())
//! ```
//!
//! # What it does not simulate
//! Signals that do not end a process, stops, sessions, credentials and names
//! beyond their facts, namespaces, subreapers, and children of one parent that
//! another thread's `CLONE_PARENT` made.

mod config;
mod control;
mod delayed;
mod driver;
mod error;
mod filter;
mod kernel;
mod lifecycle;
mod link;
mod operation;
mod probe;
mod queue;
mod rng;
mod source;
mod state;
mod truth;
mod wanted;

pub use config::{SimConfig, SimMode};
pub use error::SimError;
pub use kernel::SimKernel;
pub use operation::SimOperation;
pub use probe::SimProbe;
pub use source::SimSource;
pub use truth::{Death, SimCounts};

#[cfg(test)]
mod tests;
