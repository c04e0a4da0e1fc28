//! What is known of one process: its live threads, the codes its tasks ended
//! with, and whether that is the whole story.

use std::time::Duration;

use kmonitor_event::{Exit, Pid, ProcessKey, Status, StatusSource, Tid, Timestamp, UnknownReason};
use kmonitor_source::{HeldProcess, Identity};
use rustc_hash::FxHashSet;

use super::codes::{Agreement, Codes};
use super::seen::Alone;
use super::threads::ThreadSet;
use super::{Hint, REPORT_DELAY_MAX};

/// One process of interest.
///
/// What every event of a process needs comes first and fills one line of the
/// cache: with thousands of processes it is such lines that cost.
#[repr(C, align(64))]
pub(super) struct Process {
    pub(super) key: ProcessKey,
    pub(super) parent: Option<Pid>,
    /// Where the sink may find who wants to know of it.
    pub(super) hint: Hint,
    /// What its tasks ended with, if `agreement` says that they agree: see
    /// [`Codes`].
    code: i32,
    agreement: Agreement,
    /// Found by looking, not born before our eyes.
    pub(super) seeded: bool,
    /// Only seen in a list of processes so far: a report of its birth may follow.
    pub(super) only_listed: bool,
    /// Found dead when the subscribers to the host had been told already.
    pub(super) told_to_host: bool,
    pub(super) threads: ThreadSet,
    pub(super) past: Option<Box<Past>>,
    pub(super) identity: Option<Identity>,
    /// When a look found it: it had its pid then, so a birth told of from before
    /// that is no later owner's.
    pub(super) found_at: Option<Timestamp>,
    /// The last look that found nobody in it but its leader, who was not on its way out.
    pub(super) alone: Option<Alone>,
    /// When it was born, where that was reported.
    pub(super) born_at: Option<Timestamp>,
    /// Whether its birth was told, or was before anybody wanted to know.
    pub(super) birth_told: bool,
    /// Whether its birth was told because a look found it: the report of it, if there
    /// is one, is news to nobody.
    pub(super) birth_inferred: bool,
    /// Set while it is not proven that `identity` is this process's: it was asked
    /// for by pid alone, at this time, because of a report that may have been old.
    pub(super) bound_at: Option<Timestamp>,
    pub(super) held: Option<Box<dyn HeldProcess>>,
    /// When the next owner of its pid was born: it was reaped before.
    pub(super) replaced_at: Option<Timestamp>,
    /// Dead, and nobody knows whether that was told before we listened: its end is
    /// told only if a report of it comes.
    pub(super) only_if_told: bool,
    /// Set while the process is known to be dead and its status is not settled.
    pub(super) dying: Option<Dying>,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(std::mem::offset_of!(Process, identity) <= 64);

/// What may still matter of a process's time before its last exec. Rare.
#[derive(Debug)]
pub(super) enum Past {
    /// The threads other than the leader whose exit had not been reported when
    /// the exec swept all but one away.
    Swept {
        threads: FxHashSet<Tid>,
        /// Whether the leader's exit was reported since.
        leader_told: bool,
    },
    /// What had been told when all reports had come and the pid was found alive
    /// all the same, and when that was: valid if it was another's by then.
    LastWords(Codes, Timestamp),
}

/// What is known of a death but for the status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) time: Timestamp,
    pub(super) inferred: bool,
    /// Whether it was reaped, so that nobody is left to ask.
    pub(super) reaped: bool,
}

/// A death that waits for its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dying {
    pub(super) death: Death,
    /// When to stop waiting, on the hub's clock.
    pub(super) deadline: Duration,
}

impl Dying {
    /// What is known of the end so far.
    pub(super) fn exit(&self, key: ProcessKey) -> Exit {
        let mut exit = Exit::new(key, Status::Pending, self.death.time);
        exit.inferred = self.death.inferred;
        exit
    }
}

impl Process {
    /// A process that was just born: one thread, and nothing hidden.
    pub(super) fn born(key: ProcessKey, parent: Option<Pid>) -> Self {
        Self {
            key,
            parent,
            hint: Hint::default(),
            code: 0,
            agreement: Agreement::None,
            seeded: false,
            only_listed: false,
            told_to_host: false,
            threads: ThreadSet::leader(),
            past: None,
            identity: None,
            found_at: None,
            alone: None,
            born_at: None,
            birth_told: true,
            birth_inferred: false,
            bound_at: None,
            held: None,
            replaced_at: None,
            only_if_told: false,
            dying: None,
        }
    }

    /// A process that was there before we looked.
    pub(super) fn found(key: ProcessKey, identity: Option<Identity>) -> Self {
        Self {
            identity,
            seeded: true,
            birth_told: false,
            threads: ThreadSet::unknown(),
            ..Self::born(key, None)
        }
    }

    /// The report of its birth, or of a birth before it, was read when it was known
    /// already: all that it did since will be read as well. It is asked about when it
    /// ends, because the ends of those before it may be among that.
    pub(super) fn reborn(&mut self, parent: Option<Pid>) {
        *self = Self {
            hint: self.hint,
            identity: self.identity,
            held: self.held.take(),
            found_at: self.found_at,
            birth_inferred: self.birth_inferred,
            dying: self.dying,
            seeded: true,
            threads: ThreadSet {
                had_others: true,
                ..ThreadSet::leader()
            },
            ..Self::born(self.key, parent)
        };
    }

    /// Whether who was born then can only be a later owner of its pid.
    pub(super) fn is_older_than(&self, born: Timestamp) -> bool {
        self.born_at.max(self.found_at).is_some_and(|at| born > at)
    }

    /// A report says when it died, which until then was only known to be past.
    pub(super) fn died_at(&mut self, time: Timestamp) {
        if let Some(dying) = &mut self.dying {
            dying.death.time = time;
        }
    }

    /// Whether its identity is known to be its own.
    pub(super) fn is_identified(&self) -> bool {
        self.identity.is_some() && self.bound_at.is_none()
    }

    /// It did something at this time, so it lived, and had its pid, before.
    pub(super) fn lived_at(&mut self, time: Timestamp) {
        if self.bound_at.is_some_and(|bound| time > bound) {
            self.bound_at = None;
        }
    }

    /// Gives up an identity that may be another's. Whether a hold went with it.
    pub(super) fn unbind_if_unproven(&mut self) -> bool {
        if self.bound_at.take().is_none() {
            return false;
        }
        self.identity = None;
        self.key = self.key.with_inode(None);
        self.held.take().is_some()
    }

    /// All its reports have come, and yet whoever has its pid lives: it itself
    /// (the reports were out of order around an exec, or another's), or a later
    /// process whose birth is still to be read. Goes on as if the former,
    /// remembering what to say if it was the latter.
    pub(super) fn lives_on_or_was_replaced(&mut self, looked_at: Timestamp) {
        let words = self.codes();
        self.execed();
        // Which of its threads lives, if it had others, is not known: all that is reported
        // of it from now on is a reason to look.
        self.threads.complete &= !self.threads.had_others;
        self.lives_on_after(words, looked_at);
    }

    /// As [`lives_on_or_was_replaced`](Self::lives_on_or_was_replaced), where whoever
    /// lives was looked at already.
    pub(super) fn lives_on_after(&mut self, words: Codes, looked_at: Timestamp) {
        self.set_codes(Codes::None);
        self.past = Some(Box::new(Past::LastWords(words, looked_at)));
    }

    /// Whether an exit report can be one of a task of this former owner. Of who was
    /// reaped when it was stamped the kernel names no parent any more
    /// (`proc_exit_connector()`, `drivers/connector/cn_proc.c`): what names one, and
    /// is younger than the next owner, is that one's, though it came first. What names none
    /// is the first of theirs to come, unless that may be lost.
    pub(super) fn may_have_told(&self, tid: Tid, parent: Option<Pid>, time: Timestamp) -> bool {
        let pid = self.key.pid();
        let younger = self.replaced_at.is_some_and(|at| time >= at);
        // After a loss its own may be among what was lost.
        let is_doubtful = parent.is_some() || self.threads.lost;
        self.threads.contains(tid, pid) && !(younger && is_doubtful && tid.is_leader_of(pid))
    }

    /// Whether its end is told only if a report of it comes, and none has.
    pub(super) fn awaits_first_report(&self) -> bool {
        self.only_if_told && self.codes() == Codes::None
    }

    /// Whether an exit report of this task is its last, as far as can be known.
    pub(super) fn ends_with(&self, tid: Tid) -> bool {
        self.is_told_out() || self.only_if_told && tid.is_leader_of(self.key.pid())
    }

    /// What its tasks have ended with since its last exec.
    pub(super) fn codes(&self) -> Codes {
        match self.agreement {
            Agreement::None => Codes::None,
            Agreement::All => Codes::All(self.code),
            Agreement::Differ => Codes::Differ,
        }
    }

    pub(super) fn set_codes(&mut self, codes: Codes) {
        (self.agreement, self.code) = match codes {
            Codes::None => (Agreement::None, 0),
            Codes::All(code) => (Agreement::All, code),
            Codes::Differ => (Agreement::Differ, 0),
        };
    }

    /// What had been told of it if it is by now known to have been replaced: before it was
    /// looked at, if that is known. A birth can be seen before it is stamped: where it was
    /// stamped soon after the look, all has been told, and it is not known what.
    pub(super) fn take_last_words(&mut self, next_born: Option<Timestamp>) -> Option<Codes> {
        match *self.forget_last_words()? {
            Past::LastWords(codes, looked_at) => {
                let seen_by = looked_at.saturating_add(REPORT_DELAY_MAX);
                match next_born {
                    Some(born) if born > seen_by => None,
                    Some(born) if born > looked_at => Some(Codes::None),
                    _ => Some(codes),
                }
            }
            Past::Swept { .. } => None,
        }
    }

    /// It was itself who was looked at.
    pub(super) fn forget_last_words(&mut self) -> Option<Box<Past>> {
        self.past
            .take_if(|past| matches!(**past, Past::LastWords(..)))
    }

    /// Whether its leader's code is its status, and no other task can end before it.
    pub(super) fn is_single_threaded(&self) -> bool {
        self.threads.complete && !self.threads.had_others
    }

    /// Whether it is as just after its last exec.
    fn is_untouched(&self) -> bool {
        let threads = &self.threads;
        let alone = threads.leader && threads.complete && threads.others.is_none();
        alone && self.past.is_none() && matches!(self.agreement, Agreement::None)
    }

    /// An exec, unless a look has shown already what came of it.
    pub(super) fn execed_at(&mut self, time: Timestamp) {
        // Nearly always there is nothing to change. Memory that nobody wrote to need not be
        // written back, and what is looked at first lies in one line.
        if !self.is_untouched() && !self.outdates(time) {
            self.execed();
        }
    }

    /// An exec: whatever else ran in it is gone, and so is what it ended with.
    fn execed(&mut self) {
        // One of them lives on under the leader's name, and which one is not
        // told. The reports of the others nearly always came before.
        if self.threads.leader {
            let others = self.threads.others.take();
            let others = others.filter(|others| !others.is_empty());
            // A look from before says nothing of who is the leader now.
            self.alone = self.alone.filter(|_| others.is_none());
            self.past = others.map(|others| {
                Box::new(Past::Swept {
                    threads: *others,
                    leader_told: false,
                })
            });
        } else {
            self.forget_last_words();
        }
        self.threads.only_leader();
        self.set_codes(Codes::None);
    }

    /// A thread was created in it.
    pub(super) fn thread_created(&mut self, tid: Tid) {
        self.threads.insert(tid, self.key.pid());
        self.threads.had_others = true;
    }

    /// One of its tasks ended. Whether that was the leader of before an exec,
    /// which says nothing about the one of after it.
    pub(super) fn task_exited(
        &mut self,
        tid: Tid,
        code: i32,
        parent: Option<Pid>,
        time: Timestamp,
    ) -> bool {
        if self.alone.is_some() && !self.may_be_of_a_former(parent, time) {
            // The report of that leader was lost, or will be known for another's.
            self.past = None;
        }
        if let Some(Past::Swept {
            threads: swept,
            leader_told,
        }) = self.past.as_deref_mut()
        {
            if tid.is_leader_of(self.key.pid()) {
                if !*leader_told {
                    *leader_told = true;
                    return true;
                }
            } else if swept.remove(&tid) && swept.is_empty() {
                // All others are accounted for: it is the leader that goes on.
                self.past = None;
            }
        }
        // With the accounting complete, a task we do not know is one that an
        // exec has already swept away: its code says nothing.
        let is_whole = self.threads.complete && !self.threads.partial;
        if self.threads.remove(tid, self.key.pid()) || !is_whole {
            let mut codes = self.codes();
            codes.note(code);
            self.set_codes(codes);
        }
        false
    }

    /// The status, if the exit reports settle it.
    pub(super) fn agreed_status(&self) -> Option<Status> {
        match self.codes() {
            // Whoever is missing from a list may have ended the process.
            Codes::All(code) if self.is_told_out() && !self.threads.partial => {
                Some(Status::from_raw(code, StatusSource::Event))
            }
            _ => None,
        }
    }

    /// Why nobody can tell the status of a death.
    pub(super) fn why_unknown(&self, dying: &Dying) -> UnknownReason {
        if dying.death.inferred {
            UnknownReason::EventLost
        } else if self.codes() == Codes::Differ {
            UnknownReason::CodesDiffer
        } else if !dying.death.reaped {
            UnknownReason::NotReaped
        } else if self.threads.complete && !self.threads.is_empty() {
            // A report that was due has not come.
            UnknownReason::EventLost
        } else {
            UnknownReason::ReapedUnseen
        }
    }

    /// All its reports have come, with these codes.
    pub(super) fn tell_out(&mut self, codes: Codes) {
        self.threads = ThreadSet {
            had_others: self.threads.had_others,
            ..ThreadSet::none()
        };
        self.past = None;
        self.set_codes(codes);
    }

    /// Whether a report may still come that must not be taken for another's.
    pub(super) fn leaves_ghost(&self) -> bool {
        !self.is_told_out() || self.threads.partial || self.threads.leader_told_maybe
    }

    /// Whether no further exit report can change what is known.
    pub(super) fn is_told_out(&self) -> bool {
        self.threads.complete && self.threads.is_empty()
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
pub(super) mod tests;
