//! What is tried on a child: waiting for it, reading it as a zombie, and asking
//! how it ended when it was reaped, as any stranger may.

use std::io::{self, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use kmonitor::pidfd::{Mechanism, Pidfd};
use kmonitor::{Exit, Pid, Status, WatchError};

use super::report::{Check, State};
use crate::args::ProbeChildArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;

pub(crate) const WATCH: &str = "watch";
pub(crate) const ZOMBIE_STAT: &str = "zombie_stat";
pub(crate) const EXIT_STATUS: &str = "exit_status";

/// What the child exits with: no code that anything else would give.
const CODE: u8 = 7;

/// Longer than any child takes to exit when its stdin is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The child: waits until it is let go, and exits with the code it was told.
pub(crate) fn probe_child(args: &ProbeChildArgs) -> Code {
    let mut ignored = Vec::new();
    match io::stdin().read_to_end(&mut ignored) {
        Ok(_) => Code::Target(std::os::unix::process::ExitStatusExt::from_raw(
            i32::from(args.code) << 8,
        )),
        Err(error) => {
            complain(chain(&error));
            Code::Failure
        }
    }
}

/// Tries all three on one child.
pub(crate) async fn examine() -> [Check; 3] {
    let unknown = |why: &str| {
        [
            Check::new(EXIT_STATUS, State::Unknown, why),
            Check::new(ZOMBIE_STAT, State::Unknown, why),
            Check::new(WATCH, State::Fails, why),
        ]
    };
    let mut child = match spawn() {
        Ok(child) => child,
        Err(error) => return unknown(&format!("no child could be started: {}", chain(&error))),
    };
    let Ok(pid) = Pid::try_from(child.id()) else {
        return unknown("the child has no pid");
    };
    // Both while it lives: nobody knows a process that was reaped before.
    let held = Pidfd::open(pid);
    let mut watch = kmonitor::watch(pid);
    let mechanism = watch.mechanism();

    drop(child.stdin.take());
    let exit = tokio::time::timeout(PATIENCE, watch.exited()).await;
    let Ok(exit) = exit else {
        // It cannot be told whether it lives; a child that stays is worse.
        let _ = child.kill();
        let _ = child.wait();
        return unknown("the end of a child was not noticed within 10 s");
    };
    let zombie = zombie_stat(pid);
    let waited = child.wait();
    [
        exit_status(held.as_ref().ok(), waited),
        zombie,
        watched(exit, mechanism),
    ]
}

fn spawn() -> io::Result<Child> {
    // Not by name: the file may have been replaced or removed meanwhile.
    Command::new("/proc/self/exe")
        .args(["probe-child", &CODE.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn watched(exit: Result<Exit, WatchError>, mechanism: Option<Mechanism>) -> Check {
    match (exit, mechanism) {
        (Ok(_), Some(Mechanism::Pidfd)) => Check::new(
            WATCH,
            State::Works,
            "the end of a child was noticed at once",
        ),
        (Ok(_), _) => Check::new(
            WATCH,
            State::Degraded,
            "by polling /proc: ends are noticed up to 0.25 s late, and the status of \
             processes that are no children mostly stays unknown",
        )
        .cause("blocked")
        .advice("allow pidfd_open in the seccomp profile; it needs Linux 5.3 or later"),
        (Err(error), _) => Check::new(WATCH, State::Fails, chain(&error)),
    }
}

/// Field 52 of the child's stat, while it is a zombie.
fn zombie_stat(pid: Pid) -> Check {
    let raw = std::fs::read(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|line| exit_code_field(&line));
    match raw {
        Some(raw) if raw == i32::from(CODE) << 8 => Check::new(
            ZOMBIE_STAT,
            State::Works,
            "the status of a zombie is readable where ptrace would be allowed",
        ),
        Some(raw) => Check::new(
            ZOMBIE_STAT,
            State::Fails,
            format!("the status of a zombie child reads {raw:#x}: /proc does not tell it"),
        ),
        None => Check::new(
            ZOMBIE_STAT,
            State::Fails,
            "/proc does not show a zombie child: it is not mounted, or hides processes",
        )
        .advice("mount /proc of this pid namespace, without hidepid"),
    }
}

fn exit_code_field(line: &[u8]) -> Option<i32> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(52 - 3)?.parse().ok()
}

/// What a pidfd tells of a reaped process, against what waiting for it told.
fn exit_status(held: Option<&Pidfd>, waited: io::Result<ExitStatus>) -> Check {
    let Some(held) = held else {
        return Check::new(EXIT_STATUS, State::Fails, "no pidfd could be opened").cause("blocked");
    };
    let truth = match waited {
        Ok(status) if status.code() == Some(i32::from(CODE)) => status,
        Ok(status) => {
            let detail = format!("the child ended otherwise than it should: {status}");
            return Check::new(EXIT_STATUS, State::Unknown, detail);
        }
        Err(error) => return Check::new(EXIT_STATUS, State::Unknown, chain(&error)),
    };
    match held.exit_info() {
        Status::Known { status, .. } if status == truth => Check::new(
            EXIT_STATUS,
            State::Works,
            "pidfds tell anybody how a process ended, once it is reaped",
        ),
        Status::Known { status, .. } => {
            let detail = format!("a pidfd says {status} of a child that says {truth}");
            Check::new(EXIT_STATUS, State::Fails, detail)
        }
        status => Check::new(
            EXIT_STATUS,
            State::Fails,
            format!("of processes that are no children: {status}"),
        )
        .cause("unsupported")
        .advice("use Linux 6.15 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_field_of_a_stat_is_found_behind_any_name() {
        let fields: Vec<_> = (3..=52).map(|number| number.to_string()).collect();
        let line = format!("9 (a) b) {}\n", fields.join(" "));
        assert_eq!(exit_code_field(line.as_bytes()), Some(52));
        assert_eq!(exit_code_field(b"9 (a) Z 1"), None);
        assert_eq!(exit_code_field(b""), None);
    }
}
