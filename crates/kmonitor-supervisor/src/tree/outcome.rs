//! To whom a supervisor reports that it is up, and that it has ended.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::nested::Leavings;
use crate::backend::Incarnation;
use crate::core::Told;
use crate::words::{End, Ending, Report};

pub(super) enum Outlet {
    /// The tree's owner.
    Owner {
        up: Option<oneshot::Sender<()>>,
        report: watch::Sender<Option<Arc<Report>>>,
    },
    /// The supervisor above.
    Parent {
        about: Incarnation,
        told: mpsc::UnboundedSender<(Incarnation, Told)>,
        leavings: Leavings,
        ended: bool,
    },
}

impl Outlet {
    pub(super) fn up(&mut self) {
        match self {
            Self::Owner { up, .. } => {
                if let Some(up) = up.take() {
                    let _ = up.send(());
                }
            }
            Self::Parent { about, told, .. } => {
                let _ = told.send((*about, Told::Ready));
            }
        }
    }

    pub(super) fn ended(&mut self, report: Report) {
        match self {
            Self::Owner { report: to, .. } => {
                to.send_replace(Some(Arc::new(report)));
            }
            Self::Parent {
                about,
                told,
                leavings,
                ended,
            } => {
                *ended = true;
                *leavings.lock().unwrap_or_else(PoisonError::into_inner) = report.children;
                let ending = Ending::Supervisor(report.end);
                let _ = told.send((*about, Told::Exited(ending)));
            }
        }
    }

    /// Nothing is left of it. Only a parent waits for that.
    pub(super) fn empty(&self) {
        if let Self::Parent { about, told, .. } = self {
            let _ = told.send((*about, Told::Empty));
        }
    }

    /// Resolves when nobody listens any more.
    pub(super) async fn closed(&self) {
        if let Self::Parent { told, .. } = self {
            told.closed().await;
        }
    }
}

impl Drop for Outlet {
    /// A supervisor whose task is dropped or panics still has an end.
    fn drop(&mut self) {
        let lost = || Report {
            end: End::Lost,
            children: Vec::new(),
            took: Duration::ZERO,
        };
        let without_end = match self {
            Self::Owner { report, .. } => report.borrow().is_none(),
            Self::Parent { ended, .. } => !*ended,
        };
        if without_end {
            self.ended(lost());
            self.empty();
        }
    }
}
