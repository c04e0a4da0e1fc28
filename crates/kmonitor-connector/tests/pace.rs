//! Pauses while events come thick: fewer wake-ups, nothing late otherwise, nothing
//! lost. Budgets far longer than the default make it plain what does not wait.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::future::poll_fn;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{Feed, pid_of};
use kmonitor_connector::ConnectorSource;
use kmonitor_event::Pid;
use kmonitor_source::{EventSource, FactKind};

const LONG: Duration = Duration::from_secs(3600);

fn storm(forks: u32) -> Child {
    let program = "i=0; while [ $i -lt $1 ]; do (:); i=$((i+1)); done";
    Command::new("sh")
        .args(["-c", program, "storm", &forks.to_string()])
        .spawn()
        .unwrap()
}

fn marker() -> Pid {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    pid_of(&child)
}

async fn listening(budget: Duration) -> Feed {
    Feed::listening_with(ConnectorSource::builder().latency_budget(budget)).await
}

fn forks_of(feed: &Feed, parent: Pid) -> usize {
    let by = |fact: &&kmonitor_source::Fact| matches!(fact.kind, FactKind::Forked { parent: Some(it), .. } if it == parent);
    feed.facts.iter().filter(by).count()
}

/// Passes wake-ups on, and counts them.
struct Counting(Waker, AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.wake_by_ref();
    }
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_storm_wakes_the_reader_seldom_and_loses_nothing() {
    const FORKS: u32 = 6000;
    let mut feed = listening(Duration::from_millis(5)).await;
    let mut storm = storm(FORKS);
    let parent = pid_of(&storm);
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let counting = Arc::new(Counting(waker, AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counting));
    let ended = |feed: &Feed| {
        let kinds = feed.facts.iter().rev().take(2000).map(|fact| fact.kind);
        kinds
            .into_iter()
            .any(|kind| matches!(kind, FactKind::TaskExited { process, .. } if process == parent))
    };
    while !ended(&feed) {
        let facts = &mut feed.facts;
        let source = &mut feed.source;
        poll_fn(|_| source.poll_batch(&mut Context::from_waker(&waker), facts))
            .await
            .unwrap();
    }
    storm.wait().unwrap();
    assert_eq!(forks_of(&feed, parent), FORKS as usize);
    assert_eq!(feed.told_lost(), 0);
    let (wakes, pauses) = (
        counting.1.load(Ordering::Relaxed),
        feed.source.stats().pauses,
    );
    assert!(pauses > 10, "{pauses}");
    assert!(
        wakes * 4 < feed.facts.len(),
        "{wakes} for {}",
        feed.facts.len()
    );
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn few_events_are_told_at_once() {
    let mut feed = listening(LONG).await;
    // Fewer wake-ups than make a storm. Other programs' events count too, so
    // where those begin a pause the test says nothing, and takes another turn.
    for _ in 0..50 {
        let pid = marker();
        let told = tokio::time::timeout(Duration::from_secs(5), feed.until_exit(pid)).await;
        if feed.source.stats().pauses == 0 {
            told.expect("no pause");
            return;
        }
        feed = listening(LONG).await;
    }
    panic!("never quiet enough");
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn without_a_budget_there_are_no_pauses() {
    let mut feed = listening(Duration::ZERO).await;
    let mut storm = storm(1000);
    feed.until_exit(pid_of(&storm)).await;
    storm.wait().unwrap();
    assert_eq!(feed.source.stats().pauses, 0);
    assert!(is_due(&mut feed).await);
}

async fn is_due(feed: &mut Feed) -> bool {
    poll_fn(|cx| Poll::Ready(feed.source.poll_due(cx).is_ready())).await
}

/// In a pause it is not time to read; but who asks is told all that is there, and
/// pending means empty.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_pause_hides_nothing_from_who_asks() {
    let mut feed = listening(LONG).await;
    let mut storm = storm(100_000);
    while feed.source.stats().pauses == 0 {
        let facts = &mut feed.facts;
        let batch = poll_fn(|cx| match feed.source.poll_batch(cx, facts) {
            Poll::Pending if feed.source.stats().pauses > 0 => Poll::Ready(Ok(())),
            polled => polled,
        });
        batch.await.unwrap();
    }
    storm.kill().unwrap();
    storm.wait().unwrap();
    for _ in 0..20 {
        let pid = marker();
        assert!(!is_due(&mut feed).await);
        let facts = &mut feed.facts;
        while poll_fn(|cx| Poll::Ready(feed.source.poll_batch(cx, facts)))
            .await
            .is_ready()
        {}
        // FORK and EXEC at least: waitpid(2) can return a moment before the kernel
        // has queued the exit.
        assert!(feed.about(pid).len() >= 2, "{:?}", feed.about(pid));
    }
    assert_eq!(feed.source.stats().pauses, 1);
}

/// From pauses to wake-ups and back, hundreds of times: somebody always wakes us.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn after_each_burst_the_next_event_is_told() {
    let mut feed = listening(Duration::from_millis(5)).await;
    for round in 0..200 {
        let mut burst = storm(10 + round % 60);
        feed.until_exit(pid_of(&burst)).await;
        burst.wait().unwrap();
        let pid = marker();
        feed.until_exit(pid).await;
        feed.facts.clear();
    }
    assert!(feed.source.stats().pauses > 0);
}
