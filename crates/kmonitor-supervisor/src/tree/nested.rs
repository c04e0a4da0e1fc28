//! A supervisor as its parent sees it: something that is told to stop.

use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::Signal;
use crate::backend::{Reach, Running, Survivor};
use crate::words::ChildReport;

/// How urgently a supervisor is asked to end; never less than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Ask {
    #[default]
    Nothing,
    Stop,
    Kill,
}

/// Where a supervisor leaves what its children's end was like, for the one above.
pub(super) type Leavings = Arc<Mutex<Vec<ChildReport>>>;

pub(super) struct Nested {
    pub(super) ask: watch::Sender<Ask>,
    pub(super) leavings: Leavings,
}

impl Nested {
    fn ask(&self, what: Ask) {
        self.ask.send_if_modified(|ask| {
            let more = what > *ask;
            *ask = what.max(*ask);
            more
        });
    }
}

impl Running for Nested {
    fn signal(&self, _: &[Signal], _: Reach) -> BoxFuture<'static, io::Result<()>> {
        self.ask(Ask::Stop);
        ready(Ok(())).boxed()
    }

    fn kill(&self) {
        self.ask(Ask::Kill);
    }

    fn survivors(&self) -> BoxFuture<'static, Vec<Survivor>> {
        let left = self.leavings.lock().unwrap_or_else(PoisonError::into_inner);
        let survivors = left.iter().flat_map(|child| child.survivors.clone());
        ready(survivors.collect()).boxed()
    }
}
