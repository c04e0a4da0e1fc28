//! A supervisor as its parent sees it: something that is told to stop.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

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
    fn signal(&self, _: Signal, _: Reach) -> io::Result<()> {
        self.ask(Ask::Stop);
        Ok(())
    }

    fn kill(&self) {
        self.ask(Ask::Kill);
    }

    fn survivors(&self) -> Vec<Survivor> {
        let left = self.leavings.lock().unwrap_or_else(PoisonError::into_inner);
        left.iter()
            .flat_map(|child| child.survivors.clone())
            .collect()
    }
}
