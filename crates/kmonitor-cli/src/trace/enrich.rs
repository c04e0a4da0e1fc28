//! What a process runs, read from `/proc` when it says that it began to.
//!
//! The kernel tells that a process executed, not what. `/proc` tells what it
//! runs now, which may be something else by then, or nothing: so each answer is
//! checked to be of the same process, and is left out where it came too late.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use kmonitor::{Pid, Timestamp};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The kernel takes 128 KiB for one argument and 2 MiB for all. What exceeds
/// this is marked as cut off.
const ARGS_BYTES_MAX: u64 = 128 * 1024;

/// `/proc` counts start times in ticks of 10 ms, and not quite at the moment of
/// the fork event.
const START_TOLERANCE: Duration = Duration::from_millis(50);

/// `USER_HZ`: the unit of times in `/proc/PID/stat`, the same on all Linux ABIs
/// that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a process runs. Fields of the JSON of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Program {
    pub(crate) comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exe: Option<String>,
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) args_truncated: bool,
}

/// Reads what a process runs, if it is the one that executed at `at`.
pub(crate) fn program(pid: Pid, at: Timestamp) -> Option<Program> {
    // All further reading goes through this directory: it is that of one process,
    // and empty once that has gone, whoever gets the pid.
    let directory = directory(pid)?;
    let (comm, started) = stat(&directory)?;
    if started > at.saturating_add(START_TOLERANCE) {
        return None;
    }
    let exe = readlinkat(&directory, "exe", Vec::new()).ok();
    let exe = exe.map(|target| target.to_string_lossy().into_owned());
    let (args, args_truncated) = args(&directory)?;
    Some(Program {
        comm,
        exe,
        args,
        args_truncated,
    })
}

/// Whether the process that was forked at `at` still has the pid, living or not.
pub(crate) fn is_there(pid: Pid, at: Timestamp) -> bool {
    let Some((_, started)) = directory(pid).and_then(|directory| stat(&directory)) else {
        return false;
    };
    started <= at.saturating_add(START_TOLERANCE)
}

fn directory(pid: Pid) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()
}

fn read(directory: impl AsFd, name: &str, bytes_max: u64) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(bytes_max)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// Name and start of a process: fields 2 and 22 of its stat.
fn stat(directory: impl AsFd) -> Option<(String, Timestamp)> {
    let line = read(directory, "stat", 4096)?;
    parse_stat(&line, boot_to_monotonic())
}

/// How much the clock that `/proc` uses is ahead of the one that events use: as
/// long as the machine has slept.
fn boot_to_monotonic() -> Duration {
    let boot = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(boot.tv_nsec).unwrap_or(0);
    let now = Duration::from_nanos(Timestamp::now().as_nanos());
    Duration::new(seconds, nanos).saturating_sub(now)
}

fn parse_stat(line: &[u8], ahead: Duration) -> Option<(String, Timestamp)> {
    // The name may hold any bytes, also parentheses; what follows it does not.
    let begin = line.iter().position(|byte| *byte == b'(')? + 1;
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let comm = String::from_utf8_lossy(line.get(begin..end)?).into_owned();
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    // The first of the rest is field 3.
    let ticks: u64 = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    let nanos = ticks.checked_mul(1_000_000_000 / TICKS_PER_SECOND)?;
    let started = Duration::from_nanos(nanos).saturating_sub(ahead);
    let started = u64::try_from(started.as_nanos()).ok()?;
    Some((comm, Timestamp::from_nanos(started)))
}

fn args(directory: impl AsFd) -> Option<(Vec<String>, bool)> {
    let bytes = read(directory, "cmdline", ARGS_BYTES_MAX)?;
    let truncated = bytes.len() as u64 == ARGS_BYTES_MAX;
    // Each argument ends with NUL; a zombie and a kernel thread have none.
    let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if text.is_empty() {
        return Some((Vec::new(), false));
    }
    let words = text.split(|byte| *byte == 0);
    let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
    Some((words.collect(), truncated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_what_we_run() {
        let program = program(Pid::current(), Timestamp::now()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(program.exe.as_deref(), exe.to_str());
        assert!(!program.args.is_empty());
        assert!(is_there(Pid::current(), Timestamp::now()));
    }

    #[test]
    fn a_process_that_began_later_is_another_one() {
        assert_eq!(program(Pid::current(), Timestamp::from_nanos(1)), None);
        assert!(!is_there(Pid::current(), Timestamp::from_nanos(1)));
    }

    #[test]
    fn odd_names_move_no_field() {
        let line = "7 (a) (b\n) S 1 3 3 0 -1 0 1 0 0 0 1 2 0 0 20 0 5 0 8811 2342912 206\n";
        let (comm, started) = parse_stat(line.as_bytes(), Duration::from_secs(8)).unwrap();
        assert_eq!(comm, "a) (b\n");
        assert_eq!(started, Timestamp::from_nanos(80_110_000_000));
        assert_eq!(parse_stat(b"7 (a) S 1", Duration::ZERO), None);
        assert_eq!(parse_stat(b")(", Duration::ZERO), None);
    }
}
