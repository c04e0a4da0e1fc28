//! The handle on an incarnation, and what its task shares with it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::leader::Leader;
use super::scope::Scope;
use crate::Signal;
use crate::backend::{Reach, Running, Survivor};

/// How many signals are kept for a child that is not started yet.
const KEPT_MAX: usize = 64;

/// What both sides see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    kill: bool,
    kept: Vec<(Signal, Reach)>,
    stage: Stage,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Before,
    Live(Live),
    Over,
}

#[derive(Debug, Clone)]
struct Live {
    leader: Arc<Leader>,
    scope: Arc<Scope>,
}

impl Live {
    fn signal(&self, signal: Signal, reach: Reach) -> io::Result<()> {
        match reach {
            Reach::Leader => self.leader.signal(signal),
            Reach::Scope => self.scope.signal(&self.leader, signal),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was told to be killed.
    pub(super) fn is_killed(&self) -> bool {
        self.state().kill
    }

    /// Waits until it is.
    pub(super) async fn killed(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_killed() {
                return;
            }
            changed.await;
        }
    }

    /// It exists: what was kept for it is sent.
    pub(super) fn begin(&self, leader: Arc<Leader>, scope: Arc<Scope>) {
        let mut state = self.state();
        let live = Live { leader, scope };
        for (signal, reach) in std::mem::take(&mut state.kept) {
            if let Err(error) = live.signal(signal, reach) {
                tracing::warn!(%error, %signal, "cannot send what was kept until the start");
            }
        }
        state.stage = Stage::Live(live);
    }

    /// Nothing is left of it. From now on no signal is sent: its numbers may be
    /// another's.
    pub(super) fn end(&self) {
        self.state().stage = Stage::Over;
    }
}

/// The handle.
#[derive(Debug)]
pub(super) struct LinuxRunning(pub(super) Arc<Shared>);

impl Running for LinuxRunning {
    fn signal(&self, signal: Signal, reach: Reach) -> io::Result<()> {
        // Under the lock, so that it does not end meanwhile.
        let mut state = self.0.state();
        match &state.stage {
            Stage::Live(live) => live.signal(signal, reach),
            Stage::Over => Ok(()),
            Stage::Before if state.kept.len() < KEPT_MAX => {
                state.kept.push((signal, reach));
                Ok(())
            }
            Stage::Before => Err(io::ErrorKind::QuotaExceeded.into()),
        }
    }

    fn kill(&self) {
        self.0.state().kill = true;
        self.0.changed.notify_waiters();
    }

    fn survivors(&self) -> Vec<Survivor> {
        let live = match &self.0.state().stage {
            Stage::Live(live) => live.clone(),
            _ => return Vec::new(),
        };
        live.scope.survivors(&live.leader)
    }
}
