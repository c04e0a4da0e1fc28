//! What `/proc` says of processes. Reading and parsing only.
//!
//! That something is not there is one answer, and that it could not be looked at (for
//! want of a descriptor, say) is none: it is an error. Only a process that is hidden from
//! us (`hidepid`) is as if it was not there, because it will be so the next time too.
//!
//! Rules: `proc_pid_stat(5)`, `fs/proc/array.c`, `fs/proc/base.c`.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;

use kmonitor_event::Pid;
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

/// The fields of a stat line that anything here depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    /// Group and session are 0 where they are of an outer PID namespace, or of no process
    /// at all: init's own children may be in session 0.
    pub(super) group: i32,
    pub(super) session: i32,
    pub(super) threads: i64,
    /// Clock ticks from boot.
    pub(super) start: u64,
}

impl Stat {
    /// Whether all its threads are dead. A zombie leader of living threads is not.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        Pid::new(self.pid)
    }

    /// Whether it is reaped already, so that nothing but its pid is told of it: its group
    /// and session read -1, its parent 0 (`do_task_stat()` without `lock_task_sighand()`).
    pub(super) fn is_released(&self) -> bool {
        self.threads == 0
    }

    /// What tells it from others, as well as a listing can.
    pub(super) fn id(&self) -> (i32, u64) {
        (self.pid, self.start)
    }
}

/// The fields of a stat line from the third on. The name before them may hold any
/// bytes, so it ends at the last `)`.
pub(super) fn fields(line: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let fields = line.get(name_end + 1..)?.split(u8::is_ascii_whitespace);
    Some(fields.filter(|field| !field.is_empty()))
}

/// Parses a stat line. Allocates nothing: a child uses it between fork and exec.
pub(super) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let name_begin = line.iter().position(|byte| *byte == b'(')?;
    let pid = number(line.get(..name_begin)?.trim_ascii())?;
    let mut fields = fields(line)?;
    let state = *fields.next()?.first()?;
    let parent = number(fields.next()?)?;
    let group = number(fields.next()?)?;
    let session = number(fields.next()?)?;
    // Fields 20 and 22, counted from field 7.
    let threads = number(fields.nth(13)?)?;
    let start = number(fields.nth(1)?)?;
    Some(Stat {
        pid,
        state,
        parent,
        group,
        session,
        threads,
        start,
    })
}

/// The name in a stat line or, the same, in `comm`.
fn name_in(line: &[u8]) -> Option<String> {
    let begin = line.iter().position(|byte| *byte == b'(')? + 1;
    let end = line.iter().rposition(|byte| *byte == b')')?;
    Some(String::from_utf8_lossy(line.get(begin..end)?).into_owned())
}

pub(super) fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// A stat line is some 350 bytes.
const STAT_BYTES_MAX: usize = 2048;

/// What a stat line says, of the process or thread that has this directory.
pub(super) fn record<T>(dir: &str, parse: impl FnOnce(&[u8]) -> Option<T>) -> io::Result<T> {
    let mut bytes = [0; STAT_BYTES_MAX];
    // One read gives the whole record.
    let length = File::open(format!("{dir}/stat"))?.read(&mut bytes)?;
    let line = bytes.get(..length).unwrap_or_default();
    parse(line).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether what was looked at is not there.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH))
}

/// Whether what was looked at may not be seen, now and later.
pub(super) fn is_hidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// `None` where there is nothing to be seen.
pub(super) fn if_there<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if is_gone(&error) || is_hidden(&error) => Ok(None),
        looked => looked.map(Some),
    }
}

/// The stat of a process; `None` where there is none.
pub(super) fn look_at(pid: i32) -> io::Result<Option<Stat>> {
    let seen = if_there(record(&format!("/proc/{pid}"), parse_stat))?;
    Ok(seen.filter(|stat| !stat.is_released()))
}

/// The same, where it makes no difference whether it could not be looked at.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    look_at(pid).ok().flatten()
}

/// Whether a process is still there, by its [`Stat::id`]. Who cannot be looked at may be.
pub(super) fn may_be_there(id: (i32, u64)) -> bool {
    look_at(id.0).map_or(true, |seen| seen.is_some_and(|stat| stat.id() == id))
}

/// The stat of a process, and its name.
pub(super) fn stat_and_name(pid: i32) -> Option<(Stat, String)> {
    let both = |line: &[u8]| Some((parse_stat(line)?, name_in(line)?));
    record(&format!("/proc/{pid}"), both).ok()
}

/// The process that a thread belongs to.
pub(super) fn process_of(thread: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    value.trim().parse().ok()
}

/// Whether a process is in a PID namespace below ours. Who is gone, or hidden, is not.
pub(super) fn is_nested(pid: i32) -> io::Result<bool> {
    let status = if_there(std::fs::read(format!("/proc/{pid}/status")))?.unwrap_or_default();
    let mut lines = status.split(|byte| *byte == b'\n');
    // Its numbers in all of them, from that of `/proc` on (Linux 4.1).
    let numbers = lines.find_map(|line| line.strip_prefix(b"NSpid:"));
    let count = |line: &[u8]| {
        line.split(u8::is_ascii_whitespace)
            .filter(|it| !it.is_empty())
            .count()
    };
    Ok(numbers.is_some_and(|line| count(line) > 1))
}

/// All processes, as they were found one after the other.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Zombies among them.
    pub(super) found: Vec<Stat>,
    /// Somebody was listed, and gone before he was looked at.
    pub(super) any_vanished: bool,
}

/// For the longest name of a file, or about ten pids: each is looked at soon after it was
/// listed.
const LISTED_BYTES: usize = 288;

/// All processes. They are listed by pid, and whoever is there as long as the listing
/// takes is listed (`next_tgid()`).
pub(super) fn all() -> io::Result<Listing> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open("/proc", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); LISTED_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut listing = Listing::default();
    while let Some(entry) = entries.next() {
        let Some(pid) = number::<i32>(entry?.file_name().to_bytes()) else {
            continue;
        };
        match record(&format!("/proc/{pid}"), parse_stat) {
            Ok(stat) if stat.is_released() => listing.any_vanished = true,
            Ok(stat) => listing.found.push(stat),
            Err(error) if is_gone(&error) => listing.any_vanished = true,
            Err(error) if is_hidden(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

/// The directories of a process's threads; `None` where there is no such process.
pub(super) fn tasks(pid: i32) -> io::Result<Option<Vec<String>>> {
    let dir = format!("/proc/{pid}/task");
    let listed = std::fs::read_dir(&dir).and_then(|entries| {
        entries
            .map(|entry| Ok(format!("{dir}/{}", entry?.file_name().display())))
            .collect()
    });
    if_there(listed)
}

/// Why what `/proc` says is not of the processes that we see: it is of another PID
/// namespace, or there is none. Whoever has a number there is another here.
pub(super) fn why_foreign() -> Option<String> {
    let me = std::process::id();
    match std::fs::read_link("/proc/self") {
        Ok(link) if link.to_str() == Some(me.to_string().as_str()) => None,
        Ok(link) => Some(format!(
            "/proc is of another PID namespace (this is process {me}, and {} there): mount one \
             (unshare --mount-proc)",
            link.display()
        )),
        Err(error) => Some(format!("/proc/self cannot be read: {error}")),
    }
}

pub(super) fn own_pid() -> i32 {
    Pid::current().as_raw()
}

/// Where the kernel names this boot.
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This boot, as the kernel names it.
///
/// # Errors
/// It cannot be read, or says nothing: then any boot would pass for this one.
pub(super) fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
    match id.is_empty() {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(id),
    }
}

/// Clock ticks in a second, as `/proc` counts them: `USER_HZ`, 100 on every Linux.
pub(super) fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

fn nanos(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A moment of the monotonic clock as ticks from boot, as start times are.
pub(super) fn ticks_of_monotonic(moment_ns: u64) -> u64 {
    // In this order: an error makes it later, which is the safe side (see `Node`).
    let monotonic = nanos(ClockId::Monotonic);
    let asleep = nanos(ClockId::Boottime).saturating_sub(monotonic);
    let from_boot = moment_ns.saturating_add(asleep);
    from_boot / (1_000_000_000 / ticks_per_second())
}

/// A start time as nanoseconds of the wall clock, as it goes now.
pub(super) fn wall_ns_of_start(start: u64) -> u64 {
    let boot = nanos(ClockId::Realtime).saturating_sub(nanos(ClockId::Boottime));
    boot.saturating_add(start.saturating_mul(1_000_000_000 / ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = " S 1 3 4 0 -1 4194624 119 0 0 0 1 2 0 0 20 0 5 0 8811 2342912 206\n";

    #[test]
    fn a_name_of_any_bytes_moves_no_field() {
        for name in ["a", "a b", ") Z 1", "(", "x) R 9 (y", "\n\n", "", "((()"] {
            let line = format!("77 ({name}){REST}");
            let stat = parse_stat(line.as_bytes()).unwrap();
            assert_eq!(
                (stat.pid, stat.state, stat.parent),
                (77, b'S', 1),
                "{name:?}"
            );
            assert_eq!((stat.group, stat.session), (3, 4));
            assert_eq!((stat.threads, stat.start), (5, 8811));
            assert_eq!(name_in(line.as_bytes()).as_deref(), Some(name));
        }
    }

    #[test]
    fn lines_cut_short_are_refused_and_never_panic() {
        let line = format!("7 (a){REST}");
        for end in 0..line.len() {
            let _ = parse_stat(&line.as_bytes()[..end]);
        }
        for bad in ["", ")(", "1 (a)", ")))", "x (a) S 1"] {
            assert_eq!(parse_stat(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_leader_that_has_exited_is_dead_only_with_its_last_thread() {
        let zombie = |threads| {
            let rest = REST
                .replace(" S 1", " Z 1")
                .replace("20 0 5", &format!("20 0 {threads}"));
            parse_stat(format!("7 (a){rest}").as_bytes()).unwrap()
        };
        assert!(!zombie(2).is_dead());
        assert!(zombie(1).is_dead() && zombie(0).is_dead());
    }

    #[test]
    fn we_are_not_in_a_namespace_below_ours() {
        assert!(!is_nested(own_pid()).unwrap());
        // Nobody's: pids end far below.
        assert!(!is_nested(i32::MAX).unwrap());
    }

    /// It would pass for somebody in no group.
    #[test]
    fn who_is_released_is_not_there() {
        let line = b"77 (a) X 0 -1 -1 0 -1 4194624 119 0 0 0 1 2 0 0 20 0 0 0 8811 0 0";
        let stat = parse_stat(line).unwrap();
        assert!(stat.is_released() && stat.group == -1);
        assert!(!look_at(own_pid()).unwrap().unwrap().is_released());
    }

    #[test]
    fn we_are_found_with_our_start_between_boot_and_now() {
        let me = stat(own_pid()).unwrap();
        assert!(all().unwrap().found.iter().any(|stat| stat.pid == me.pid));
        let now = ticks_of_monotonic(nanos(ClockId::Monotonic));
        assert!(me.start > 0 && me.start <= now);
        let age_ns = nanos(ClockId::Realtime).saturating_sub(wall_ns_of_start(me.start));
        assert!(age_ns < 3_600_000_000_000, "{age_ns}");
    }
}
