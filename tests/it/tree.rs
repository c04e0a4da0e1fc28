//! Trees of real processes: every descendant is told of, from the moment that
//! the call returns, those that were there before among them; by what the
//! processes themselves print.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use kmonitor::{Event, EventKind, EventMask, Filter, Hub, Pid, SourceKind, Timestamp};
use kmonitor_tests::Rng;

use crate::patience::{PATIENCE, exit_status, next, rest, soon, until};

/// A shell with `$1` generations of `$2` children each below it. Each prints its
/// pid, and ends with a status that can be told from its pid.
const GROW: &str = r#"
echo $$
if [ "$1" -gt 0 ]; then
    i=0
    while [ $i -lt "$2" ]; do
        sh -c "$SELF" sh $(($1 - 1)) "$2" &
        i=$((i + 1))
    done
    wait
fi
exit $(($$ % 200))
"#;

/// The same, but all wait until descriptor 3 is at its end, and then have one
/// more child each.
const GROW_AND_HOLD: &str = r#"
echo $$
if [ "$1" -gt 0 ]; then
    i=0
    while [ $i -lt "$2" ]; do
        sh -c "$SELF" sh $(($1 - 1)) "$2" &
        i=$((i + 1))
    done
fi
read word <&3
sh -c 'echo $$; exit $(($$ % 200))' &
wait
exit $(($$ % 200))
"#;

/// `$1` daemons: forked twice, in sessions of their own, living until descriptor 3
/// is at its end.
const DAEMONS: &str = r#"
i=0
while [ $i -lt "$1" ]; do
    sh -c 'setsid sh -c "echo \$\$; read word <&3; exit \$((\$\$ % 200))" & exit 9'
    i=$((i + 1))
done
exit $(($$ % 200))
"#;

/// What processes of the scripts end with.
fn status_of(pid: i32) -> i32 {
    (pid % 200) << 8
}

/// A shell that begins when it gets a line, and what it and its descendants print.
/// Killed when dropped, and they end with their input.
struct Tree {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Tree {
    fn plant(script: &str, arguments: &[usize]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec 3<&0; read word; {script}"), "sh"])
            .args(arguments.iter().map(ToString::to_string))
            .env("SELF", script);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let lines = read_lines(child.stdout.take().unwrap());
        Self {
            child,
            input,
            lines,
        }
    }

    fn root(&self) -> Pid {
        Pid::try_from(self.child.id()).unwrap()
    }

    fn go(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Lets those go on that wait for the end of their input.
    fn release(&mut self) {
        self.input = None;
    }

    fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("the tree is silent: {error}"),
        }
    }

    /// The pids that are printed next.
    fn pids(&self, count: usize) -> BTreeSet<i32> {
        let pids: BTreeSet<i32> = (0..count)
            .map(|_| self.line().unwrap().parse().unwrap())
            .collect();
        assert_eq!(pids.len(), count, "a pid was used twice");
        pids
    }

    /// All that is printed until the last descendant has ended.
    fn rest_of_pids(&self) -> BTreeSet<i32> {
        let lines = std::iter::from_fn(|| self.line());
        lines.map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn connector() -> Hub {
    let hub = Hub::builder().only(SourceKind::Connector).open();
    soon("a hub", hub).await.unwrap()
}

/// With room for all that the trees here do.
fn tree(root: Pid) -> Filter {
    Filter::tree(root).queue_events(NonZeroUsize::new(1 << 20).unwrap())
}

/// What a stream told of a tree, once it has been found to make sense.
#[derive(Debug, Default)]
struct Told {
    born: BTreeSet<i32>,
    execed: BTreeSet<i32>,
    /// Raw statuses, where they are known.
    ended: BTreeMap<i32, Option<i32>>,
    incomplete: bool,
}

impl Told {
    fn of(events: &[Event]) -> Self {
        let mut told = Self::default();
        for event in events {
            let pid = event.pid().map(Pid::as_raw);
            match event.kind {
                EventKind::Fork { child } => {
                    let child = child.pid().as_raw();
                    assert!(told.born.insert(child), "born twice: {event}");
                    let early = told.execed.contains(&child) || told.ended.contains_key(&child);
                    assert!(!early, "before its birth: {event}");
                }
                EventKind::Exec => {
                    told.execed.extend(pid);
                }
                EventKind::Exit(status) => {
                    let twice = told.ended.insert(pid.unwrap(), status.raw());
                    assert_eq!(twice, None, "ended twice: {event}");
                }
                EventKind::TrackIncomplete => {
                    assert!(!told.incomplete, "told twice: {event}");
                    told.incomplete = true;
                }
                _ => panic!("{event}"),
            }
        }
        let unborn: Vec<_> = told
            .born
            .iter()
            .filter(|it| !told.ended.contains_key(it))
            .collect();
        assert!(unborn.is_empty(), "born and never ended: {unborn:?}");
        told
    }

    fn ended(&self) -> BTreeSet<i32> {
        self.ended.keys().copied().collect()
    }

    fn assert_statuses(&self) {
        for (pid, raw) in &self.ended {
            assert_eq!(*raw, Some(status_of(*pid)), "{pid}");
        }
    }

    /// Of those that died while they were looked for it may be unknown.
    fn assert_known_statuses(&self) {
        for (pid, raw) in &self.ended {
            assert_eq!(raw.unwrap_or(status_of(*pid)), status_of(*pid), "{pid}");
        }
    }
}

/// How many processes such a tree has.
fn size(generations: usize, width: usize) -> usize {
    (0..=generations).map(|depth| width.pow(depth as u32)).sum()
}

async fn every_process_is_told_of(generations: usize, width: usize) {
    let hub = connector().await;
    let mut shells = Tree::plant(GROW, &[generations, width]);
    let root = shells.root();
    let mut stream = hub.subscribe(tree(root)).await.unwrap();
    shells.go();
    let told = Told::of(&rest(&mut stream).await);
    let printed = shells.rest_of_pids();
    assert_eq!(printed.len(), size(generations, width));
    let mut below = printed.clone();
    below.remove(&root.as_raw());
    assert_eq!(told.born, below);
    assert_eq!(told.execed, below);
    assert_eq!(told.ended(), printed);
    assert!(!told.incomplete, "nothing happened while it was looked for");
    told.assert_statuses();
    drop(stream);
    until("nothing is left of it", async || {
        let stats = hub.stats().await.unwrap();
        (stats.tracked, stats.listening) == (0, false)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_deep_tree_is_followed_to_its_end() {
    every_process_is_told_of(60, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_wide_tree_is_followed() {
    every_process_is_told_of(1, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_bounded_fork_bomb_is_followed() {
    every_process_is_told_of(3, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn descendants_that_were_there_before_are_told_of() {
    const SHAPES: [(usize, usize); 3] = [(2, 6), (20, 1), (1, 50)];
    let hub = connector().await;
    for (generations, width) in SHAPES {
        let mut shells = Tree::plant(GROW_AND_HOLD, &[generations, width]);
        shells.go();
        let before = shells.pids(size(generations, width));
        let mut stream = hub.subscribe(tree(shells.root())).await.unwrap();
        shells.release();
        let told = Told::of(&rest(&mut stream).await);
        let after = shells.rest_of_pids();
        assert_eq!(after.len(), before.len(), "each had one more child");
        assert_eq!(told.born, after);
        assert_eq!(told.execed, after);
        assert_eq!(told.ended(), before.union(&after).copied().collect());
        assert!(!told.incomplete, "nobody died while they were looked for");
        told.assert_statuses();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces, and setsid"]
async fn daemons_stay_in_the_tree_that_they_left() {
    const COUNT: usize = 20;
    let hub = connector().await;
    let mut shells = Tree::plant(DAEMONS, &[COUNT]);
    let root = shells.root();
    let mut stream = hub.subscribe(tree(root)).await.unwrap();
    shells.go();
    let daemons = shells.pids(COUNT);
    // The root ends; its tree does not.
    let mut events = Vec::new();
    loop {
        let event = next(&mut stream).await;
        events.push(event);
        if event.pid() == Some(root) && exit_status(&event).is_some() {
            break;
        }
    }
    let early = events.iter().filter(|event| exit_status(event).is_some());
    let mut early = early.filter_map(|event| event.pid());
    assert!(early.all(|pid| !daemons.contains(&pid.as_raw())));
    shells.release();
    while let Some(event) = soon("the end of the stream", stream.next()).await {
        events.push(event);
    }
    let told = Told::of(&events);
    assert!(!told.incomplete);
    for daemon in &daemons {
        assert!(told.born.contains(daemon), "{daemon}");
        assert_eq!(told.ended.get(daemon), Some(&Some(status_of(*daemon))));
    }
    // And those in between, which left them.
    let between = told.ended.iter().filter(|(_, raw)| **raw == Some(9 << 8));
    assert_eq!(between.count(), COUNT);
}

/// The living descendants of a process, as the kernel has it now.
fn descendants(root: Pid) -> BTreeSet<i32> {
    let parent_of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(") ").next()?.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        (state != "Z").then_some((pid, parent))
    };
    let names = std::fs::read_dir("/proc").unwrap();
    let pids = names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<i32, i32> = pids.filter_map(parent_of).collect();
    let mut found = BTreeSet::from([root.as_raw()]);
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// In these trees every parent outlives its children, so nobody can slip through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_tree_that_grows_while_it_is_looked_for_is_found() {
    let mut rng = Rng::from_env();
    let hub = connector().await;
    for _ in 0..15 {
        let mut shells = Tree::plant(GROW, &[3, 5]);
        let all = size(3, 5);
        shells.go();
        let at = rng.below(all as u64 * 2 / 3) as usize;
        shells.pids(at);
        let mut stream = hub.subscribe(tree(shells.root())).await.unwrap();
        let now = descendants(shells.root());
        let mut events = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(4), stream.next()).await {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => {
                    for e in &events { eprintln!("EV {e}"); }
                    eprintln!("NOW {now:?} {:?} root {}", hub.stats().await, shells.root());
                    panic!("stuck");
                }
            }
        }
        let told = Told::of(&events);
        let missed: Vec<_> = now.difference(&told.born).collect();
        let missed: Vec<_> = missed
            .into_iter()
            .filter(|pid| !told.ended.contains_key(pid))
            .collect();
        assert!(missed.is_empty(), "at {at} of {all}: {missed:?} of {now:?}");
        told.assert_known_statuses();
        shells.rest_of_pids();
    }
}

/// Root, and below it so many times: a keeper, its child that leaves at the first
/// word, and the orphan that it leaves behind. All others end at the second.
const ORPHANS: &str = r#"
import os, sys
count = int(sys.argv[1])
leave, leaving = os.pipe()
end, ending = os.pipe()
for _ in range(count):
    if os.fork() == 0:
        between = os.fork()
        if between == 0:
            if os.fork() == 0:
                os.close(leaving); os.close(ending)
                os.write(1, b"%d %d\n" % (os.getpid(), os.getppid()))
                os.read(end, 1)
                os._exit(os.getpid() % 200)
            os.close(leaving); os.close(ending)
            os.read(leave, 1)
            os._exit(os.getpid() % 200)
        os.close(leaving); os.close(ending)
        os.waitpid(between, 0)
        os.read(end, 1)
        os._exit(os.getpid() % 200)
sys.stdin.readline()
os.close(leaving)
sys.stdin.readline()
os.close(ending)
for _ in range(count):
    os.wait()
os._exit(os.getpid() % 200)
"#;

/// Between a death and its report, in which its children are handed on first.
const REPORT_LATENESS: Duration = Duration::from_micros(500);

/// Processes are handed to another parent while the tree is being read: each is
/// found, or the stream says that some may be missing; and it says so only where
/// that may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces, and python3"]
async fn who_is_orphaned_during_the_look_is_found_or_told_to_be_missing() {
    const ROUNDS: usize = 25;
    const ORPHANS_EACH: usize = 30;
    let mut rng = Rng::from_env();
    let hub = connector().await;
    let observer = connector().await;
    let (mut found_all, mut told_missing) = (0, 0);
    for round in 0..ROUNDS {
        let mut python = Command::new("python3");
        python.args(["-c", ORPHANS, &ORPHANS_EACH.to_string()]);
        let mut processes = Tree::start(python);
        let orphans: Vec<(i32, i32)> = (0..ORPHANS_EACH)
            .map(|_| {
                let line = processes.line().unwrap();
                let (orphan, between) = line.split_once(' ').unwrap();
                (orphan.parse().unwrap(), between.parse().unwrap())
            })
            .collect();
        let leaving = orphans
            .iter()
            .map(|(_, between)| Pid::new(*between).unwrap());
        let leaving = Filter::pids(leaving).events(EventMask::EXIT);
        let mut leaving = observer.subscribe(leaving).await.unwrap();

        // The first word, and then the call; how far apart, chance decides.
        let spins = rng.below(400_000);
        processes.go();
        for _ in 0..spins {
            std::hint::spin_loop();
        }
        let called = Timestamp::now();
        let mut stream = hub.subscribe(tree(processes.root())).await.unwrap();
        let returned = Timestamp::now();

        let left: BTreeMap<i32, Timestamp> = rest(&mut leaving)
            .await
            .iter()
            .map(|event| (event.pid().unwrap().as_raw(), event.time))
            .collect();
        processes.go();
        let told = Told::of(&rest(&mut stream).await);
        told.assert_statuses();

        // Whom it could not see at all: an orphan before it was asked.
        let was_there = |between: &i32| left[between] > called.saturating_add(REPORT_LATENESS);
        let missed: Vec<_> = orphans
            .iter()
            .filter(|(orphan, between)| was_there(between) && !told.ended.contains_key(orphan))
            .map(|(orphan, between)| {
                let after = left[between].saturating_since(called);
                (orphan, after)
            })
            .collect();
        let whole = returned.saturating_since(called);
        assert!(
            missed.is_empty() || told.incomplete,
            "round {round}: of {ORPHANS_EACH} orphaned within {whole:?}, silently: {missed:?}"
        );
        if told.incomplete {
            let from = called.as_nanos() - REPORT_LATENESS.as_nanos() as u64;
            let during =
                |time: &&Timestamp| (from..=returned.as_nanos()).contains(&time.as_nanos());
            assert!(
                left.values().any(|time| during(&time)),
                "round {round}: nobody died"
            );
        }
        found_all += u32::from(missed.is_empty());
        told_missing += u32::from(told.incomplete);
    }
    eprintln!(
        "of {ROUNDS} looks {found_all} found all, {told_missing} told that some may be missing"
    );
}
