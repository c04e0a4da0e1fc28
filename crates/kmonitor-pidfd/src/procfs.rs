//! What `/proc` says of one process or thread. Reading and parsing only: what it
//! means is decided elsewhere.
//!
//! Rules: `proc_pid_stat(5)`, `fs/proc/array.c`, `fs/proc/namespaces.c`.

use std::ffi::CStr;
use std::fmt;
use std::io::{self, Write as _};

use kmonitor_event::{Pid, Tid, Timestamp};
use kmonitor_source::{ProbeError, ThreadPhase};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// Set in field 9 of a task's stat once it is in `do_exit`.
const PF_EXITING: u64 = 0x4;
/// Set even before (since Linux 5.16), when it is settled whether its code is that of the
/// whole process (`synchronize_group_exit()`, since 6.0; some instructions before the flag
/// is set, until both came under one lock). A task can stay in between for long: traced,
/// or with I/O under way.
const PF_POSTCOREDUMP: u64 = 0x8;
/// In field 31 of a task that another has told to end, which has not got to it yet.
const SIGKILL_PENDING: u64 = 1 << 8;

/// A stat line is some 350 bytes; its 52 numbers cannot fill this.
const STAT_BYTES_MAX: usize = 2048;

/// The fields of a stat line that anything here depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Field 3. Of a process: that of its leader only.
    pub(crate) state: u8,
    /// Field 4.
    pub(crate) parent: i32,
    /// Field 9.
    pub(crate) flags: u64,
    /// Field 20: the zombie leader counts, so it is 1 in a zombie process and
    /// more in a living process whose leader has exited. 0 once it is released.
    pub(crate) num_threads: i64,
    /// Field 22.
    pub(crate) start_time: u64,
    /// Field 31: the signals that wait for this very task.
    pub(crate) pending: u64,
    /// Field 35: whether it waits for something. 0 where the reader may not ptrace the
    /// process, or it has other threads, or it runs.
    pub(crate) wchan: u64,
    /// Field 52: 0 where the reader may not ptrace the process.
    pub(crate) exit_code: Option<i32>,
}

impl Stat {
    /// How far this task has come.
    pub(crate) fn thread_phase(&self) -> ThreadPhase {
        match self.state {
            b'Z' | b'X' | b'x' => ThreadPhase::Dead,
            _ if self.flags & (PF_EXITING | PF_POSTCOREDUMP) != 0 => ThreadPhase::Exiting,
            _ if self.pending & SIGKILL_PENDING != 0 => ThreadPhase::Exiting,
            _ => ThreadPhase::Alive,
        }
    }

    /// Whether the kernel is just taking it apart: it is reaped, and soon its threads are
    /// counted no more (`wait_task_zombie()`, `kernel/exit.c`; `do_task_stat()`,
    /// `fs/proc/array.c`).
    pub(crate) fn is_in_release(&self) -> bool {
        self.thread_phase() == ThreadPhase::Dead && self.num_threads <= 1 && !self.is_group_zombie()
    }

    /// Whether the whole thread group is a zombie. Never true of a living
    /// process, whatever its leader does.
    pub(crate) fn is_group_zombie(&self) -> bool {
        self.state == b'Z' && self.num_threads == 1
    }
}

/// Turns times since boot, as `/proc` gives them, into those that facts are stamped
/// with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootClock {
    /// So far the clock of facts, which stands still while the machine sleeps, is
    /// behind.
    behind_nanos: u64,
    tick_nanos: u64,
}

impl BootClock {
    /// The clocks as they stand now. `None` where the system does not tell its tick.
    pub(crate) fn now() -> Option<Self> {
        let nanos = |clock| {
            let now = rustix::time::clock_gettime(clock);
            let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0)
        };
        // In this order the difference is never too small, and a birth never too late.
        let monotonic = nanos(rustix::time::ClockId::Monotonic);
        let boot = nanos(rustix::time::ClockId::Boottime);
        Some(Self {
            behind_nanos: boot.saturating_sub(monotonic),
            tick_nanos: 1_000_000_000_u64.checked_div(rustix::param::clock_ticks_per_second())?,
        })
    }

    /// When a process was born, to the last tick before it. Too early by as much as the
    /// machine slept since.
    pub(crate) fn born(&self, stat: &Stat) -> Timestamp {
        let since_boot = stat.start_time.saturating_mul(self.tick_nanos);
        Timestamp::from_nanos(since_boot.saturating_sub(self.behind_nanos))
    }
}

/// Parses a stat line. The name, field 2, may hold any bytes, also spaces,
/// newlines and `)`; only numbers follow it, so it ends at the last `)`.
pub(crate) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = line
        .get(name_end + 1..)?
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    // Numbered as in proc_pid_stat(5), counting from field 3.
    let mut at = 2;
    let mut field = |number: usize| {
        let skip = number - at - 1;
        at = number;
        fields.nth(skip)
    };
    let state = *field(3)?.first()?;
    Some(Stat {
        state,
        parent: number(field(4)?)?,
        flags: number(field(9)?)?,
        num_threads: number(field(20)?)?,
        start_time: number(field(22)?)?,
        pending: field(31).and_then(number).unwrap_or(0),
        wchan: field(35).and_then(number).unwrap_or(0),
        exit_code: field(52).and_then(number),
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The stat of a process, zombie or not. It is that of a thread where `pid` is
/// a thread's id.
pub(crate) fn stat(pid: Pid) -> Result<Stat, ProbeError> {
    const ACTION: &str = "read /proc/PID/stat";
    // A second try, because "no such file" and then "but it exists" is also
    // what a pid shows that is used again just now.
    let mut tries_left = 1;
    loop {
        match stat_at(format_args!("/proc/{pid}/stat\0")) {
            Ok(stat) => return Ok(stat),
            Err(error) => {
                let error = missing(pid, ACTION, error);
                if tries_left == 0 || !matches!(error, ProbeError::Denied { .. }) {
                    return Err(error);
                }
                tries_left -= 1;
            }
        }
    }
}

/// The stat of one thread.
pub(crate) fn thread_stat(pid: Pid, tid: Tid) -> io::Result<Stat> {
    stat_at(format_args!("/proc/{pid}/task/{tid}/stat\0"))
}

/// The stat at a path that ends with NUL.
pub(crate) fn stat_at(path: fmt::Arguments<'_>) -> io::Result<Stat> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = with_path(path, |path| read(path, &mut bytes))?;
    parse_stat(bytes.get(..length).unwrap_or_default())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the stat line makes no sense"))
}

/// The process that a thread belongs to. Works by the thread's own id, although
/// `/proc` does not list it.
pub(crate) fn thread_group(tid: Tid) -> Option<Pid> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = with_path(format_args!("/proc/{tid}/status\0"), |path| {
        read(path, &mut bytes)
    })
    .ok()?;
    line_value(bytes.get(..length)?, b"Tgid:").and_then(Pid::new)
}

/// The number on the line of a status or fdinfo file that begins so.
pub(crate) fn line_value(text: &[u8], prefix: &[u8]) -> Option<i32> {
    text.split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(prefix))
        .and_then(|value| number(value.trim_ascii()))
}

/// What `/proc/self/fdinfo` says of a pidfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FdInfo {
    /// `None` where the descriptor is no pidfd; -1 once the process was reaped;
    /// 0 where it is in no pid namespace of ours.
    pub(crate) pid: Option<i32>,
    /// Whether it was opened with `PIDFD_THREAD`, which the file flags show as
    /// `O_EXCL`.
    pub(crate) thread: bool,
}

/// Reads what is known of one of our own descriptors.
pub(crate) fn fdinfo(fd: i32) -> io::Result<FdInfo> {
    let mut bytes = [0; 1024];
    // Not /proc/self: a thread that has its own descriptor table is its own self.
    let length = with_path(format_args!("/proc/thread-self/fdinfo/{fd}\0"), |path| {
        read(path, &mut bytes)
    })?;
    let text = bytes.get(..length).unwrap_or_default();
    let flags = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"flags:"))
        .and_then(|value| std::str::from_utf8(value.trim_ascii()).ok())
        .and_then(|octal| u32::from_str_radix(octal, 8).ok())
        .unwrap_or(0);
    Ok(FdInfo {
        pid: line_value(text, b"Pid:"),
        thread: flags & OFlags::EXCL.bits() != 0,
    })
}

/// Whether field 52 of this stat is what it says, and not the 0 of who may not read it.
///
/// Field 35 is behind the same check, made once for both (`do_task_stat()`): who was told
/// there that a zombie does not run was told its code. A zombie that is still on its way
/// out of `do_exit` runs, and on older kernels none was seen to wait (`get_wchan()`; until
/// 5.16, or a stable release of 5.10 or 5.15). Then the link `ns/user` is read, which is
/// behind that check, too, and which a zombie still has, unlike its other namespaces
/// (`proc_ns_readlink`, `userns_get`): tens of microseconds on the way of an exit to
/// whoever waits for it.
pub(crate) fn exit_code_is_shown(pid: Pid, stat: &Stat) -> bool {
    stat.wchan != 0 || shows_user_namespace(pid)
}

fn shows_user_namespace(pid: Pid) -> bool {
    with_path(format_args!("/proc/{pid}/ns/user\0"), |path| {
        let mut target = [0_u8; 64];
        Ok(rustix::fs::readlinkat_raw(CWD, path, &mut target).map(|_| ())?)
    })
    .is_ok()
}

/// What it means that a file of a process could not be read.
pub(crate) fn missing(pid: Pid, action: &'static str, source: io::Error) -> ProbeError {
    match Errno::from_io_error(&source) {
        // /proc mounted with hidepid=2 hides processes that exist.
        _ if is_absent(&source) && exists(pid) => ProbeError::Denied {
            pid,
            action,
            source,
        },
        _ if is_absent(&source) => ProbeError::Gone { pid },
        Some(Errno::ACCESS | Errno::PERM) => ProbeError::Denied {
            pid,
            action,
            source,
        },
        _ => ProbeError::Io { action, source },
    }
}

/// Whether what was looked for is not there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH))
}

/// Whether any task has this id, as `kill` with signal 0 sees it.
pub(crate) fn exists(pid: Pid) -> bool {
    // Only "no such process" says no: a refusal is an answer too.
    rustix::process::test_kill_process(raw(pid)) != Err(Errno::SRCH)
}

/// The id as rustix takes it.
pub(crate) fn raw(pid: Pid) -> rustix::process::Pid {
    // A `Pid` is positive, so that the alternative is never taken.
    rustix::process::Pid::from_raw(pid.as_raw()).unwrap_or(rustix::process::Pid::INIT)
}

/// Whether this kernel says that it is older than that; no where it says nothing
/// that makes sense.
pub(crate) fn kernel_is_older_than(major: u32, minor: u32) -> bool {
    let mut bytes = [0; 128];
    let length = with_path(format_args!("/proc/sys/kernel/osrelease\0"), |path| {
        read(path, &mut bytes)
    });
    length
        .ok()
        .and_then(|length| release_numbers(bytes.get(..length)?))
        .is_some_and(|release| release < (major, minor))
}

/// The first two numbers of a kernel release: `(6, 18)` of `6.18.44-rc1`.
fn release_numbers(release: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(number);
    Some((numbers.next()??, numbers.next()??))
}

/// Calls with a path that was written on the stack, and ends with NUL.
fn with_path<T>(
    path: fmt::Arguments<'_>,
    call: impl FnOnce(&CStr) -> io::Result<T>,
) -> io::Result<T> {
    let mut bytes = [0_u8; 64];
    let mut rest = bytes.as_mut_slice();
    rest.write_fmt(path)?;
    let path = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
    call(path)
}

/// Reads a small file, as much as there is room for. The files read here are
/// one record each, which the kernel gives whole or not at all to one `read`.
fn read(path: &CStr, bytes: &mut [u8]) -> io::Result<usize> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::io::retry_on_intr(|| {
        rustix::io::read(&file, &mut *bytes)
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "(7) S 1 3 3 0 -1 4194624 119 0 0 0 1 2 0 0 20 0 5 0 8811 2342912 206 \
        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 1792\n";

    #[test]
    fn a_name_of_any_bytes_moves_no_field() {
        for name in ["a", "a b", ") Z 1", "(", "x) R 9 (y", "\n\n", "", "((()"] {
            let line = format!("3 ({name}{}", &LINE[2..]);
            let stat = parse_stat(line.as_bytes()).unwrap();
            assert_eq!(stat.state, b'S', "{name:?}");
            assert_eq!(stat.parent, 1);
            assert_eq!(stat.flags, 4_194_624);
            assert_eq!(stat.num_threads, 5);
            assert_eq!(stat.start_time, 8811);
            assert_eq!(stat.exit_code, Some(1792));
        }
    }

    #[test]
    fn who_is_about_to_exit_or_told_to_is_exiting() {
        let phase = |from: &str, to: &str| {
            let line = LINE.replacen(from, to, 1);
            parse_stat(line.as_bytes()).unwrap().thread_phase()
        };
        assert_eq!(phase("", ""), ThreadPhase::Alive);
        assert_eq!(phase("4194624", "4194628"), ThreadPhase::Exiting);
        assert_eq!(phase("4194624", "4194632"), ThreadPhase::Exiting);
        let addresses = "18446744073709551615 1 1 0 0 0 ";
        let pending = |signals: &str| phase(addresses, &format!("{addresses}{signals} "));
        assert_eq!(pending("256"), ThreadPhase::Exiting);
        assert_eq!(pending("16384"), ThreadPhase::Alive);
        assert_eq!(phase(" S 1", " Z 1"), ThreadPhase::Dead);
    }

    #[test]
    fn lines_cut_short_are_refused_and_never_panic() {
        let line = format!("3 (a{}", &LINE[2..]);
        let mut parsed = 0;
        for end in 0..line.len() {
            parsed += usize::from(parse_stat(&line.as_bytes()[..end]).is_some());
        }
        // Complete up to field 22, but without the status.
        assert!(parsed > 0);
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 (a)"), None);
        assert_eq!(parse_stat(b")))"), None);
        assert_eq!(parse_stat(&[0xff; 300]), None);
    }

    #[test]
    fn a_birth_is_told_on_the_clock_of_facts_and_never_too_late() {
        for _ in 0..20 {
            let before = Timestamp::now();
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let after = Timestamp::now();
            let stat = stat(Pid::try_from(child.id()).unwrap()).unwrap();
            let born = BootClock::now().unwrap().born(&stat);
            child.wait().unwrap();
            let tick = std::time::Duration::from_millis(11);
            assert!(born <= after && before <= born.saturating_add(tick));
        }
    }

    /// Its parent has begun to reap it (X), and ended that (no thread is counted).
    #[test]
    fn who_is_being_reaped_is_neither_alive_nor_a_zombie() {
        for (state, threads, in_release) in [
            (b'Z', 1, false),
            (b'Z', 2, false),
            (b'X', 2, false),
            (b'X', 1, true),
            (b'X', 0, true),
            (b'Z', 0, true),
            (b'S', 1, false),
        ] {
            let mut stat = stat(Pid::current()).unwrap();
            (stat.state, stat.num_threads) = (state, threads);
            let found = (stat.is_in_release(), stat.is_group_zombie());
            let zombie = (state, threads) == (b'Z', 1);
            assert_eq!(found, (in_release, zombie), "{state} {threads}");
        }
    }

    #[test]
    fn our_own_stat_is_read() {
        let stat = stat(Pid::current()).unwrap();
        assert!(!stat.is_group_zombie() && stat.thread_phase() == ThreadPhase::Alive);
        assert!(stat.num_threads >= 1 && stat.start_time > 0);
        assert!(stat.exit_code.is_some());
    }

    #[test]
    fn a_thread_is_told_from_a_process() {
        let (tid, group) = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            (tid, thread_group(Tid::new(tid).unwrap()))
        })
        .join()
        .unwrap();
        assert_ne!(tid, Pid::current().as_raw());
        assert_eq!(group, Some(Pid::current()));
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(release_numbers(b"6.18.44-fc\n"), Some((6, 18)));
        assert_eq!(release_numbers(b"5.2"), Some((5, 2)));
        assert_eq!(release_numbers(b"x"), None);
        assert!(!kernel_is_older_than(2, 6));
        assert!(kernel_is_older_than(1000, 0));
    }

    /// What field 35 says is taken for what the link says: it must never say more. Here
    /// the same zombies are asked for by those who may and by those who may not.
    #[test]
    #[ignore = "needs root"]
    fn who_is_shown_where_a_zombie_waits_is_shown_its_code() {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let started = std::time::Instant::now();
        // It may run for a moment even when it is a zombie.
        while !stat(pid).is_ok_and(|stat| stat.is_group_zombie() && stat.wchan != 0) {
            assert!(started.elapsed() < std::time::Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert!(shows_user_namespace(pid));
        std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SYS_PTRACE);
            set_capabilities(None, sets).unwrap();
            let stat = stat(pid).unwrap();
            assert!(stat.is_group_zombie() && stat.wchan == 0);
            assert!(!exit_code_is_shown(pid, &stat));
        })
        .join()
        .unwrap();
        child.wait().unwrap();
    }
}
