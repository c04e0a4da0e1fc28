//! Trees of real processes: every descendant is told of, from the moment that
//! the call returns, those that were there before among them; by what the
//! processes themselves print.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use kmonitor::pidfd::LinuxProbe;
use kmonitor::source::{
    HeldProcess, Identity, Listing, ProbeError, ProcessEntry, ProcessProbe, ProcessState,
    ReapFuture, ThreadState,
};
use kmonitor::{Event, EventKind, EventMask, Filter, Hub, Pid, SourceKind};
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
    sh -c 'setsid sh -c "echo \$\$; read word <&3; exit \$((\$\$ % 200))" & exit 250'
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
            .args([
                "-c",
                &format!("echo runs; exec 3<&0; read word; {script}"),
                "sh",
            ])
            .args(arguments.iter().map(ToString::to_string))
            .env("SELF", script);
        let tree = Self::start(command);
        // Spawning returns before the exec is reported.
        assert_eq!(tree.line().unwrap(), "runs");
        tree
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

/// Names what one set has more than the other, rather than both.
fn assert_same(told: &BTreeSet<i32>, due: &BTreeSet<i32>) {
    let differing: Vec<_> = told.symmetric_difference(due).collect();
    assert!(differing.is_empty(), "not both told and due: {differing:?}");
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
    assert_same(&told.born, &below);
    assert_same(&told.execed, &below);
    assert_same(&told.ended(), &printed);
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
        assert_same(&told.born, &after);
        assert_same(&told.execed, &after);
        assert_same(&told.ended(), &before.union(&after).copied().collect());
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
    let mut early = early.filter_map(Event::pid);
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
    let between = told.ended.iter().filter(|(_, raw)| **raw == Some(250 << 8));
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
        let told = Told::of(&rest(&mut stream).await);
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

/// Root, and below it so many times: a keeper, its child that leaves when its turn
/// comes (a line each), and the orphan that it leaves behind. All others end at
/// the end of the input.
const ORPHANS: &str = r#"
import os, sys
count = int(sys.argv[1])
turns = [os.pipe() for _ in range(count)]
end, ending = os.pipe()
def shut():
    os.close(ending)
    for _, write in turns:
        os.close(write)
for leave, _ in turns:
    if os.fork() == 0:
        between = os.fork()
        if between == 0:
            if os.fork() == 0:
                shut()
                os.write(1, b"%d %d\n" % (os.getpid(), os.getppid()))
                os.read(end, 1)
                os._exit(os.getpid() % 200)
            shut()
            os.read(leave, 1)
            os._exit(os.getpid() % 200)
        shut()
        os.waitpid(between, 0)
        os.read(end, 1)
        os._exit(os.getpid() % 200)
os.write(1, b"all\n")
for _, write in turns:
    sys.stdin.readline()
    os.close(write)
sys.stdin.read()
os.close(ending)
for _ in range(count):
    os.wait()
os._exit(os.getpid() % 200)
"#;

type Interruption = Box<dyn FnOnce() + Send>;

/// A probe whose look at all processes is interrupted: those below a pid are as
/// they were before, those from it on as they were after. So it may well happen.
#[derive(Clone, Default)]
struct Interrupted {
    inner: LinuxProbe,
    next: Arc<Mutex<Option<(i32, Interruption)>>>,
}

impl ProcessProbe for Interrupted {
    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        self.inner.processes(processes)?;
        let next = self.next.lock().unwrap().take();
        if let Some((from, interruption)) = next {
            interruption();
            let mut after = Vec::new();
            self.inner.processes(&mut after)?;
            processes.retain(|process| process.pid.as_raw() < from);
            processes.extend(after.iter().filter(|process| process.pid.as_raw() >= from));
        }
        Ok(())
    }

    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        self.inner.identify(pid)
    }

    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        self.inner.state(pid, identity)
    }

    fn hold(
        &self,
        pid: Pid,
        identity: Option<Identity>,
    ) -> Result<Option<Box<dyn HeldProcess>>, ProbeError> {
        self.inner.hold(pid, identity)
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        self.inner.threads(pid, threads)
    }

    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        self.inner.reaped(pid, identity)
    }
}

/// A process is handed to another parent while the tree is being read: it is
/// found, or the stream says that some may be missing. Its own parent is reaped at
/// once, so that sometimes not even the report of its death names the family.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces, and python3"]
async fn who_is_orphaned_during_the_look_is_found_or_told_to_be_missing() {
    const COUNT: usize = 60;
    let mut rng = Rng::from_env();
    let probe = Interrupted::default();
    let builder = Hub::builder().only(SourceKind::Connector);
    let hub = builder.probe(probe.clone()).open().await.unwrap();
    let observer = connector().await;

    let mut python = Command::new("python3");
    python.args(["-c", ORPHANS, &COUNT.to_string()]);
    let processes = Arc::new(Mutex::new(Tree::start(python)));
    let root = processes.lock().unwrap().root();
    // As they are forked: of each its pid, and that of the one between.
    let mut pairs = Vec::new();
    let mut all = false;
    while pairs.len() < COUNT || !all {
        let line = processes.lock().unwrap().line().unwrap();
        match line.split_once(' ') {
            Some((orphan, between)) => {
                let pair: (i32, i32) = (orphan.parse().unwrap(), between.parse().unwrap());
                pairs.push(pair);
            }
            None => all = true,
        }
    }
    let leavers = pairs.iter().map(|(_, between)| Pid::new(*between).unwrap());
    let leavers = Filter::pids(leavers).events(EventMask::EXIT);
    let mut leavers = observer.subscribe(leavers).await.unwrap();
    let (tell, left) = mpsc::channel();
    tokio::spawn(async move {
        while let Some(event) = leavers.next().await {
            if tell.send(event.pid().unwrap().as_raw()).is_err() {
                return;
            }
        }
    });

    let left = Arc::new(Mutex::new(left));
    let mut streams = Vec::new();
    pairs.sort_unstable_by_key(|(_, between)| *between);
    for (orphan, between) in &pairs {
        // Whose turn it is, the order of the pipes decides, and of the pids only
        // mostly: the look is cut within the family or close by.
        let from = if rng.chance(1, 2) { *orphan } else { *between };
        let (processes, left) = (Arc::clone(&processes), Arc::clone(&left));
        let (say, heard) = mpsc::channel();
        let interruption = move || {
            processes.lock().unwrap().go();
            // Its exit is in all queues when it was told to another listener.
            let gone = left.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            say.send(gone).unwrap();
        };
        *probe.next.lock().unwrap() = Some((from, Box::new(interruption)));
        let stream = soon("the subscription", hub.subscribe(tree(root))).await;
        streams.push((from, heard.try_recv().unwrap(), stream.unwrap()));
    }
    processes.lock().unwrap().release();
    let mut gone_before = BTreeSet::new();
    let (mut found, mut told_missing) = (0, 0);
    for (from, between, mut stream) in streams {
        let told = Told::of(&rest(&mut stream).await);
        told.assert_known_statuses();
        gone_before.insert(between);
        for (orphan, parent) in &pairs {
            let seen = told.ended.contains_key(orphan);
            if *parent == between {
                found += u32::from(seen);
                told_missing += u32::from(told.incomplete);
                assert!(
                    seen || told.incomplete,
                    "{orphan} is missing in silence: {parent} left when the look was at {from}"
                );
            } else if !gone_before.contains(parent) {
                assert!(
                    seen || told.incomplete,
                    "{orphan} was no orphan, and is missing"
                );
            }
        }
    }
    eprintln!(
        "of {COUNT} looks {found} found the orphan, {told_missing} said that some may be missing"
    );
}
