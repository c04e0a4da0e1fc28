//! What is left of a process whose exit was told too early for all its reports.

use kmonitor_event::{ProcessKey, Tid, Timestamp};
use rustc_hash::FxHashSet;

use super::Recipients;
use super::process::{Past, Process};
use super::threads::ThreadSet;

/// What is left of a process whose exit was told while reports of it were due.
pub(super) struct Ghost {
    pub(super) key: ProcessKey,
    threads: ThreadSet,
    /// See [`Process::found_at`]: its birth may still be to be read.
    pub(super) found_at: Option<Timestamp>,
    /// Who was told of its end, where its birth may still be to be read.
    pub(super) told: Recipients,
    /// See [`Process::birth_inferred`].
    pub(super) birth_inferred: bool,
    /// Due as well, unless the leader's is: see [`Process::task_exited`].
    swept: Option<FxHashSet<Tid>>,
}

impl Ghost {
    pub(super) fn of(process: &Process, told: Recipients) -> Self {
        Self {
            told,
            found_at: process.found_at,
            birth_inferred: process.birth_inferred,
            key: process.key,
            threads: ThreadSet {
                complete: process.threads.complete && !process.threads.partial,
                ..process.threads.clone()
            },
            swept: match process.past.as_deref() {
                Some(Past::Swept { threads, .. }) => Some(threads.clone()),
                _ => None,
            },
        }
    }

    /// What was due may have been lost: the next owner of the pid has the better claim.
    pub(super) fn doubt(&mut self) {
        self.threads.complete = false;
        self.swept = None;
    }

    /// Whether a report is one that was due. Without a complete account any of
    /// the pid's may be, as long as nobody else has the pid.
    pub(super) fn expects(&self, tid: Tid, replaced: bool) -> bool {
        // Without a complete account `threads` is a guess, and the next owner of
        // the pid, if there is one, has the better claim.
        (self.threads.complete || !replaced) && self.threads.contains(tid, self.key.pid())
            || self.swept.as_ref().is_some_and(|it| it.contains(&tid))
            || !replaced
                && (!self.threads.complete
                    || self.threads.leader_told_maybe && tid.is_leader_of(self.key.pid()))
    }

    /// A report that was due has come. Whether it was the last.
    pub(super) fn task_exited(&mut self, tid: Tid) -> bool {
        let pid = self.key.pid();
        self.threads.remove(tid, pid);
        if tid.is_leader_of(pid) {
            self.swept = None;
        } else if let Some(swept) = &mut self.swept
            && swept.remove(&tid)
            && swept.is_empty()
        {
            // So it was the leader that went on, and what it told was its own end.
            self.threads.remove(pid.leader(), pid);
        }
        let swept = self.swept.as_ref().is_none_or(FxHashSet::is_empty);
        let threads = &self.threads;
        threads.complete && threads.is_empty() && swept && !threads.leader_told_maybe
    }
}
