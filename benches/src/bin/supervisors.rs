//! `supervisors ROUNDS CHILDREN KILLS IDLE_S BORN CHILD PIDS <COMMANDS`: what each
//! supervisor costs that a line of its input names (a name, a tab, a command with
//! blanks between the words), as one table. `benches/supervisors.sh` runs it.
//!
//! BORN is the FIFO in which children say that they run (`c/born.c`), CHILD their
//! program. The pid of each supervisor is appended to the file PIDS, for whoever
//! clears up; here nothing is cleared up after a failure.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kmonitor_benches::rng::Rng;
use kmonitor_benches::stats::{load, median, table};
use kmonitor_event::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Nothing that is waited for takes longer, or it has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Until a supervisor has calmed down, and nobody is younger than s6 wants for an
/// immediate restart.
const SETTLE: Duration = Duration::from_secs(2);

/// Kills come so far apart at random, so that they meet every phase of who polls once
/// a second.
const GAP_MAX_MS: usize = 1000;

/// Its head, and what is in it.
type Column<'a> = (&'a str, &'a dyn Fn(&Taken) -> f64);

struct Bench {
    children: usize,
    kills: usize,
    idle: Duration,
    born: File,
    born_path: PathBuf,
    child: PathBuf,
    pids: File,
    random: Rng,
}

/// Somebody's numbers in all rounds.
#[derive(Default)]
struct Taken {
    start_ms: Vec<f64>,
    start_cpu_ms: Vec<f64>,
    replaced_us: Vec<f64>,
    pss_kib: Vec<f64>,
    rss_kib: Vec<f64>,
    processes: Vec<f64>,
    idle_cpu_ms: Vec<f64>,
    switches: Vec<f64>,
    stop_ms: Vec<f64>,
    left: usize,
}

struct Birth {
    pid: Pid,
    at: u64,
}

/// What each thread of the supervisors has used so far, by its number: CPU time in
/// nanoseconds, and context switches.
type Used = HashMap<String, [f64; 2]>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, children, kills, idle, born, child, pids] = args.as_slice() else {
        return Err("usage: supervisors ROUNDS CHILDREN KILLS IDLE_S BORN CHILD PIDS".into());
    };
    let mut bench = Bench {
        children: children.parse()?,
        kills: kills.parse()?,
        idle: Duration::from_secs(idle.parse()?),
        // For writing too, so that it has no end.
        born: File::options().read(true).write(true).open(born)?,
        born_path: born.into(),
        child: fs::canonicalize(child)?,
        pids: File::options().append(true).create(true).open(pids)?,
        random: Rng::new(1),
    };
    if bench.kills > bench.children {
        return Err("no child is killed twice, so there are at most as many kills".into());
    }
    // Whoever a supervisor leaves becomes ours, so that we see it.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let input = std::io::read_to_string(std::io::stdin())?;
    let commands = input
        .lines()
        .map(|line| line.split_once('\t').ok_or("a name, a tab, a command"));
    let mut commands = commands.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut all: Vec<(&str, Taken)> = Vec::new();
    all.extend(commands.iter().map(|(name, _)| (*name, Taken::default())));
    println!("{} at the start", load());
    for round in 1..=rounds.parse::<usize>()? {
        for (name, command) in &commands {
            eprintln!("round {round}: {name}");
            let taken = all.iter_mut().find(|(other, _)| other == name);
            let (_, taken) = taken.ok_or("a name is there twice")?;
            let failed = |error| format!("{name}: {error}");
            bench.measure(command, taken).map_err(failed)?;
        }
        // The first one goes last the next time.
        commands.rotate_left(1);
    }
    println!("{} at the end\n", load());
    print_tables(&all, bench.children);
    Ok(())
}

impl Bench {
    fn measure(&mut self, command: &str, taken: &mut Taken) -> Result<()> {
        let mut words = command.split_whitespace();
        let began = Timestamp::now().as_nanos();
        let supervisor = Command::new(words.next().ok_or("no command")?)
            .args(words)
            .env("BORN", &self.born_path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It does not get what a terminal sends us.
            .process_group(0)
            .spawn()?;
        writeln!(self.pids, "{}", supervisor.id())?;
        let supervisor = Pid::from_raw(i32::try_from(supervisor.id())?).ok_or("no pid")?;

        let mut children = Vec::with_capacity(self.children);
        let mut last = began;
        for _ in 0..self.children {
            let birth = self.birth()?;
            last = last.max(birth.at);
            children.push(birth.pid);
        }
        taken.start_ms.push(millis(last - began));
        let keepers = self.keepers()?;
        let [cpu, _] = since(&Used::new(), &used(&keepers)?);
        taken.start_cpu_ms.push(cpu / 1e6);
        std::thread::sleep(SETTLE);

        let before = used(&keepers)?;
        std::thread::sleep(self.idle);
        let [cpu, switches] = since(&before, &used(&keepers)?);
        taken.idle_cpu_ms.push(cpu / 1e6);
        taken.switches.push(switches);

        for _ in 0..self.kills {
            // Nobody twice: s6 lets a second pass between two starts of a child.
            let at = self.random.below(children.len());
            let victim = children.swap_remove(at);
            let gap_ms = self.random.below(GAP_MAX_MS);
            std::thread::sleep(Duration::from_millis(gap_ms as u64));
            let killed = Timestamp::now().as_nanos();
            rustix::process::kill_process(victim, Signal::KILL)?;
            let birth = self.birth()?;
            let waited = birth.at.checked_sub(killed);
            let waited = waited.ok_or("somebody was started whom nobody had killed")?;
            taken.replaced_us.push(millis(waited) * 1e3);
        }

        // After that, so that what restarts leave behind is counted.
        let keepers = self.keepers()?;
        let (pss, rss) = memory(&keepers)?;
        taken.pss_kib.push(pss);
        taken.rss_kib.push(rss);
        taken.processes.push(keepers.len() as f64);

        let told = Timestamp::now().as_nanos();
        rustix::process::kill_process(supervisor, Signal::TERM)?;
        while reap(supervisor)? {
            if u128::from(Timestamp::now().as_nanos() - told) > PATIENCE.as_nanos() {
                return Err("it does not stop".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        taken
            .stop_ms
            .push(millis(Timestamp::now().as_nanos() - told));
        // Nobody descends from us any more. So this finds nobody, unless it escaped us.
        taken.left += processes()?.filter(|pid| self.is_child(*pid)).count();
        Ok(())
    }

    /// The next child that says that it runs.
    fn birth(&self) -> Result<Birth> {
        let mut ready = [PollFd::new(&self.born, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec::try_from(PATIENCE)?))? == 0 {
            return Err("a child does not come".into());
        }
        let mut said = [0; 16];
        (&self.born).read_exact(&mut said)?;
        let (pid, at) = said.split_at(8);
        let pid = i64::from_ne_bytes(pid.try_into()?);
        Ok(Birth {
            pid: Pid::from_raw(i32::try_from(pid)?).ok_or("no pid")?,
            at: u64::from_ne_bytes(at.try_into()?),
        })
    }

    fn is_child(&self, pid: i32) -> bool {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.child)
    }

    /// All descendants of ours that are no children: the supervisor's processes.
    fn keepers(&self) -> Result<Vec<i32>> {
        let parents: Vec<(i32, i32)> = processes()?
            .filter_map(|pid| Some((pid, parent(pid)?)))
            .collect();
        let mut family = HashSet::from([rustix::process::getpid().as_raw_nonzero().get()]);
        let mut keepers = Vec::new();
        loop {
            let more = parents
                .iter()
                .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid));
            let more: Vec<i32> = more.map(|(pid, _)| *pid).collect();
            if more.is_empty() {
                return Ok(keepers);
            }
            keepers.extend(more.iter().filter(|pid| !self.is_child(**pid)));
            family.extend(more);
        }
    }
}

/// Reaps who is dead. Whether anybody is left who is not.
fn reap(supervisor: Pid) -> Result<bool> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid == supervisor && status.exit_status() != Some(0) {
                    return Err(format!("it ended with {status:?}").into());
                }
            }
            Ok(None) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn processes() -> Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn used(pids: &[i32]) -> Result<Used> {
    let mut used = Used::new();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread of a pool may have gone meanwhile.
            let Ok(times) = fs::read_to_string(task.path().join("schedstat")) else {
                continue;
            };
            let cpu = times.split_whitespace().next().unwrap_or("0").parse()?;
            let switches = fields(&task.path().join("status"), "ctxt_switches:");
            used.insert(task.file_name().to_string_lossy().into(), [cpu, switches]);
        }
    }
    Ok(used)
}

/// The sums of what was used in between. What a thread used that has gone is left out.
fn since(before: &Used, after: &Used) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (thread, now) in after {
        let then = before.get(thread).unwrap_or(&[0.0; 2]);
        for (sum, (now, then)) in sums.iter_mut().zip(now.iter().zip(then)) {
            *sum += now - then;
        }
    }
    sums
}

/// Proportional and resident sizes, in KiB.
fn memory(pids: &[i32]) -> Result<(f64, f64)> {
    let mut sum = (0.0, 0.0);
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        let pss = fields(&path, "Pss:");
        if pss == 0.0 {
            return Err(format!("the memory of {pid} cannot be read").into());
        }
        sum.0 += pss;
        sum.1 += fields(&path, "Rss:");
    }
    Ok(sum)
}

/// The sum of the numbers in lines whose first word ends like that.
fn fields(path: &Path, end: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| word.ends_with(end))?;
        words.next()?.parse::<f64>().ok()
    });
    values.sum()
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// So much of the sorted values lies below.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (part * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// All in one table; beside each number how many times the first row's it is.
fn print_tables(all: &[(&str, Taken)], children: usize) {
    let each = |values: &[f64]| median(values) / children as f64;
    let columns: [Column<'_>; 10] = [
        ("start all, ms", &|t| median(&t.start_ms)),
        ("CPU for that, ms", &|t| median(&t.start_cpu_ms)),
        ("replaced p50, us", &|t| quantile(&t.replaced_us, 0.5)),
        ("p99, us", &|t| quantile(&t.replaced_us, 0.99)),
        ("PSS, KiB a child", &|t| each(&t.pss_kib)),
        ("RSS, KiB a child", &|t| each(&t.rss_kib)),
        ("processes", &|t| median(&t.processes)),
        ("idle CPU, ms", &|t| median(&t.idle_cpu_ms)),
        ("idle switches", &|t| median(&t.switches)),
        ("stop all, ms", &|t| median(&t.stop_ms)),
    ];
    let mut head = vec!["supervisor".to_owned()];
    head.extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    head.push("left".to_owned());
    let mut rows = vec![head];
    for (name, taken) in all {
        let mut row = vec![(*name).to_owned()];
        for (_, value) in &columns {
            let first = all.first().map_or(0.0, |(_, first)| value(first));
            row.push(cell(value(taken), first));
        }
        row.push(taken.left.to_string());
        rows.push(row);
    }
    print!("{}", table(&rows));
}

fn cell(value: f64, first: f64) -> String {
    let precision = if value < 10.0 { 1 } else { 0 };
    if first < 0.1 {
        return format!("{value:.precision$}");
    }
    let times = value / first;
    let digits = if times < 10.0 { 2 } else { 0 };
    format!("{value:.precision$} ({times:.digits$})")
}
