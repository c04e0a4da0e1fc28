//! The handle on an incarnation, and what comes through it to the incarnation's task.
//!
//! Finding a scope's members can mean reading the whole process table, so nothing is
//! looked at here: what is asked is queued, and done by the task one after the other,
//! where blocking is allowed.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::io;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::leader::Leader;
use super::scope::Scope;
use crate::Signal;
use crate::ask::{answered, ask};
use crate::backend::{Reach, Running, Survivor};

/// How much may be asked before it is done; also of a child that is not started yet.
const ASKS_MAX: usize = 64;

/// What is asked of an incarnation.
#[derive(Debug)]
pub(super) enum Ask {
    Signals(Vec<Signal>, Reach, oneshot::Sender<io::Result<()>>),
    Survivors(oneshot::Sender<Vec<Survivor>>),
}

/// The handle.
#[derive(Debug)]
pub(super) struct LinuxRunning {
    asks: mpsc::Sender<Ask>,
    kill: CancellationToken,
    _abandons: DropGuard,
}

/// The other end of the handle.
#[derive(Debug)]
pub(super) struct Asked {
    asks: mpsc::Receiver<Ask>,
    /// What was asked before there was anybody to do it.
    early: Vec<Ask>,
    /// It is to be killed.
    pub(super) kill: CancellationToken,
    /// The handle is gone.
    abandoned: CancellationToken,
}

/// A handle, and its other end.
pub(super) fn handle() -> (LinuxRunning, Asked) {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let kill = CancellationToken::new();
    let abandoned = CancellationToken::new();
    let running = LinuxRunning {
        asks,
        kill: kill.clone(),
        _abandons: abandoned.clone().drop_guard(),
    };
    let asked = Asked {
        asks: asked,
        early: Vec::new(),
        kill,
        abandoned,
    };
    (running, asked)
}

impl Asked {
    /// While it is being started, which can take for ever (a program on a file system that
    /// does not answer): says that nobody is known to be there, and keeps the rest. Never
    /// ends.
    pub(super) async fn serve_start(&mut self) -> Infallible {
        while let Some(ask) = self.asks.recv().await {
            // Who asked may have stopped waiting.
            match ask {
                Ask::Survivors(done) => drop(done.send(Vec::new())),
                Ask::Signals(_, _, done) if self.early.len() >= ASKS_MAX => {
                    drop(done.send(Err(io::ErrorKind::QuotaExceeded.into())));
                }
                ask @ Ask::Signals(..) => self.early.push(ask),
            }
        }
        pending().await
    }

    /// Does what is asked for as long as it is polled.
    pub(super) async fn serve(mut self, leader: &Arc<Leader>, scope: &Arc<Scope>) {
        let killing = async {
            self.kill.cancelled().await;
            scope.kill(leader, &self.abandoned).await;
        };
        let answering = async {
            let mut early = std::mem::take(&mut self.early).into_iter();
            loop {
                let ask = match early.next() {
                    Some(ask) => Some(ask),
                    None => self.asks.recv().await,
                };
                let Some(ask) = ask else { break };
                let (leader, scope) = (Arc::clone(leader), Arc::clone(scope));
                let carried_out =
                    tokio::task::spawn_blocking(move || ask.carry_out(&leader, &scope));
                // It can only panic, which is told by the panic.
                let _ = carried_out.await;
            }
            pending::<()>().await;
        };
        tokio::join!(killing, answering);
    }
}

impl Ask {
    /// Blocks. Whoever has dropped the future does not want to know.
    fn carry_out(self, leader: &Leader, scope: &Scope) {
        match self {
            Self::Signals(signals, reach, done) => {
                let result = match reach {
                    Reach::Leader => leader.signals(&signals),
                    Reach::Scope => scope.signal(leader, &signals),
                };
                let _ = done.send(result);
            }
            Self::Survivors(done) => {
                let survivors = scope.survivors(leader).unwrap_or_else(|error| {
                    tracing::warn!(%error, pid = %leader.identity.pid, "it is not known who is left");
                    Vec::new()
                });
                let _ = done.send(survivors);
            }
        }
    }
}

impl Running for LinuxRunning {
    fn signal(&self, signals: &[Signal], reach: Reach) -> BoxFuture<'static, io::Result<()>> {
        let (done, result) = oneshot::channel();
        match self
            .asks
            .try_send(Ask::Signals(signals.to_vec(), reach, done))
        {
            Ok(()) => {
                let asks = self.asks.clone();
                // Without an answer nothing was left to be signalled.
                async move { answered(&asks, result).await.unwrap_or(Ok(())) }.boxed()
            }
            Err(mpsc::error::TrySendError::Closed(_)) => ready(Ok(())).boxed(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                ready(Err(io::ErrorKind::QuotaExceeded.into())).boxed()
            }
        }
    }

    fn kill(&self) {
        self.kill.cancel();
    }

    fn survivors(&self) -> BoxFuture<'static, Vec<Survivor>> {
        let asks = self.asks.clone();
        async move { ask(&asks, Ask::Survivors).await.unwrap_or_default() }.boxed()
    }
}
