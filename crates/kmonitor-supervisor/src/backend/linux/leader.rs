//! A child's own process: its end, and who reaps it.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kmonitor_event::{Status, UnknownReason};
use kmonitor_hub::Hub;
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::io::Errno;
use rustix::process::{Signal as NamedSignal, kill_process_group};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use super::identity::Identity;
use super::procfs;
use super::reap::reap;
use crate::Signal;
use crate::sys::{self, SharedPidfd};

/// Between two looks at a process that the reactor does not take.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(5);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A child's own process, held by a pidfd: a signal reaches it or nobody.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) identity: Identity,
    pub(super) pidfd: Arc<Pidfd>,
    /// Whether it is ours to reap: we forked it. Until we have, its pid and its
    /// group's number belong to it.
    pub(super) ours: bool,
    /// It was there before. Those it is with may be the application's own children.
    pub(super) adopted: bool,
    /// Whether it was another's child when it was adopted. One that was ours then is
    /// the application's to reap.
    stranger: bool,
    /// Its numbers (pid, group) are its own no longer. Held while one of them is used.
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
    /// One that this program forked.
    pub(super) fn spawned(pidfd: Arc<Pidfd>) -> Self {
        Self::new(pidfd, true, false)
    }

    /// One that was there, or that a former run had adopted.
    pub(super) fn adopted(pidfd: Arc<Pidfd>) -> Self {
        Self::new(pidfd, false, true)
    }

    /// One that a former run forked.
    pub(super) fn recovered(pidfd: Arc<Pidfd>) -> Self {
        // Of this very program, by an earlier backend; or it came to us from one that
        // died.
        let stat = procfs::stat(pidfd.pid().as_raw());
        let ours = stat.is_some_and(|stat| stat.parent == procfs::own_pid());
        Self::new(pidfd, ours, false)
    }

    fn new(pidfd: Arc<Pidfd>, ours: bool, adopted: bool) -> Self {
        let identity = Identity::of(&pidfd);
        let parent = procfs::stat(identity.pid.as_raw()).map(|stat| stat.parent);
        Self {
            identity,
            pidfd,
            ours,
            adopted,
            stranger: parent.is_some_and(|parent| parent != procfs::own_pid()),
            retired: Mutex::new(false),
        }
    }

    /// Where it cannot be found out, it is taken to live.
    pub(super) fn is_dead(&self) -> bool {
        matches!(
            self.pidfd.readiness(),
            Ok(Readiness::Zombie | Readiness::Reaped)
        )
    }

    /// Sends a signal; one that is gone is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        send(&self.pidfd, signal)
    }

    /// Sends signals, in this order. The first refusal is told; the others are sent.
    pub(super) fn signals(&self, signals: &[Signal]) -> io::Result<()> {
        send_all(&self.pidfd, signals)
    }

    /// Sends a signal to its group at once, so that a fork that is under way begins anew
    /// and its child gets it too. `false` where that is not possible.
    pub(super) fn signal_group(&self, signal: Signal) -> io::Result<bool> {
        if !knows_groups(&self.pidfd) {
            return self.signal_group_by_number(signal);
        }
        match self.pidfd.send_signal_to_group(signal.as_raw()) {
            // One that was adopted may have left its group.
            Err(error) if is(&error, Errno::SRCH) => self.signal(signal).map(|()| true),
            // Also where others stayed in it. Asked after it was sent: who leaves just now
            // rather gets it twice than not at all.
            Ok(()) if self.has_left_its_group() => self.signal(signal).map(|()| true),
            result => result.map(|()| true),
        }
    }

    /// Only one that was adopted can: what we start leads a session, and stays.
    fn has_left_its_group(&self) -> bool {
        let pid = self.identity.pid.as_raw();
        self.adopted && procfs::stat(pid).is_some_and(|stat| stat.group != pid)
    }

    /// Whether anybody is in its group, be it dead and not reaped. `None` where the kernel
    /// does not tell (before 6.9): then the group is known by its number only.
    pub(super) fn has_group(&self) -> Option<bool> {
        if !knows_groups(&self.pidfd) {
            return None;
        }
        match self.pidfd.send_signal_to_group(0) {
            Err(error) => Some(!is(&error, Errno::SRCH)),
            Ok(()) => Some(true),
        }
    }

    /// Only of one that is ours to reap, and not of signals without a name.
    fn signal_group_by_number(&self, signal: Signal) -> io::Result<bool> {
        let Some(signal) = NamedSignal::from_named_raw(signal.as_raw()).filter(|_| self.ours)
        else {
            return Ok(false);
        };
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = rustix::process::Pid::from_raw(self.identity.pid.as_raw()) else {
            return Ok(false);
        };
        // Who else reaps our children breaks a rule, but must not make us harm others.
        let is_its = !*retired && !matches!(self.pidfd.readiness(), Ok(Readiness::Reaped));
        match is_its.then(|| kill_process_group(group, signal)) {
            Some(Err(errno)) if errno != Errno::SRCH => Err(errno.into()),
            _ => Ok(true),
        }
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
                ended(&self.pidfd).await;
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
        ended(&self.pidfd).await;
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

    /// Reaps it when that can be done, if it could not be: who is traced when it dies is its
    /// tracer's first, and then its parent is told once more. Within a runtime.
    pub(super) fn reap_later(self: &Arc<Self>) {
        let is_left = |leader: &Self| matches!(leader.pidfd.readiness(), Ok(Readiness::Zombie));
        // A stranger's parent reaps it, and we are not told of that, unless it came to us.
        let is_child = self.ours || {
            let stat = procfs::stat(self.identity.pid.as_raw());
            self.stranger && stat.is_some_and(|stat| stat.parent == procfs::own_pid())
        };
        if !is_child || !is_left(self) {
            return;
        }
        let Ok(mut children) = signal(SignalKind::child()) else {
            return;
        };
        let leader = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                leader.reap();
                if !is_left(&leader) || children.recv().await.is_none() {
                    return;
                }
            }
        });
    }

    /// From now on its numbers are not used: it is about to be reaped. A round of
    /// killing goes on in its thread when nobody waits for it any more.
    pub(super) fn retire(&self) {
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Sends a signal to a process that is held; one that is gone is no error.
pub(super) fn send(pidfd: &Pidfd, signal: Signal) -> io::Result<()> {
    match pidfd.send_signal(signal.as_raw()) {
        Err(error) if is(&error, Errno::SRCH) => Ok(()),
        result => result,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// Whether signals to groups by pidfd work here: the kernel is new enough, and nobody
/// (seccomp, say) stands in between. Asked until there is an answer.
fn knows_groups(held: &Pidfd) -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return *known;
    }
    match ask_for_groups(held) {
        Some(answer) => *KNOWN.get_or_init(|| answer),
        None => false,
    }
}

/// `None`: for want of a descriptor it is not known.
fn ask_for_groups(held: &Pidfd) -> Option<bool> {
    let ask = |pidfd: &Pidfd| match pidfd.send_signal_to_group(0) {
        Ok(()) => Some(true),
        Err(error) if is(&error, Errno::SRCH) => Some(true),
        Err(error) if is(&error, Errno::INVAL) => Some(false),
        Err(_) => None,
    };
    // No descriptor is needed to ask of one that is held. Where that is not allowed it is
    // asked of ourselves.
    ask(held).or_else(|| {
        let myself = Pidfd::open(kmonitor_event::Pid::current()).ok()?;
        Some(ask(&myself).unwrap_or(false))
    })
}

/// The same, in this order. The first refusal is told; the others are sent.
pub(super) fn send_all(pidfd: &Pidfd, signals: &[Signal]) -> io::Result<()> {
    let mut result = Ok(());
    for signal in signals {
        result = result.and(send(pidfd, *signal));
    }
    result
}

/// Waits until a process is dead, and ends for no other reason: where the reactor does
/// not take it, it is looked at again and again.
pub(super) async fn ended(pidfd: &Arc<Pidfd>) {
    ended_by(pidfd, sys::register_pidfd).await;
}

async fn ended_by(
    pidfd: &Arc<Pidfd>,
    register: impl Fn(Arc<Pidfd>) -> io::Result<AsyncFd<SharedPidfd>>,
) {
    let mut pause = LOOK_PAUSE_MIN;
    while let Err(error) = told_of_end(pidfd, &register).await {
        if pause == LOOK_PAUSE_MIN {
            tracing::warn!(%error, pid = %pidfd.pid(), "cannot wait for a process: looking at it");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_PAUSE_MAX);
    }
}

async fn told_of_end(
    pidfd: &Arc<Pidfd>,
    register: impl Fn(Arc<Pidfd>) -> io::Result<AsyncFd<SharedPidfd>>,
) -> io::Result<()> {
    if pidfd.readiness()? != Readiness::Alive {
        return Ok(());
    }
    let registered = register(Arc::clone(pidfd))?;
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
    use super::*;
    use kmonitor_event::Pid;
    use std::cell::Cell;

    fn sleeper() -> (std::process::Child, Arc<Pidfd>) {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new("sleep");
        let child = command.arg("60").process_group(0).spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        (child, Arc::new(Pidfd::open(pid).unwrap()))
    }

    /// As where the reactor may watch no more descriptors.
    #[tokio::test]
    async fn a_process_that_cannot_be_waited_for_has_not_ended() {
        let (mut child, pidfd) = sleeper();
        let refusals = Cell::new(0);
        let register = |pidfd| {
            refusals.set(refusals.get() + 1);
            match refusals.get() {
                1..=3 => Err(Errno::NOSPC.into()),
                _ => sys::register_pidfd(pidfd),
            }
        };
        let mut ended = std::pin::pin!(ended_by(&pidfd, register));
        while refusals.get() < 4 {
            let early = tokio::time::timeout(Duration::from_millis(1), &mut ended).await;
            assert!(early.is_err(), "it lives");
        }
        child.kill().unwrap();
        ended.await;
        child.wait().unwrap();
    }

    /// The group is there as long as anybody is in it, and is reached so long.
    #[test]
    fn a_group_outlives_its_leader() {
        use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
        let (_child, pidfd) = sleeper();
        let group = pidfd.pid().as_raw();
        let leader = Leader::spawned(pidfd);
        let mut other = std::process::Command::new("sleep");
        let mut other = other.arg("60").process_group(group).spawn().unwrap();
        if leader.has_group().is_none() {
            // Before 6.9.
            other.kill().unwrap();
            return drop(other.wait());
        }
        leader.signal(Signal::KILL).unwrap();
        while !leader.is_dead() {
            std::thread::yield_now();
        }
        leader.reap();
        assert_eq!(leader.has_group(), Some(true));
        assert!(leader.signal_group(Signal::TERM).unwrap());
        assert_eq!(other.wait().unwrap().signal(), Some(15));
        assert_eq!(leader.has_group(), Some(false));
        assert!(leader.signal_group(Signal::KILL).unwrap());
    }

    /// A round of killing can be carried out late, when the number is another's.
    #[test]
    fn a_group_is_not_signalled_by_number_once_its_leader_is_reaped() {
        use std::os::unix::process::CommandExt as _;
        let (mut child, pidfd) = sleeper();
        let leader = Leader::spawned(pidfd);
        // Keeps the group's number in use.
        let mut other = std::process::Command::new("sleep");
        let group = child.id() as i32;
        let mut other = other.arg("60").process_group(group).spawn().unwrap();
        leader.signal(Signal::KILL).unwrap();
        while !leader.is_dead() {
            std::thread::yield_now();
        }
        leader.reap();
        assert!(leader.signal_group_by_number(Signal::TERM).unwrap());
        other.kill().unwrap();
        let status = other.wait().unwrap();
        // That of the first fatal signal.
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        // It was reaped by us.
        child.wait().unwrap_err();
    }
}
