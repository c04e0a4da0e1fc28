//! The filter in the kernel, on a real connector: who is not wanted wakes nobody,
//! what is wanted is never missed, and where the kernel refuses, more comes, not less.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::future::poll_fn;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::{Feed, pid_of};
use kmonitor_connector::ConnectorSource;
use kmonitor_event::{EventMask, Pid, ProcessKey};
use kmonitor_source::{EventSource, FactKind, KernelInterest, Narrowing};
use tokio::sync::Mutex;

/// The limit for programs is the whole system's, and answers to other listeners
/// would be counted as wake-ups.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// As the hub asks for what it must know of any process.
const TRACKING: EventMask = EventMask::THREAD_CREATE
    .union(EventMask::EXEC)
    .union(EventMask::EXIT);

/// A process that ends when it is told to.
fn waiting() -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "read line; exit 3"]);
    command.stdin(Stdio::piped()).spawn().unwrap()
}

fn let_end(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
}

fn storm(forks: u32) -> Child {
    let program = "read line; i=0; while [ $i -lt $1 ]; do (:); i=$((i+1)); done";
    Command::new("sh")
        .args(["-c", program, "storm", &forks.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

fn key(pid: Pid) -> ProcessKey {
    ProcessKey::new(pid, 1)
}

fn interest_in(pids: impl IntoIterator<Item = Pid>) -> KernelInterest {
    let mut interest = KernelInterest::new();
    for pid in pids {
        interest.want(key(pid), TRACKING, None);
    }
    interest
}

async fn narrowed(interest: &KernelInterest) -> Feed {
    let mut feed = Feed {
        source: ConnectorSource::open().await.unwrap(),
        facts: Vec::new(),
    };
    feed.want(interest).await;
    feed
}

fn exits(feed: &Feed, pid: Pid) -> usize {
    let about = feed.about(pid);
    let exit = |kind: &&FactKind| matches!(kind, FactKind::TaskExited { .. });
    about.iter().filter(exit).count()
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn who_watches_one_process_is_woken_by_no_other() {
    const FORKS: u32 = 2000;
    let _one = ONE_AT_A_TIME.lock().await;
    let mut target = waiting();
    let pid = pid_of(&target);
    let mut feed = narrowed(&interest_in([pid])).await;
    let caps = feed.source.capabilities();
    assert!(matches!(caps.narrowing, Narrowing::Processes { max: 2.. }));

    // What happened before it was asked to hold back.
    while poll_fn(|cx| Poll::Ready(feed.source.poll_batch(cx, &mut feed.facts)))
        .await
        .is_ready()
    {}
    let before = feed.source.stats();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let poll = feed.source.poll_batch(&mut cx, &mut feed.facts);
    assert!(poll.is_pending());
    let mut others = storm(FORKS);
    let_end(&mut others);
    // The reactor gets its turns.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let (woken, after) = (wakes.0.load(Ordering::Relaxed), feed.source.stats());
    // Answers to the requests of other programs do pass; of the storm nothing does,
    // which has two events a fork.
    let answers = after.received - before.received;
    assert!(
        woken <= 100 && answers <= 100,
        "{woken} wake-ups, {after:?}"
    );
    assert_eq!(after.dropped, before.dropped, "held back is not lost");
    feed.facts.clear();

    let_end(&mut target);
    feed.until_exit(pid).await;
    // Its exec, which may be reported after its parent went on, and its exit.
    assert_eq!(feed.about(pid).len(), feed.facts.len(), "{:?}", feed.facts);
    assert_eq!(exits(&feed, pid), 1);
}

/// See `forgets_its_listeners`: on some kernels this would be the end of all events.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_filter_that_lets_nothing_pass_silences_nobody() {
    let _one = ONE_AT_A_TIME.lock().await;
    let mut feed = narrowed(&interest_in([Pid::new(1).unwrap()])).await;
    for _ in 0..3 {
        let_end(&mut storm(50));
        let mut child = waiting();
        let pid = pid_of(&child);
        feed.want(&interest_in([pid])).await;
        let_end(&mut child);
        feed.until_exit(pid).await;
    }
}

/// Wide enough before it is ready: the process ends as soon as it is.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn it_is_widened_before_it_is_confirmed() {
    let _one = ONE_AT_A_TIME.lock().await;
    let mut interest = KernelInterest::new();
    let mut feed = narrowed(&interest_in([Pid::new(1).unwrap()])).await;
    for round in 0..300 {
        let mut child = waiting();
        let pid = pid_of(&child);
        interest.want(key(pid), TRACKING, None);
        feed.want(&interest).await;
        interest.settle();
        let_end(&mut child);
        feed.until_exit(pid).await;
        if round % 3 > 0 {
            interest.forget(key(pid));
        }
        feed.facts.clear();
    }
}

/// Ten thousand changes, while a process forks whose children are always wanted.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn nothing_is_lost_while_filters_are_replaced() {
    const FORKS: u32 = 6000;
    const CHANGES: u32 = 10_000;
    let _one = ONE_AT_A_TIME.lock().await;
    let mut forker = storm(FORKS);
    let parent = pid_of(&forker);
    let wanted = EventMask::FORK | EventMask::EXIT;
    let mut interest = KernelInterest::new();
    interest.want(key(parent), wanted, None);
    let mut feed = narrowed(&interest).await;
    let started = forker.stdin.take().unwrap().write_all(b"\n");
    started.unwrap();
    let (mut changes, mut other) = (0, 1_000_000);
    while changes < CHANGES || forker.try_wait().unwrap().is_none() {
        // Another process each time, and now and then kinds, or the whole host.
        let old = ProcessKey::new(Pid::new(other).unwrap(), 1);
        other += 1;
        interest.forget(old);
        let new = ProcessKey::new(Pid::new(other).unwrap(), 1);
        interest.want(new, wanted, None);
        match changes % 64 {
            7 => interest.set_host(EventMask::UID | EventMask::FORK),
            8 => interest.set_host(EventMask::all()),
            9 => interest.set_host(EventMask::empty()),
            _ => {}
        }
        feed.want(&interest).await;
        interest.settle();
        changes += 1;
        if changes % 16 == 0 {
            let facts = &mut feed.facts;
            let read = poll_fn(|cx| Poll::Ready(feed.source.poll_batch(cx, facts))).await;
            assert!(!matches!(read, Poll::Ready(Err(_))));
        }
    }
    feed.source.close(&mut feed.facts).unwrap();
    assert_eq!(feed.told_lost(), 0);
    let children = feed.facts.iter().filter(
        |fact| matches!(fact.kind, FactKind::Forked { parent: Some(it), .. } if it == parent),
    );
    assert_eq!(children.count(), FORKS as usize, "{changes} changes");
    assert_eq!(exits(&feed, parent), 1);
}

/// The limit of the kernel's memory for programs, put back at the end.
struct Limit(String);

impl Limit {
    const PATH: &str = "/proc/sys/net/core/optmem_max";

    fn lower(bytes: u32) -> Self {
        let before = std::fs::read_to_string(Path::new(Self::PATH)).unwrap();
        std::fs::write(Self::PATH, bytes.to_string()).unwrap();
        Self(before)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        std::fs::write(Self::PATH, self.0.trim()).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces; lowers net.core.optmem_max"]
async fn where_the_kernel_has_no_room_more_passes() {
    let _one = ONE_AT_A_TIME.lock().await;
    for (bytes, expected) in [
        (1024, Narrowing::Processes { max: 50 }),
        (100, Narrowing::None),
    ] {
        let mut child = waiting();
        let pid = pid_of(&child);
        let strangers = (0..99).map(|n| Pid::new(2_000_000 + n).unwrap());
        // Of exits only: where all that is common passes no filter is asked for.
        let mut interest = KernelInterest::new();
        for pid in strangers.chain([pid]) {
            interest.want(key(pid), EventMask::EXIT, None);
        }
        let limit = Limit::lower(bytes);
        let mut feed = narrowed(&interest).await;
        drop(limit);
        assert_eq!(feed.source.capabilities().narrowing, expected);
        let mut stranger = waiting();
        let_end(&mut stranger);
        let_end(&mut child);
        feed.until_exit(pid).await;
        assert_eq!(exits(&feed, pid_of(&stranger)), 1, "all exits pass");
    }
}
