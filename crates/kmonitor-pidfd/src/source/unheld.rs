//! Processes that the source follows without a pidfd, because it has none to
//! spare: they are looked at by turns.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use kmonitor_event::{ProcessKey, Status, Timestamp, UnknownReason};
use kmonitor_source::{Fact, Identity, ProbeError, ProcessProbe, ProcessState};
use rustc_hash::FxHashMap;
use rustix::event::{EventfdFlags, eventfd};

use super::kept::Told;
use crate::LinuxProbe;
use crate::backoff::Backoff;

/// Time between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_millis(100);
/// Processes looked at in one round, some microseconds each.
const ROUND_LOOKS_MAX: usize = 1024;

/// All processes that are followed without a pidfd.
#[derive(Debug)]
pub(super) struct Unheld {
    waiting: FxHashMap<ProcessKey, Waiting>,
    /// Whose turn it is. May name processes that were forgotten, each once.
    turns: VecDeque<ProcessKey>,
    timer: Backoff,
    reserve: Reserve,
    probe: LinuxProbe,
    warned: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) identity: Option<Identity>,
    pub(super) told: Told,
}

impl Unheld {
    pub(super) fn new() -> Self {
        Self {
            waiting: FxHashMap::default(),
            turns: VecDeque::new(),
            timer: Backoff::new(ROUND_INTERVAL, ROUND_INTERVAL),
            reserve: Reserve::new(),
            probe: LinuxProbe::new(),
            warned: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn add(&mut self, key: ProcessKey, identity: Option<Identity>) {
        let told = Told::default();
        if self
            .waiting
            .insert(key, Waiting { identity, told })
            .is_none()
        {
            self.turns.push_back(key);
        }
    }

    pub(super) fn forget(&mut self, key: ProcessKey) -> Option<Waiting> {
        let forgotten = self.waiting.remove(&key);
        if self.waiting.is_empty() {
            self.turns.clear();
        }
        forgotten
    }

    /// Says once that not all is as it should be.
    pub(super) fn warn_once(&mut self, key: ProcessKey, error: &ProbeError) {
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                process = %key,
                %error,
                cause = std::error::Error::source(error).map(tracing::field::display),
                "cannot hold a pidfd for every watched process; polling for the rest"
            );
        }
    }

    /// Ready when a round is due.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll_tick(cx)
    }

    /// The processes whose turn it is; each must be given back by
    /// [`look`](Self::look) or be forgotten.
    pub(super) fn round(&mut self) -> Vec<ProcessKey> {
        let count = self.turns.len().min(ROUND_LOOKS_MAX);
        let mut round: Vec<_> = self.turns.drain(..count).collect();
        round.retain(|key| self.waiting.contains_key(key));
        round
    }

    pub(super) fn get(&self, key: ProcessKey) -> Option<Waiting> {
        self.waiting.get(&key).copied()
    }

    /// Looks at one process, tells what is new, and whether that was all.
    pub(super) fn look(&mut self, key: ProcessKey, push: &mut impl FnMut(Fact)) -> bool {
        let probe = self.probe;
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return true;
        };
        let state = self
            .reserve
            .with_released(|| look(probe, key, &mut waiting.identity));
        let now = Timestamp::now();
        match state {
            Ok(ProcessState::Alive) => {}
            Ok(ProcessState::Zombie(status)) => waiting.told.dead(key, status, now, push),
            Ok(ProcessState::Gone) => {
                let unseen = Status::Unknown(UnknownReason::NotObservable);
                waiting.told.reaped(key, unseen, now, push);
                self.waiting.remove(&key);
                return true;
            }
            // Perhaps the next time.
            Err(error) => self.warn_once(key, &error),
        }
        self.turns.push_back(key);
        false
    }
}

fn look(
    probe: LinuxProbe,
    key: ProcessKey,
    identity: &mut Option<Identity>,
) -> Result<ProcessState, ProbeError> {
    if identity.is_none() {
        // From now on it is this one.
        match probe.identify(key.pid()) {
            Ok(found) => *identity = Some(found),
            Err(error) if error.is_gone() => return Ok(ProcessState::Gone),
            Err(ProbeError::Thread { .. }) => return Ok(ProcessState::Gone),
            Err(error) => return Err(error),
        }
    }
    match probe.state(key.pid(), *identity) {
        // Pidfds have been forbidden since, and with them the inodes. Whoever
        // has the pid is taken for the process: late is better than never.
        Err(ProbeError::Io { source, .. }) if source.kind() == io::ErrorKind::Unsupported => {
            probe.state(key.pid(), None)
        }
        other => other,
    }
}

/// Descriptors kept open for nothing, to have some when all others are gone: a
/// look takes one for the pidfd and one for a file of `/proc`.
#[derive(Debug)]
struct Reserve([Option<OwnedFd>; 2]);

impl Reserve {
    fn new() -> Self {
        let mut reserve = Self([None, None]);
        reserve.fill();
        reserve
    }

    /// Calls while the descriptors of the reserve are free. Another thread may
    /// take them meanwhile; then the call may fail, and is tried again later.
    fn with_released<T>(&mut self, call: impl FnOnce() -> T) -> T {
        self.0 = [None, None];
        let result = call();
        self.fill();
        result
    }

    fn fill(&mut self) {
        for slot in &mut self.0 {
            // Without one the next look does with what it finds.
            *slot = eventfd(0, EventfdFlags::CLOEXEC).ok();
        }
    }
}
