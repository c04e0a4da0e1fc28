//! What `/proc/PID/status` says of one task. Rules: `proc_pid_status(5)`.

use std::io;

use kmonitor_event::{Pid, ProcessRef};
use kmonitor_pidfd::{Pidfd, Readiness};

/// The lines that anything here depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskStatus {
    /// The first number of `Uid:`, the real user id.
    pub(crate) real_uid: u32,
    /// How many numbers `NSpid:` has: 1 in the pid namespace that `/proc` shows,
    /// one more for each further down. Linux 4.1; 1 where it is missing.
    pub(crate) namespaces: usize,
    /// `SigBlk:`, `SigIgn:`, `SigCgt:`: signal N is bit N - 1.
    pub(crate) blocked: u64,
    pub(crate) ignored: u64,
    pub(crate) caught: u64,
}

/// What follows the name of a line. A name that a process gave itself may hold any
/// bytes, but what would break its line is escaped, so it is no other line.
pub(crate) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn parse(text: &str) -> Option<TaskStatus> {
    let value = |name: &str| value(text, name);
    let set = |name: &str| u64::from_str_radix(value(name)?.trim(), 16).ok();
    Some(TaskStatus {
        real_uid: value("Uid:")?
            .split_ascii_whitespace()
            .next()?
            .parse()
            .ok()?,
        namespaces: value("NSpid:").map_or(1, |pids| pids.split_ascii_whitespace().count()),
        blocked: set("SigBlk:")?,
        ignored: set("SigIgn:")?,
        caught: set("SigCgt:")?,
    })
}

fn read(path: &str) -> io::Result<TaskStatus> {
    let bytes = std::fs::read(path)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} makes no sense")))
}

/// That of a process's first thread.
pub(crate) fn status(pid: Pid) -> io::Result<TaskStatus> {
    read(&format!("/proc/{pid}/status"))
}

/// The real uid of a process, if it is still there.
pub(crate) fn real_uid(process: ProcessRef) -> Option<u32> {
    let pidfd = Pidfd::open_ref(process).ok()?;
    let status = status(process.pid).ok()?;
    // Not reaped since, so the file was its own.
    let there = pidfd.readiness().ok()? != Readiness::Reaped;
    there.then_some(status.real_uid)
}

/// Those of all threads of this process, by tid.
pub(crate) fn own_threads() -> io::Result<Vec<(i32, TaskStatus)>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let name = entry?.file_name();
        let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match read(&format!("/proc/self/task/{tid}/status")) {
            Ok(status) => threads.push((tid, status)),
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tUid:\t9\nUid:\t1000\t0\t0\t0\nNSpid:\t4711\t7\n\
        SigPnd:\t0000000000000000\nSigBlk:\t0000000200000000\nSigIgn:\t0000000000001000\n\
        SigCgt:\t0000000000000001\n";

    #[test]
    fn lines_are_found_by_their_beginning() {
        let status = parse(TEXT).unwrap();
        assert_eq!((status.real_uid, status.namespaces), (1000, 2));
        assert_eq!(status.blocked, 1 << 33);
        assert_eq!((status.ignored, status.caught), (1 << 12, 1));
    }

    #[test]
    fn text_cut_short_is_refused_and_never_panics() {
        for end in 0..TEXT.len() - 1 {
            if let Some(status) = TEXT.get(..end).and_then(parse) {
                assert_eq!(status.real_uid, 1000);
            }
        }
        assert_eq!(parse(""), None);
    }

    #[test]
    fn our_own_are_read() {
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(status(Pid::current()).unwrap().real_uid, uid);
        assert!(!own_threads().unwrap().is_empty());
    }
}
