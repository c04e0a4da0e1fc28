//! The hub's handle, and how one is opened.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use kmonitor_event::ProcessRef;
use kmonitor_source::{
    Capabilities, EventSource, IntoTarget, ProcessProbe, Reach, SourceKind, StartError, Target,
    WatchError,
};
use tokio::sync::{mpsc, oneshot};

use crate::command::{COMMANDS_MAX, Command, Line, Sweep};
use crate::dispatcher::Dispatcher;
use crate::error::{Closed, OpenError, SubscribeError};
use crate::filter::Filter;
use crate::open::{Choice, Opened, open};
use crate::stats::HubStats;
use crate::subscription::Subscription;
use crate::sync::Mutex;
use crate::tracker::{Tracker, TrackerConfig};
use crate::watch::{Watch, WatchMode};

/// How long a death waits for its status unless told otherwise.
pub const STATUS_GRACE_DEFAULT: Duration = Duration::from_secs(1);

/// How many processes a hub holds by a descriptor at most, unless told otherwise.
pub const HOLDS_MAX_DEFAULT: usize = 1024;

/// The part of the process's descriptors that a hub may hold: one in so many.
const HOLDS_SHARE: usize = 4;

/// Watches processes through one event source, for any number of subscribers.
///
/// A cheap handle: clones share one hub, which ends when the last handle,
/// subscription and watch is gone. Nothing is asked of the kernel while nobody
/// subscribes.
///
/// ```no_run
/// use kmonitor_event::{EventKind, EventMask, Pid};
/// use kmonitor_hub::{Filter, Hub};
///
/// # async fn run(pid: Pid) -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Hub::open().await?;
/// let mut events = hub
///     .subscribe(Filter::tree(pid).events(EventMask::EXEC | EventMask::EXIT))
///     .await?;
/// while let Some(event) = events.next().await {
///     if let EventKind::Lost(lost) = event.kind {
///         eprintln!("missed: {lost}");
///     }
///     println!("{event}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub {
    line: Line,
    shared: Arc<Shared>,
}

struct Shared {
    capabilities: HubCapabilities,
    probe: Arc<dyn ProcessProbe>,
}

/// What a hub can see, and why no better source was chosen.
#[derive(Debug)]
#[non_exhaustive]
pub struct HubCapabilities {
    /// What the open source can see.
    pub source: Capabilities,
    /// The better sources that do not work here, and why.
    pub passed_over: Vec<StartError>,
}

impl Hub {
    /// Opens a hub on the best source that works here: the proc connector, else
    /// pidfds. [`capabilities`](Self::capabilities) says which, and why.
    ///
    /// # Errors
    /// None works.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing stays open.
    pub async fn open() -> Result<Self, OpenError> {
        Self::builder().open().await
    }

    /// A hub to one's own liking.
    #[must_use]
    pub fn builder() -> HubBuilder {
        HubBuilder::new()
    }

    /// Subscribes to events. The subscription is live in the kernel when this
    /// returns: nothing that happens after it is missed.
    ///
    /// A named process that is a zombie is reported as ended. All or nothing: if
    /// one of the named processes cannot be subscribed to, none is.
    ///
    /// # Errors
    /// The source cannot serve the filter, a named process is gone or may not be
    /// looked at, or the hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, there is no subscription.
    pub async fn subscribe(&self, filter: Filter) -> Result<Subscription, SubscribeError> {
        let asked = self.line.ask(|reply| Command::Subscribe { filter, reply });
        match asked.await {
            Ok(lease) => Ok(Subscription::new(lease?, self.line.clone())),
            Err(Closed { reason }) => Err(SubscribeError::Closed { reason }),
        }
    }

    /// Watches one process for its end: any process that may be seen, not only
    /// children. It is named by a pid, `"PID:INODE"`, a pidfd or a child.
    ///
    /// Holds no descriptor per watch by promise. In practice the hub holds the
    /// first [`HOLDS_MAX_DEFAULT`] processes it is asked to watch by a pidfd, as
    /// long as descriptors allow, because only that gives the right status of a
    /// process whose threads end differently and which is reaped at once. To have one
    /// held whatever others hold: [`watch_with`](Self::watch_with).
    ///
    /// # Errors
    /// The process is gone ([`WatchError::is_gone`]), is no process, or may not
    /// be looked at; or the hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing is watched.
    pub async fn watch(&self, target: impl IntoTarget) -> Result<Watch, WatchError> {
        self.watch_with(target, WatchMode::default()).await
    }

    /// As [`watch`](Self::watch), with a descriptor of its own or without: see
    /// [`WatchMode`].
    ///
    /// # Errors
    /// As [`watch`](Self::watch); and [`WatchError::NotHeld`] where a pidfd was asked for
    /// and cannot be had.
    ///
    /// # Cancel safety
    /// As [`watch`](Self::watch).
    pub async fn watch_with(
        &self,
        target: impl IntoTarget,
        mode: WatchMode,
    ) -> Result<Watch, WatchError> {
        let (process, pidfd) = match target.into_target()? {
            Target::Process(process) => (process, None),
            Target::Pidfd(fd) => {
                let (process, fd) = process_of(fd)?;
                (process, Some(fd))
            }
            _ => return Err(WatchError::NotAPidfd),
        };
        let asked = self.line.ask(|reply| Command::Watch {
            process,
            pidfd,
            mode,
            reply,
        });
        match asked.await {
            Ok(lease) => Ok(Watch::new(
                lease?,
                Arc::clone(&self.shared.probe),
                self.line.clone(),
            )),
            Err(Closed { reason }) => Err(WatchError::HubClosed { reason }),
        }
    }

    /// What this hub can see, and why no better source was chosen.
    #[must_use]
    pub fn capabilities(&self) -> &HubCapabilities {
        &self.shared.capabilities
    }

    /// Numbers about the hub.
    ///
    /// # Errors
    /// The hub is closed.
    ///
    /// # Cancel safety
    /// Has no effect to be cancelled.
    pub async fn stats(&self) -> Result<HubStats, Closed> {
        self.line.ask(|reply| Command::Stats { reply }).await
    }

    /// Closes the hub for all its handles: stops listening, hands out what was
    /// queued, and ends all streams. Watches of processes that live fail.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, the hub may close all the same.
    pub async fn close(self) {
        // Closed already is as good.
        let _ = self.line.ask(|reply| Command::Close { reply }).await;
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("capabilities", &self.shared.capabilities)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "pidfd")]
fn process_of(fd: std::os::fd::OwnedFd) -> Result<(ProcessRef, std::os::fd::OwnedFd), WatchError> {
    let pidfd = kmonitor_pidfd::Pidfd::from_fd(fd)?;
    let process = ProcessRef {
        pid: pidfd.pid(),
        inode: pidfd.inode(),
    };
    Ok((process, pidfd.into()))
}

#[cfg(not(feature = "pidfd"))]
fn process_of(_fd: std::os::fd::OwnedFd) -> Result<(ProcessRef, std::os::fd::OwnedFd), WatchError> {
    Err(WatchError::NotAPidfd)
}

/// Opens a [`Hub`] to one's own liking.
pub struct HubBuilder {
    choice: Choice,
    probe: Option<Arc<dyn ProcessProbe>>,
    current_runtime: bool,
    config: TrackerConfig,
}

impl HubBuilder {
    fn new() -> Self {
        Self {
            choice: Choice::Best,
            probe: None,
            current_runtime: false,
            config: TrackerConfig {
                status_grace: STATUS_GRACE_DEFAULT,
                holds_max: HOLDS_MAX_DEFAULT,
            },
        }
    }

    /// Uses this source instead of the best that works here. Unless a
    /// [`probe`](Self::probe) is given too, processes are looked at in the
    /// system the program runs on, whose clock (`CLOCK_MONOTONIC`) its facts must be
    /// stamped with then.
    #[must_use]
    pub fn source(mut self, source: impl EventSource + 'static) -> Self {
        self.choice = Choice::Given(Box::new(source));
        self
    }

    /// Uses the source of this kind or none.
    #[must_use]
    pub fn only(mut self, kind: SourceKind) -> Self {
        self.choice = Choice::Only(kind);
        self
    }

    /// Looks at processes by this probe.
    #[must_use]
    pub fn probe(mut self, probe: impl ProcessProbe + 'static) -> Self {
        self.probe = Some(Arc::new(probe));
        self
    }

    /// Runs the hub as a task of the caller's runtime, not on a thread of its
    /// own: for paused time, and for the lowest latency. A runtime that is
    /// blocked then blocks the hub, and the kernel's queue may overflow.
    #[must_use]
    pub fn on_current_runtime(mut self) -> Self {
        self.current_runtime = true;
        self
    }

    /// How long a death may wait for its status before it is reported as
    /// unknown; [`STATUS_GRACE_DEFAULT`] unless told.
    #[must_use]
    pub fn status_grace(mut self, grace: Duration) -> Self {
        self.config.status_grace = grace;
        self
    }

    /// How many processes the hub may hold by a descriptor;
    /// [`HOLDS_MAX_DEFAULT`] unless told, and never more than a quarter of the
    /// descriptors that the process may open. `None` for no holding at all.
    #[must_use]
    pub fn holds_max(mut self, holds: Option<NonZeroUsize>) -> Self {
        self.config.holds_max = holds.map_or(0, NonZeroUsize::get);
        self
    }

    /// Opens the hub.
    ///
    /// # Errors
    /// The chosen source does not work here, or the hub's thread or runtime
    /// cannot be had.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing stays open.
    pub async fn open(self) -> Result<Hub, OpenError> {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let sweep = Arc::new(Sweep::default());
        let ended = Arc::new(Mutex::new(None));
        let line = Line {
            commands: sender,
            ended: Arc::clone(&ended),
        };
        let (ready, opened) = oneshot::channel();
        let Self {
            choice,
            probe,
            current_runtime,
            config,
        } = self;
        let main = async move {
            let opened = match open(choice, probe).await {
                Ok(opened) => opened,
                Err(error) => {
                    // Whoever asked is gone: nobody needs the reason.
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let Opened {
                source,
                probe,
                passed_over,
            } = opened;
            let shared = Shared {
                capabilities: HubCapabilities {
                    source: source.capabilities().clone(),
                    passed_over,
                },
                probe: Arc::clone(&probe),
            };
            let grace = config.status_grace;
            let holds_max = match source.capabilities().reach {
                // Such a source holds what it watches itself.
                Reach::Named => 0,
                _ => config.holds_max.min(descriptors_max() / HOLDS_SHARE),
            };
            let tracker = Tracker::new(TrackerConfig {
                holds_max,
                ..config
            });
            let dispatcher = Dispatcher::new(source, probe, tracker, sweep, receiver, ended, grace);
            if ready.send(Ok(shared)).is_ok() {
                dispatcher.run().await;
            }
        };
        if current_runtime {
            let runtime =
                tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
            runtime.spawn(main);
        } else {
            spawn_thread(main)?;
        }
        let shared = opened.await.unwrap_or_else(|_| {
            let died = std::io::Error::other("it ended before the hub was open");
            Err(OpenError::Thread(died))
        })?;
        Ok(Hub {
            line,
            shared: Arc::new(shared),
        })
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// How many descriptors this process may open.
fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit
        .current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

fn spawn_thread(main: impl Future<Output = ()> + Send + 'static) -> Result<(), OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(OpenError::Thread)?;
    std::thread::Builder::new()
        .name("kmonitor-hub".to_owned())
        .spawn(move || runtime.block_on(main))
        .map_err(OpenError::Thread)?;
    Ok(())
}
