//! One round of work: all at once what users do one after the other.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::AddAssign;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt as _;
use kmonitor::{EventKind, EventMask, Filter, Hub, LossOrigin, Pid, Subscription};
use kmonitor_tests::{Hazard, Scenario};

/// Children of each storm.
const STORM: usize = 10_000;

/// Longer than a storm takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const WATCHED: usize = 300;
const VISITORS: usize = 1000;

/// What a round did.
#[derive(Default)]
pub(crate) struct Done {
    sent: u64,
    delivered: u64,
    lost: u64,
    /// Streams into which the kernel's losses came: what was sent is not known then.
    gaps: u64,
    watched: usize,
    visitors: usize,
}

impl AddAssign for Done {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.gaps += other.gaps;
        self.watched += other.watched;
        self.visitors += other.visitors;
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            delivered,
            lost,
            gaps,
            watched,
            visitors,
        } = self;
        write!(
            f,
            "{sent} events sent: {delivered} delivered, {lost} told as lost; {gaps} streams with \
             losses of the kernel's; {watched} watches; {visitors} subscriptions that came and went"
        )
    }
}

pub(crate) async fn round(hub: &Hub, hazard: &Path, visited: &Filter) -> Done {
    // Tasks, because starting processes blocks.
    let (storms, watchers, visitors) = (hub.clone(), hub.clone(), hub.clone());
    let (program, hazard) = (hazard.to_owned(), hazard.to_owned());
    let storm = tokio::spawn(async move { counted_storm(&storms, &program).await });
    let watched = tokio::spawn(async move { watches(&watchers, &hazard).await });
    let visited = visited.clone();
    let visitors = tokio::spawn(async move { come_and_go(&visitors, &visited).await });
    let mut done = storm.await.unwrap();
    done.watched = watched.await.unwrap();
    done.visitors = visitors.await.unwrap();
    done
}

/// A storm read by one who keeps up and by one who comes when it is over.
async fn counted_storm(hub: &Hub, hazard: &Path) -> Done {
    let storm = Hazard::new(hazard, Scenario::Storm)
        .count(STORM)
        .pin()
        .hold();
    let mut storm = storm.start().unwrap();
    assert!(storm.pids().unwrap().is_empty());
    let root = Pid::try_from(storm.id()).unwrap();
    let filter = Filter::tree(root).events(EventMask::FORK | EventMask::EXIT);
    let little = filter.clone().queue_events(NonZeroUsize::new(64).unwrap());
    let mut fast = hub.subscribe(filter).await.unwrap();
    let mut slow = hub.subscribe(little).await.unwrap();
    storm.release().unwrap();
    let ended = tokio::task::spawn_blocking(|| storm.finish().unwrap());
    let mut done = read(hub, root, &mut fast).await;
    ended.await.unwrap();
    done += read(hub, root, &mut slow).await;
    done
}

/// Reads to the end. A fork and an exit of each child, and the end of the root.
async fn read(hub: &Hub, root: Pid, stream: &mut Subscription) -> Done {
    const SENT: u64 = 2 * STORM as u64 + 1;
    let mut done = Done::default();
    let mut seq = 0;
    let mut root_ended = false;
    let mut exits = 0;
    loop {
        let Ok(next) = tokio::time::timeout(PATIENCE, stream.next()).await else {
            panic!(
                "{} delivered ({exits} exits), {} lost, {SENT} sent, the end of {root} told: {root_ended}, \
                 it is there: {}, and nothing more comes: {:?}",
                done.delivered,
                done.lost,
                Path::new(&format!("/proc/{root}")).exists(),
                hub.stats().await.unwrap()
            );
        };
        let Some(event) = next else { break };
        let exit = matches!(event.kind, EventKind::Exit(_));
        exits += u64::from(exit);
        root_ended |= exit && event.pid() == Some(root);
        assert_eq!(event.seq, seq, "numbered without gaps");
        seq += 1;
        match event.kind {
            EventKind::Lost(lost) if lost.origin == LossOrigin::Subscription => {
                done.lost += lost.count.unwrap();
            }
            EventKind::Lost(_) => done.gaps = 1,
            _ => done.delivered += 1,
        }
    }
    let told = done.delivered + done.lost;
    if done.gaps == 0 {
        assert_eq!(told, SENT, "delivered and lost, {exits} of them exits");
    } else {
        assert!(told <= SENT, "{told}");
    }
    done.sent = told;
    done
}

/// Watches of which some are waited for from the start, some are given up, and some
/// are asked only in the end.
async fn watches(hub: &Hub, hazard: &Path) -> usize {
    let hazard = Hazard::new(hazard, Scenario::Plain).count(WATCHED);
    let mut hazard = hazard.concurrency(WATCHED).hold().start().unwrap();
    let mut kept = Vec::new();
    for (at, pid) in hazard.pids().unwrap().into_iter().enumerate() {
        let pid = Pid::new(pid).unwrap();
        // Given up while the hub is at it.
        drop(hub.watch(pid).now_or_never());
        let mut watch = hub.watch(pid).await.unwrap();
        let waited = watch.settled().now_or_never();
        assert!(waited.is_none(), "it lives: {waited:?}");
        if at % 3 != 0 {
            kept.push(watch);
        }
    }
    hazard.release().unwrap();
    let truth = tokio::task::spawn_blocking(|| hazard.finish_map().unwrap());
    let truth = truth.await.unwrap();
    let told = kept.len();
    for watch in kept {
        let exit = watch.await.unwrap();
        // Whoever died in a loss of the kernel's may have a status nobody knows.
        if let Some(status) = exit.status.raw() {
            assert_eq!(truth.get(&exit.process.pid().as_raw()), Some(&status));
        }
    }
    told
}

/// Subscriptions that are dropped with events in their queue, waited for
/// and given up, or never even answered.
async fn come_and_go(hub: &Hub, visited: &Filter) -> usize {
    for at in 0..VISITORS {
        let queue = NonZeroUsize::new(1 + at % 100).unwrap();
        let filter = visited.clone().queue_events(queue);
        drop(hub.subscribe(filter.clone()).now_or_never());
        let mut stream = hub.subscribe(filter).await.unwrap();
        let _ = stream.next().now_or_never();
        stream.set_mask(EventMask::EXIT).await.unwrap();
        stream.add(Pid::current()).await.unwrap();
        tokio::task::yield_now().await;
        let _ = stream.next().now_or_never();
        drop(hub.stats().now_or_never());
    }
    VISITORS
}
