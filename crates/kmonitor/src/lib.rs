//! Process-lifecycle events as a stream: fork, exec, exit and more, of any
//! process one may see, not only of children.
//!
//! # Wait for one process
//! [`watch`] needs no set-up, no privilege and no hub:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut child = tokio::process::Command::new("sh").args(["-c", "exit 3"]).spawn()?;
//! let watch = kmonitor::watch(&child);
//! child.wait().await?;
//! let exit = watch.await?;
//! assert_eq!(exit.status.code(), Some(3));
//! # Ok(()) }
//! ```
//!
//! # A stream of events
//! A [`Hub`] reads one source for any number of [`Subscription`]s. Nothing is
//! asked of the kernel while nobody subscribes.
//!
//! ```no_run
//! # async fn run(pid: kmonitor::Pid) -> Result<(), Box<dyn std::error::Error>> {
//! use kmonitor::{EventKind, EventMask, Filter, Hub};
//!
//! let hub = Hub::open().await?;
//! let wanted = Filter::tree(pid).events(EventMask::EXEC | EventMask::EXIT);
//! let mut events = hub.subscribe(wanted).await?;
//! while let Some(event) = events.next().await {
//!     match event.kind {
//!         EventKind::Exit(status) => println!("{:?} {status}", event.pid()),
//!         EventKind::Lost(lost) => eprintln!("missed {lost}"),
//!         other => println!("{:?} {other}", event.pid()),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! # Supervision
//! With the feature `supervisor`, `kmonitor::supervisor` keeps processes and tasks
//! running as a tree, and stops them with nothing left behind.
//!
//! # What works where
//! | | *host*: the connector works | *container*: it does not | *restricted*: `pidfd_open` is blocked |
//! |---|---|---|---|
//! | [`watch`] | yes | yes | by polling `/proc` |
//! | [`Hub`], exits of named processes | yes | yes, a descriptor each | no |
//! | [`Hub`], forks, execs, trees, the whole host | yes | refused, with the reason | no |
//! | minimum kernel | 6.6 (before: `CAP_NET_ADMIN`) | 5.3; identity by inode 6.9; status of a stranger 6.15 | any |
#![forbid(unsafe_code)]

pub use kmonitor_event::*;
pub use kmonitor_hub::{
    Closed, Filter, HOLDS_MAX_DEFAULT, Hub, HubBuilder, HubCapabilities, HubStats, OpenError,
    QUEUE_EVENTS_DEFAULT, STATUS_GRACE_DEFAULT, SubscribeError, Subscription, WatchMode,
};
pub use kmonitor_pidfd::{Watch, watch};
pub use kmonitor_source as source;
pub use kmonitor_source::{
    EventSource, IntoTarget, ProcessProbe, SourceKind, Target, TargetError, WatchError,
};

/// The proc connector with settings of one's own (latency budget, size of the
/// kernel's queue), for [`HubBuilder::source`].
pub use kmonitor_connector as connector;

/// pidfd primitives: opening, readiness, exit status, identity, signalling.
pub use kmonitor_pidfd as pidfd;

/// Events as queued signals, for programs that were written for kmonitor 2004.
#[cfg(feature = "signal")]
pub use kmonitor_signal as signal;

/// Supervision trees over processes and tasks: keeping them running, and stopping them.
#[cfg(feature = "supervisor")]
pub use kmonitor_supervisor as supervisor;

/// The watch that a hub gives: [`Hub::watch`].
pub use kmonitor_hub::Watch as HubWatch;

/// What the README shows, compiled.
#[cfg(all(doctest, feature = "supervisor"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
