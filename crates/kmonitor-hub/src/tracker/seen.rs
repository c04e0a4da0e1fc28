//! What a look at the system says of a process: which threads it has, and whether their
//! reports can be trusted.

use kmonitor_event::{Pid, Timestamp};
use kmonitor_source::{Listing, ThreadPhase, ThreadState};

use super::codes::Codes;
use super::process::Process;

/// When a look found a process with one thread, its leader, that was not on its way out.
///
/// Reports of the leader's exit that were stamped before are another's: of the leader
/// before an exec, or of a former owner of the pid. Those that were stamped after it, and
/// name a parent, are of this process, and their code is the status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alone {
    pub(super) look_began: Timestamp,
    pub(super) look_ended: Timestamp,
}

impl Process {
    /// Takes over what a look at the system found, which began and ended then.
    pub(super) fn seed(
        &mut self,
        threads: &[ThreadState],
        listing: Listing,
        look_began: Timestamp,
        look_ended: Timestamp,
    ) {
        let leader = self.key.pid().leader();
        self.threads.clear();
        for thread in threads {
            // Every thread that can be seen has its exit report still before it,
            // except one that is dead already, which can only be the leader.
            if thread.phase == ThreadPhase::Dead {
                self.threads.leader_told_maybe = true;
            } else {
                self.threads.insert(thread.tid, self.key.pid());
            }
        }
        // A leader that is on its way out while others are too: a group exit may
        // have begun whose code only the leader's report carried.
        let leaving = |of_leader: bool| {
            let mut threads = threads.iter();
            threads.any(|t| (t.tid == leader) == of_leader && t.phase != ThreadPhase::Alive)
        };
        // Where nobody stays, another that is gone already may have been the last to
        // begin its exit, whose code counts.
        let nobody_stays = threads.iter().all(|it| it.phase != ThreadPhase::Alive);
        if leaving(true) && leaving(false) || nobody_stays {
            self.set_codes(Codes::Differ);
        }
        self.threads.complete = true;
        self.threads.lost = false;
        let is_whole = listing == Listing::Whole;
        self.threads.partial = !is_whole;
        let is_alone = is_whole && threads.len() == 1 && self.threads.leader && !nobody_stays;
        if is_alone && self.is_identified() {
            // No group exit has begun, or it had been told to end; and whatever others
            // ended with, the last to begin its exit decides.
            self.set_codes(Codes::None);
            // The leader of before an exec may not have been told of yet.
            self.forget_last_words();
            self.threads.had_others = false;
            self.alone = Some(Alone {
                look_began,
                look_ended,
            });
        } else {
            // Nor does the one who is left, and leaving, say that it was alone.
            self.threads.had_others |= threads.len() > 1 || nobody_stays || !is_whole;
        }
    }

    /// Whether an exit report of the leader of a single-threaded process may be another
    /// process's that had the pid before. The kernel stamps a report, then looks for the
    /// parent, and finds none once the task was reaped: see [`Alone`].
    pub(super) fn may_be_of_a_former(&self, parent: Option<Pid>, time: Timestamp) -> bool {
        self.alone
            .is_some_and(|alone| time <= alone.look_ended || parent.is_none())
    }

    /// Whether a look has shown what came of a report of a task: it found one thread only,
    /// and is younger. An exit of the leader then certainly was another's: see [`Alone`].
    pub(super) fn outdates(&self, time: Timestamp) -> bool {
        self.alone.is_some_and(|alone| time <= alone.look_began)
    }
}

#[cfg(test)]
mod tests {
    use kmonitor_event::ProcessKey;

    use super::super::process::tests::{exit, process, tid};
    use super::*;

    fn found() -> Process {
        Process::found(ProcessKey::new(Pid::new(10).unwrap(), 0), None)
    }

    fn seed(process: &mut Process, threads: &[(i32, ThreadPhase)], listing: Listing) {
        let threads: Vec<_> = threads
            .iter()
            .map(|(raw, phase)| ThreadState {
                tid: tid(*raw),
                phase: *phase,
            })
            .collect();
        let at = Timestamp::default();
        process.seed(&threads, listing, at, at);
    }

    #[test]
    fn a_seed_leaves_out_a_dead_leader() {
        let mut process = found();
        let threads = [(10, ThreadPhase::Dead), (11, ThreadPhase::Alive)];
        seed(&mut process, &threads, Listing::Whole);
        exit(&mut process, 11, 0x500);
        assert_eq!(process.agreed_status().unwrap().raw(), Some(0x500));
    }

    #[test]
    fn one_that_is_seen_leaving_may_not_have_been_alone() {
        let mut process = process();
        process.threads.complete = false;
        let leaving = [(10, ThreadPhase::Exiting)];
        seed(&mut process, &leaving, Listing::Whole);
        assert!(process.threads.had_others);
        exit(&mut process, 10, 0x300);
        assert_eq!(process.agreed_status(), None);
    }

    #[test]
    fn a_seed_in_the_middle_of_a_group_exit_trusts_no_code() {
        let mut process = found();
        let exiting = [10, 11].map(|raw| (raw, ThreadPhase::Exiting));
        seed(&mut process, &exiting, Listing::Whole);
        exit(&mut process, 11, 0x700);
        exit(&mut process, 10, 0x700);
        assert!(process.is_told_out());
        assert_eq!(process.agreed_status(), None);
    }

    #[test]
    fn who_is_missing_from_a_list_may_decide_the_status() {
        let mut process = found();
        let both = [10, 11].map(|raw| (raw, ThreadPhase::Alive));
        let [leader, _] = both;
        seed(&mut process, &[leader], Listing::Partial);
        assert!(!process.is_single_threaded());
        seed(&mut process, &both, Listing::Partial);
        exit(&mut process, 10, 0);
        exit(&mut process, 12, 0x500);
        exit(&mut process, 11, 0);
        assert!(process.is_told_out());
        assert_eq!(process.agreed_status(), None);
        // Also where its report is still to come.
        let mut process = found();
        seed(&mut process, &[leader], Listing::Partial);
        exit(&mut process, 10, 0);
        assert!(process.is_told_out() && process.leaves_ghost());
        assert_eq!(process.agreed_status(), None);
    }
}
