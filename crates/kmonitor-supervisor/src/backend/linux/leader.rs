//! A child's own process: its end, and who reaps it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kmonitor_event::{Status, UnknownReason};
use kmonitor_hub::Hub;
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::process::{Signal as NamedSignal, kill_process_group};

use super::census::reap;
use super::identity::Identity;
use super::procfs;
use crate::Signal;
use crate::sys;

/// A child's own process, held by a pidfd: a signal reaches it or nobody.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) identity: Identity,
    pub(super) pidfd: Arc<Pidfd>,
    /// Whether it is ours to reap: we forked it. Until we have, its pid and its
    /// group's number belong to it.
    pub(super) ours: bool,
    /// Whether it was another's child when it was adopted. One that was ours then is
    /// the application's to reap.
    stranger: bool,
    /// Its numbers (pid, group) are its own no longer. Kept under a lock, so that who
    /// uses one is done before that.
    retired: Mutex<bool>,
}

/// By what means the end is learnt.
#[derive(Debug)]
pub(super) enum Ending {
    /// `waitid`, as its parent.
    Waited,
    /// The hub's events.
    Hub(kmonitor_hub::Watch),
    /// What the kernel tells the holder of a pidfd.
    Pidfd(kmonitor_pidfd::Watch),
}

impl Leader {
    pub(super) fn new(pidfd: Arc<Pidfd>, ours: bool) -> Self {
        let identity = Identity::of(&pidfd);
        let parent = procfs::stat(identity.pid.as_raw()).map(|stat| stat.parent);
        Self {
            identity,
            pidfd,
            ours,
            stranger: parent.is_some_and(|parent| parent != procfs::own_pid()),
            retired: Mutex::new(false),
        }
    }

    /// Sends a signal to its group, by the group's number: at once to all members.
    /// Nothing, once it is retired.
    pub(super) fn signal_group(&self, signal: NamedSignal) -> io::Result<()> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let group = rustix::process::Pid::from_raw(self.identity.pid.as_raw());
        match group.filter(|_| !*retired) {
            Some(group) => match kill_process_group(group, signal) {
                Err(errno) if errno != rustix::io::Errno::SRCH => Err(errno.into()),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// From now on its numbers are not used: it is about to be reaped. A round of
    /// killing goes on in its thread when nobody waits for it any more.
    pub(super) fn retire(&self) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        !matches!(self.pidfd.readiness(), Ok(Readiness::Alive))
    }

    /// Sends a signal; one that is gone is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        send(&self.pidfd, signal)
    }

    /// Begins to watch for the end. From then on its status is not missed.
    pub(super) async fn ending(&self, hub: Option<&Hub>) -> Ending {
        if self.ours {
            return Ending::Waited;
        }
        if let Some(hub) = hub {
            match hub.watch(self.identity.process_ref()).await {
                Ok(watch) => return Ending::Hub(watch),
                Err(error) => tracing::debug!(%error, "watching by pidfd instead"),
            }
        }
        Ending::Pidfd(kmonitor_pidfd::watch(self.identity.process_ref()))
    }

    /// Waits for the end, and says how it ended. Reaps nothing.
    pub(super) async fn ended(&self, ending: Ending) -> Status {
        let unknown = Status::Unknown(UnknownReason::NotObservable);
        let told = match ending {
            Ending::Waited => {
                if let Err(error) = ended(&self.pidfd).await {
                    tracing::error!(%error, pid = %self.identity.pid, "cannot wait for a pidfd");
                }
                None
            }
            Ending::Hub(mut watch) => match watch.settled().await {
                Ok(exit) => Some(exit.status),
                // The hub was closed, and the pidfd still tells.
                Err(_) => self.free_watch().await,
            },
            Ending::Pidfd(watch) => match watch.await {
                Ok(exit) => Some(exit.status),
                Err(_) => self.free_watch().await,
            },
        };
        let asked = || self.pidfd.status().ok().flatten().unwrap_or(unknown);
        match told {
            Some(status) if status.known().is_some() => status,
            Some(status) => match asked() {
                Status::Pending => status,
                better => better,
            },
            None => asked(),
        }
    }

    async fn free_watch(&self) -> Option<Status> {
        // By the descriptor that is held: the pid may be another's now.
        ended(&self.pidfd).await.ok()?;
        self.pidfd.status().ok().flatten()
    }

    /// Reaps it, once dead, if that is for us to do.
    pub(super) fn reap(&self) {
        // One that was adopted as another's child and came to us when that one died:
        // nobody else will.
        if self.ours || self.stranger {
            self.retire();
            reap(&self.pidfd);
        }
    }
}

/// Sends a signal to a process that is held; one that is gone is no error.
pub(super) fn send(pidfd: &Pidfd, signal: Signal) -> io::Result<()> {
    match pidfd.send_signal(signal.as_raw()) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(())
        }
        result => result,
    }
}

/// Waits until a process is dead.
pub(super) async fn ended(pidfd: &Arc<Pidfd>) -> io::Result<()> {
    if pidfd.readiness()? != Readiness::Alive {
        return Ok(());
    }
    let registered = sys::register_pidfd(Arc::clone(pidfd))?;
    loop {
        let mut ready = registered.readable().await?;
        if pidfd.readiness()? != Readiness::Alive {
            return Ok(());
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};

    use kmonitor_event::Pid;

    use super::*;

    /// A round of killing can still be under way, in a thread of the runtime's, when
    /// the scope is found empty and the leader is reaped: its group's number may be
    /// another's by then.
    #[test]
    fn a_groups_number_is_not_used_once_its_leader_is_retired() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let leader = Leader::new(Arc::new(Pidfd::open(pid).unwrap()), true);
        leader.retire();
        leader.signal_group(NamedSignal::KILL).unwrap();
        // Of two that are pending SIGKILL is the one that ends it.
        leader.signal(Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
}
