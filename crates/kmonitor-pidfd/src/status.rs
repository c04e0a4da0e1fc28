//! How a zombie ended, for whoever may know.

use kmonitor_event::{Pid, Status, StatusSource};
use kmonitor_source::ThreadPhase;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::procfs::{self, Stat};

/// The status of a dead child of ours, which stays to be waited for. `None`
/// where it is no child, or lives.
pub(crate) fn waited(child: &WaitId<'_>) -> Option<Status> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error mostly is ECHILD: not our child, or one that was reaped.
    let info = rustix::io::retry_on_intr(|| waitid(child.clone(), options)).ok()??;
    Some(Status::from_raw(raw_status(&info)?, StatusSource::Waited))
}

/// The number of `wait(2)` from the two numbers of `waitid(2)`.
fn raw_status(info: &WaitIdStatus) -> Option<i32> {
    if let Some(code) = info.exit_status() {
        return Some((code & 0xff) << 8);
    }
    let core = if info.dumped() { 0x80 } else { 0 };
    Some((info.terminating_signal()? & 0x7f) | core)
}

/// The status of a zombie from its stat, or `None` where it is hidden from us.
///
/// Hidden, the field reads 0, the status of success. A zero is believed only where
/// something else behind the same check is shown.
///
/// The caller makes sure that `stat` was of the zombie it means, and that the
/// zombie is still there after this returned.
pub(crate) fn of_zombie(pid: Pid, stat: &Stat) -> Option<Status> {
    let known = |raw| Status::from_raw(raw, StatusSource::ZombieStat);
    if stat.thread_phase() != ThreadPhase::Dead {
        // Somebody has the pid again: before 5.5 a pidfd does not tell who was reaped.
        return None;
    }
    match stat.exit_code? {
        0 if procfs::exit_code_is_shown(pid, stat) => Some(known(0)),
        0 => None,
        raw => Some(known(raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_has_no_status() {
        let mut stat = procfs::stat(Pid::current()).unwrap();
        // As a sleeper shows it to who may ptrace it.
        (stat.state, stat.wchan, stat.exit_code) = (b'S', 1, Some(0));
        assert_eq!(of_zombie(Pid::current(), &stat), None);
        stat.state = b'Z';
        assert!(of_zombie(Pid::current(), &stat).unwrap().success());
    }
}
