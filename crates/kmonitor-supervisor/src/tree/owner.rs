//! Who holds a tree.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::{mpsc, oneshot, watch};

use super::board::Board;
use super::command::REQUESTS_MAX;
use super::driver::{Driver, Surroundings};
use super::handle::Handle;
use super::nested::Ask;
use super::outcome::Outlet;
use super::plan::Plan;
use crate::backend::Backend;
use crate::spec::ChildPath;
use crate::words::{End, Report, StartTreeError};

/// A tree that runs.
///
/// Dropping it asks for a shutdown, which then goes on in the background for as long as
/// the runtime lives; to be sure that nothing is left behind, await
/// [`shutdown`](Self::shutdown).
#[derive(Debug)]
#[must_use = "a tree that is dropped is shut down"]
pub struct Tree {
    handle: Handle,
    is_up: Shared<oneshot::Receiver<()>>,
    report: watch::Receiver<Option<Arc<Report>>>,
}

impl Tree {
    pub(super) fn begin(plan: &Plan, backend: Arc<dyn Backend>) -> Self {
        let path = ChildPath::root(&plan.name);
        let board = Board::new(path.clone());
        let (commands, inbox) = mpsc::channel(REQUESTS_MAX);
        let (ask, asked) = watch::channel(Ask::Nothing);
        let (up, is_up) = oneshot::channel();
        let (report, reported) = watch::channel(None);
        let around = Surroundings {
            path,
            backend,
            board: Arc::clone(&board),
            commands: inbox,
            ask: asked,
            outlet: Outlet::Owner {
                up: Some(up),
                report,
            },
        };
        tokio::spawn(Driver::new(plan, around).run());
        Self {
            handle: Handle {
                board,
                commands,
                ask: Arc::new(ask),
            },
            is_up: is_up.shared(),
            report: reported,
        }
    }

    /// Waits until every child that is to be up has been ready at one time. At once, if that
    /// was before.
    ///
    /// # Errors
    /// It ended before that: a child was not ready in time, did not start, or was
    /// restarted too often; or it was asked to. All children were stopped again.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn ready(&self) -> Result<(), StartTreeError> {
        match self.is_up.clone().await {
            Ok(()) => Ok(()),
            Err(_) => Err(StartTreeError::Ended(self.wait().await)),
        }
    }

    /// To ask it and tell it what to do.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until it has ended: it was asked to, gave up, or ended with a significant
    /// child.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait(&self) -> Arc<Report> {
        let mut report = self.report.clone();
        let report = report.wait_for(Option::is_some).await;
        report
            .ok()
            .and_then(|report| report.clone())
            .unwrap_or_else(lost)
    }

    /// Stops all children, in reverse order, each by its ladder. Resolves when all are
    /// gone or were given up; the report says which.
    ///
    /// # Cancel safety
    /// Dropped, the shutdown goes on; called again, it is waited for.
    pub async fn shutdown(&self) -> Arc<Report> {
        self.handle.shutdown();
        self.wait().await
    }

    /// The same without any grace.
    ///
    /// # Cancel safety
    /// As [`shutdown`](Self::shutdown).
    pub async fn shutdown_now(&self) -> Arc<Report> {
        self.handle.shutdown_now();
        self.wait().await
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

fn lost() -> Arc<Report> {
    Arc::new(Report {
        end: End::Lost,
        children: Vec::new(),
        took: Duration::ZERO,
    })
}
