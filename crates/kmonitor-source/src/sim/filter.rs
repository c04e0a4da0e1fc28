//! The filter in the kernel: facts of processes that nobody wants are not queued.

use kmonitor_event::Pid;
use rustc_hash::FxHashSet;

use crate::{FactKind, KernelInterest};

/// By pid, as a socket filter compares: it knows of no incarnations. Bounded by
/// the interest.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// `None` lets everything pass.
    pids: Option<FxHashSet<Pid>>,
}

impl Filter {
    pub(super) fn set(&mut self, interest: &KernelInterest) {
        let named = interest.host().is_empty();
        self.pids = named.then(|| interest.iter_named().map(|(key, _)| key.pid()).collect());
    }

    pub(super) fn passes(&self, kind: &FactKind) -> bool {
        let Some(pids) = &self.pids else {
            return true;
        };
        match kind {
            FactKind::Forked { parent, child } => {
                parent.is_some_and(|parent| pids.contains(&parent)) || pids.contains(child)
            }
            FactKind::Lost { .. } => true,
            _ => kind
                .process()
                .is_some_and(|process| pids.contains(&process)),
        }
    }
}
