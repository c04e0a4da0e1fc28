//! What handles ask of the dispatcher: a closed set.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use kmonitor_event::{EventMask, ProcessKey, ProcessRef};
use kmonitor_source::{HeldProcess, Identity, Scope, WatchError};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::{Closed, SubscribeError};
use crate::filter::Filter;
use crate::latch::Latch;
use crate::queue::Queue;
use crate::router::SubscriptionId;
use crate::stats::HubStats;
use crate::sync::Mutex;
use crate::watch::WatchMode;

/// How many commands may wait; who sends one more waits himself.
pub(crate) const COMMANDS_MAX: usize = 1024;

pub(crate) type Reply<T> = oneshot::Sender<T>;

pub(crate) enum Command {
    Subscribe {
        filter: Filter,
        reply: Reply<Result<SubscriptionLease, SubscribeError>>,
    },
    Add {
        id: SubscriptionId,
        process: ProcessRef,
        follow: Follow,
        reply: Reply<Result<(), SubscribeError>>,
    },
    Remove {
        id: SubscriptionId,
        process: ProcessRef,
        reply: Reply<Result<bool, SubscribeError>>,
    },
    Narrow {
        id: SubscriptionId,
        processes: Vec<ProcessKey>,
        to: Narrow,
        reply: Reply<Result<(), SubscribeError>>,
    },
    SetMask {
        id: SubscriptionId,
        events: EventMask,
        reply: Reply<Result<(), SubscribeError>>,
    },
    Watch {
        process: ProcessRef,
        /// Its inode says who is meant (from Linux 6.9 on) as long as it is open.
        pidfd: Option<OwnedFd>,
        mode: WatchMode,
        reply: Reply<Result<WatchLease, WatchError>>,
    },
    Stats {
        reply: Reply<HubStats>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// Which relatives of a process are added with it, the fewest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Follow {
    Nobody,
    /// Those that descend from it from now on.
    Births,
    /// All its descendants.
    Tree,
}

impl Follow {
    /// What a source must be able to see.
    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Nobody => Scope::Named,
            Self::Births | Self::Tree => Scope::Tree,
        }
    }
}

/// What becomes of members that are wanted less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrow {
    /// They leave.
    Out,
    /// Their children from now on are none.
    Childless,
}

/// What was dropped and not swept up yet: handles say so here, without waiting.
#[derive(Default)]
pub(crate) struct Sweep {
    dropped: Mutex<Vec<Dropped>>,
    notify: Notify,
}

pub(crate) enum Dropped {
    Subscription(SubscriptionId),
    Watch(ProcessKey, Arc<Latch>),
}

impl Sweep {
    pub(crate) fn push(&self, dropped: Dropped) {
        self.dropped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(dropped);
        self.notify.notify_one();
    }

    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<Dropped> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A subscription's place, given back when dropped: also where the answer to the
/// call that asked for it is dropped unread.
pub(crate) struct SubscriptionLease {
    pub(crate) id: SubscriptionId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) sweep: Arc<Sweep>,
}

impl Drop for SubscriptionLease {
    fn drop(&mut self) {
        self.sweep.push(Dropped::Subscription(self.id));
    }
}

/// A watch's place, given back when dropped.
pub(crate) struct WatchLease {
    pub(crate) key: ProcessKey,
    pub(crate) identity: Identity,
    pub(crate) latch: Arc<Latch>,
    /// Where that was asked for.
    pub(crate) held: Option<Box<dyn HeldProcess>>,
    pub(crate) sweep: Arc<Sweep>,
}

impl Drop for WatchLease {
    fn drop(&mut self) {
        let latch = Arc::clone(&self.latch);
        self.sweep.push(Dropped::Watch(self.key, latch));
    }
}

/// The way to the dispatcher, shared by all handles. When the last one goes, the
/// dispatcher ends.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) commands: mpsc::Sender<Command>,
    /// Why the dispatcher ended, once it has.
    pub(crate) ended: Arc<Mutex<Option<String>>>,
}

impl Line {
    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Closed> {
        if let Ok(place) = self.commands.reserve().await {
            let (reply, mut answer) = oneshot::channel();
            place.send(command(reply));
            // Not the answer alone: a command that is sent while the receiver goes stays
            // in the channel, its reply with it, as long as there is a handle.
            let answered = tokio::select! {
                biased;
                answered = &mut answer => answered.ok(),
                () = self.commands.closed() => answer.try_recv().ok(),
            };
            if let Some(answer) = answered {
                return Ok(answer);
            }
            // Left unanswered because the dispatcher is ending: by the time that
            // it is gone it has said why.
            self.commands.closed().await;
        }
        Err(Closed {
            reason: self.why_ended(),
        })
    }

    fn why_ended(&self) -> String {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone().unwrap_or_else(|| "it was closed".to_owned())
    }
}

#[cfg(all(test, not(kmonitor_loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_is_sent_while_the_dispatcher_goes_does_not_wait_for_ever() {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let ended = Arc::default();
        let line = Line { commands, ended };
        let asked = line.ask(|reply| {
            drop(receiver);
            Command::Stats { reply }
        });
        let asked = tokio::time::timeout(std::time::Duration::from_secs(1), asked).await;
        let closed = asked.expect("nobody will answer").unwrap_err();
        assert_eq!(closed.reason, "it was closed");
    }

    #[tokio::test]
    async fn what_was_answered_before_the_dispatcher_went_is_told() {
        let (commands, mut receiver) = mpsc::channel(COMMANDS_MAX);
        let ended = Arc::default();
        let line = Line { commands, ended };
        let answering = async move {
            if let Some(Command::Stats { reply }) = receiver.recv().await {
                reply.send(HubStats::default()).unwrap();
            }
        };
        let asked = line.ask(|reply| Command::Stats { reply });
        let (asked, ()) = tokio::join!(asked, answering);
        asked.unwrap();
    }
}
