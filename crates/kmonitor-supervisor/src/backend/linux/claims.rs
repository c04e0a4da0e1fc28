//! At most one incarnation of a path at a time: a new one waits until nothing is left of
//! the former, be it of another tree on the same backend.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::spec::ChildPath;

/// The paths that have an incarnation.
#[derive(Debug, Default, Clone)]
pub(super) struct Claims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<HashSet<ChildPath>>,
    freed: Notify,
}

/// A path is its holder's as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    of: Claims,
    path: ChildPath,
}

impl Claims {
    /// Waits until the path is nobody's.
    pub(super) async fn claim(&self, path: &ChildPath) -> Claim {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Registered before the look: what is freed after it is not missed.
            freed.as_mut().enable();
            if self.taken().insert(path.clone()) {
                return Claim {
                    of: self.clone(),
                    path: path.clone(),
                };
            }
            tracing::info!(child = %path, "waits until nothing is left of its former incarnation");
            freed.await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<ChildPath>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.of.taken().remove(&self.path);
        self.of.0.freed.notify_waiters();
    }
}
