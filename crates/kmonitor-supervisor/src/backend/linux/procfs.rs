//! What `/proc` says of processes. Reading and parsing only.
//!
//! Rules: `proc_pid_stat(5)`, `fs/proc/array.c`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use kmonitor_event::Pid;
use rustix::time::{ClockId, clock_gettime};

/// The fields of a stat line that anything here depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    threads: i64,
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
}

/// Parses a stat line. The name may hold any bytes, so it ends at the last `)`.
/// Allocates nothing: a child uses it between fork and exec.
pub(super) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let name_begin = line.iter().position(|byte| *byte == b'(')?;
    let pid = number(line.get(..name_begin)?.trim_ascii())?;
    let mut fields = line
        .get(name_end + 1..)?
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
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

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// A stat line is some 350 bytes.
const STAT_BYTES_MAX: usize = 2048;

fn read_stat(path: &str, bytes: &mut [u8; STAT_BYTES_MAX]) -> io::Result<usize> {
    // One read gives the whole record.
    File::open(path)?.read(bytes)
}

/// The stat of a process; `None` where there is none.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = read_stat(&format!("/proc/{pid}/stat"), &mut bytes).ok()?;
    parse_stat(bytes.get(..length)?)
}

/// The stat of a process, and its name.
pub(super) fn stat_and_name(pid: i32) -> Option<(Stat, String)> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = read_stat(&format!("/proc/{pid}/stat"), &mut bytes).ok()?;
    let line = bytes.get(..length)?;
    Some((parse_stat(line)?, name_in(line)?))
}

/// The process that a thread belongs to.
pub(super) fn process_of(thread: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    value.trim().parse().ok()
}

/// All processes, zombies among them.
pub(super) fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).collect()
}

/// How many tasks were ever forked on this host; 0 where it does not tell.
fn forks() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("processes "));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// How often nobody must be found on a host that forks all the time.
const EMPTY_READINGS: u32 = 5;

/// Looks until somebody is found, or it is certain that nobody is there.
///
/// Reading the table takes its time, and who is forked meanwhile by somebody who then
/// ends can be missed. So that nobody was found counts only if nobody at all was
/// forked meanwhile. On a host where that never happens it counts after some readings.
pub(super) fn certainly(mut look: impl FnMut() -> Vec<Stat>) -> Vec<Stat> {
    for _ in 0..EMPTY_READINGS {
        let before = forks();
        let found = look();
        if !found.is_empty() {
            return found;
        }
        if before != 0 && before == forks() {
            break;
        }
    }
    Vec::new()
}

/// The children of a process, zombies among them, whichever thread they hang on.
///
/// The kernel may leave one out while another ends. `None` where it has no such list
/// (`CONFIG_PROC_CHILDREN`), or the process is gone.
pub(super) fn children(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .ok()?
        .flatten()
    {
        match std::fs::read_to_string(task.path().join("children")) {
            Ok(text) => {
                let pids = text.split_ascii_whitespace();
                children.extend(pids.filter_map(|word| word.parse::<i32>().ok()));
            }
            // The thread has ended.
            Err(_) if task.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

/// The children of this process.
pub(super) fn own_children() -> Vec<i32> {
    let me = own_pid();
    children(me).unwrap_or_else(|| {
        let mine = all().into_iter().filter(|stat| stat.parent == me);
        mine.map(|stat| stat.pid).collect()
    })
}

/// Some processes and all that descend from them, by lists of children: the cost is
/// that of those found, however many others there are. `None` where the kernel has no
/// such lists.
pub(super) fn descending_from(roots: impl IntoIterator<Item = i32>) -> Option<Vec<Stat>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut todo: Vec<i32> = roots.into_iter().collect();
    while let Some(pid) = todo.pop() {
        if !seen.insert(pid) {
            continue;
        }
        found.extend(stat(pid));
        match children(pid) {
            Some(children) => todo.extend(children),
            // It is gone, and its children are another's.
            None if stat(pid).is_none() => {}
            None => return None,
        }
    }
    Some(found)
}

pub(super) fn own_pid() -> i32 {
    Pid::current().as_raw()
}

/// This process and all its ancestors.
pub(super) fn own_ancestry() -> HashSet<i32> {
    let mut found = HashSet::new();
    let mut at = own_pid();
    while at > 0 && found.insert(at) {
        at = stat(at).map_or(0, |stat| stat.parent);
    }
    found
}

/// Why there are no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWords {
    /// There is no environment, or it may not be read.
    None,
    /// A program is being executed just now. That takes the kernel some microseconds,
    /// unless it is kept from the processor, or the program from its file.
    NotYet,
}

/// How often it is looked at a process that got its environment while it was read.
const ENVIRONMENT_READINGS: usize = 3;

/// The words, separated by `:`, of a variable in the environment that a process was
/// given; none where it has no such variable.
pub(super) fn words(pid: i32, variable: &str) -> Result<Vec<String>, NoWords> {
    for _ in 0..ENVIRONMENT_READINGS {
        if let Some(bytes) = environment(pid) {
            return Ok(words_in(&bytes, variable));
        }
        let memory = memory(pid).filter(|memory| memory.bytes > 0);
        let Some(Memory {
            code, environment, ..
        }) = memory
        else {
            break;
        };
        // `execve` changes the memory first, says where the environment is later, and
        // last where the code is (`load_elf_binary()`). `posix_spawn` has returned by then.
        if code == 0 {
            return Err(NoWords::NotYet);
        }
        let [begin, end] = environment;
        if begin == end {
            break;
        }
    }
    Err(NoWords::None)
}

fn words_in(environment: &[u8], variable: &str) -> Vec<String> {
    let mut entries = environment.split(|byte| *byte == 0);
    let value =
        entries.find_map(|entry| entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"="));
    let text = String::from_utf8_lossy(value.unwrap_or_default());
    text.split(':').map(str::to_owned).collect()
}

/// All of it, or nothing.
fn environment(pid: i32) -> Option<Vec<u8>> {
    let of_leader = environment_at(&format!("/proc/{pid}/environ"));
    // A leader that has exited has no memory any more, but its threads may.
    of_leader.or_else(|| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut others = tasks.flatten().skip(1);
        others.find_map(|task| environment_at(task.path().join("environ").to_str()?))
    })
}

fn environment_at(path: &str) -> Option<Vec<u8>> {
    // Bounded: an environment can be megabytes.
    const BYTES_MAX: u64 = 4 << 20;
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    (&file).take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    // What is open is the memory of the program that was executed then. If that has
    // gone meanwhile, the reading has ended early.
    let is_whole = file.read_at(&mut [0], 0).ok()? > 0;
    Some(bytes).filter(|bytes| is_whole && !bytes.is_empty())
}

/// Where things are in the memory of a process.
struct Memory {
    /// None of a kernel thread, or of the dead.
    bytes: u64,
    code: u64,
    environment: [u64; 2],
}

fn memory(pid: i32) -> Option<Memory> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = read_stat(&format!("/proc/{pid}/stat"), &mut bytes).ok()?;
    memory_in(bytes.get(..length)?)
}

fn memory_in(line: &[u8]) -> Option<Memory> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = line
        .get(name_end + 1..)?
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    // Fields 23, 26, 50 and 51, counted from field 3.
    Some(Memory {
        bytes: number(fields.nth(20)?)?,
        code: number(fields.nth(2)?)?,
        environment: [number(fields.nth(23)?)?, number(fields.next()?)?],
    })
}

/// Whose child each process is, to find descendants.
pub(super) struct Table {
    all: Vec<Stat>,
    by_parent: HashMap<i32, Vec<usize>>,
}

impl Table {
    pub(super) fn read() -> Self {
        Self::of(all())
    }

    fn of(all: Vec<Stat>) -> Self {
        let mut by_parent: HashMap<i32, Vec<usize>> = HashMap::new();
        for (index, stat) in all.iter().enumerate() {
            by_parent.entry(stat.parent).or_default().push(index);
        }
        Self { all, by_parent }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.all.iter()
    }

    /// Those for whom `is_root` says so, and all their descendants; each once.
    pub(super) fn descending_from(&self, is_root: impl Fn(&Stat) -> bool) -> Vec<Stat> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut todo: Vec<&Stat> = self.all.iter().filter(|stat| is_root(stat)).collect();
        while let Some(stat) = todo.pop() {
            if !seen.insert(stat.pid) {
                continue;
            }
            found.push(*stat);
            let children = self.by_parent.get(&stat.pid).into_iter().flatten();
            todo.extend(children.filter_map(|index| self.all.get(*index)));
        }
        found
    }
}

/// This boot, as the kernel names it.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
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

    fn words_of(child: &std::process::Child) -> Result<Vec<String>, NoWords> {
        words(i32::try_from(child.id()).unwrap(), "KMONITOR_TEST")
    }

    /// A program that executes itself again and again has its environment all the time,
    /// or will have it.
    #[test]
    fn who_is_executing_a_program_has_an_environment() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", r#"exec /bin/sh -c "$0" "$0""#])
            .arg(r#"exec /bin/sh -c "$0" "$0""#)
            .env("KMONITOR_TEST", "a:b")
            .spawn()
            .unwrap();
        let readings: Vec<_> = (0..20_000).map(|_| words_of(&child)).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let all = Ok(vec!["a".to_owned(), "b".to_owned()]);
        let wrong = |it: &&Result<_, _>| **it != all && **it != Err(NoWords::NotYet);
        assert_eq!(readings.iter().find(wrong), None);
        assert!(readings.contains(&all) && readings.contains(&Err(NoWords::NotYet)));
    }

    #[test]
    fn who_has_no_environment_will_have_none() {
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("60").env_clear().spawn().unwrap();
        while words_of(&child) == Err(NoWords::NotYet) {
            std::thread::yield_now();
        }
        assert_eq!(words_of(&child), Err(NoWords::None));
        child.kill().unwrap();
        child.wait().unwrap();
        // Nor has a thread of the kernel's.
        assert_eq!(words(2, "KMONITOR_TEST"), Err(NoWords::None));
    }

    /// A process whose first thread has exited is marked as before.
    #[test]
    fn who_has_lost_its_leader_has_its_environment() {
        let program = "import ctypes, threading, time, os
threading.Thread(target=lambda: time.sleep(60)).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", program])
            .env("KMONITOR_TEST", "a")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while stat(pid).unwrap().state != b'Z' {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(words_of(&child), Ok(vec!["a".to_owned()]));
        child.kill().unwrap();
        child.wait().unwrap();
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
    fn descendants_are_found_each_once() {
        let made = |pid, parent| Stat {
            pid,
            state: b'S',
            parent,
            group: 1,
            session: 1,
            threads: 1,
            start: 1,
        };
        let table = Table::of(vec![made(2, 1), made(3, 2), made(4, 3), made(5, 1)]);
        let mut found: Vec<i32> = table
            .descending_from(|stat| stat.pid == 2 || stat.pid == 3)
            .iter()
            .map(|stat| stat.pid)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn we_are_found_with_our_start_between_boot_and_now() {
        let me = stat(own_pid()).unwrap();
        assert!(all().iter().any(|stat| stat.pid == me.pid));
        let now = ticks_of_monotonic(nanos(ClockId::Monotonic));
        assert!(me.start > 0 && me.start <= now);
        let age_ns = nanos(ClockId::Realtime).saturating_sub(wall_ns_of_start(me.start));
        assert!(age_ns < 3_600_000_000_000, "{age_ns}");
        assert!(own_ancestry().contains(&me.pid));
    }
}
