//! The threads of a process, and what they ended with.

use kmonitor_event::{Pid, Tid};
use rustc_hash::FxHashSet;

/// The live threads of a process: a set, never a count, because reports may
/// repeat or name tasks that were never announced.
#[derive(Debug, Clone)]
pub(super) struct ThreadSet {
    /// Boxed, because nearly every process has none.
    pub(super) others: Option<Box<FxHashSet<Tid>>>,
    pub(super) leader: bool,
    /// Whether it holds every live thread, but for those who are `partial`ly missing. A loss
    /// ends that; a look at the system restores it.
    pub(super) complete: bool,
    /// A loss may have taken reports of it that were due, and it was not looked at since.
    pub(super) lost: bool,
    /// A look may have missed some that came and went too fast.
    pub(super) partial: bool,
    /// The leader was found dead: its report was sent, or is just being sent.
    pub(super) leader_told_maybe: bool,
    /// Whether there ever was a second thread, as far as we know.
    pub(super) had_others: bool,
}

impl ThreadSet {
    pub(super) fn leader() -> Self {
        Self {
            leader: true,
            ..Self::none()
        }
    }

    pub(super) fn none() -> Self {
        Self {
            others: None,
            leader: false,
            complete: true,
            lost: false,
            partial: false,
            leader_told_maybe: false,
            had_others: false,
        }
    }

    pub(super) fn unknown() -> Self {
        Self {
            complete: false,
            // The careful answer.
            had_others: true,
            ..Self::leader()
        }
    }

    pub(super) fn clear(&mut self) {
        self.leader = false;
        self.others = None;
    }

    /// Nobody but the leader lives. Of others whom a loss hides, reports may still come.
    pub(super) fn only_leader(&mut self) {
        self.leader = true;
        self.others = None;
        self.partial = false;
    }

    pub(super) fn insert(&mut self, tid: Tid, process: Pid) {
        if tid.is_leader_of(process) {
            self.leader = true;
        } else {
            self.others.get_or_insert_default().insert(tid);
        }
    }

    pub(super) fn remove(&mut self, tid: Tid, process: Pid) -> bool {
        if tid.is_leader_of(process) {
            return std::mem::take(&mut self.leader);
        }
        self.others
            .as_mut()
            .is_some_and(|others| others.remove(&tid))
    }

    pub(super) fn contains(&self, tid: Tid, process: Pid) -> bool {
        if tid.is_leader_of(process) {
            return self.leader;
        }
        self.others
            .as_ref()
            .is_some_and(|others| others.contains(&tid))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.leader && self.others.as_ref().is_none_or(|others| others.is_empty())
    }
}
