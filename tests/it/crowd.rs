//! Thousands of real processes, watched through one hub and ended at once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kmonitor::connector::ConnectorSource;
use kmonitor::{Event, EventKind, EventMask, Filter, Hub, Pid};
use kmonitor_tests::{Hazard, RunningHazard, Scenario};

use crate::netlink::own_connector_sockets;

/// Seconds until the kernel ends the crowd, whatever happens here.
const TIMEOUT_S: u32 = 900;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The hub's thread may be looking at some process just then, by a descriptor or two.
fn assert_flat(before: usize, now: usize) {
    assert!(now <= before + 2, "{before} descriptors became {now}");
}

/// How many processes, and how many have the same parent: the kernel takes ever
/// longer to fork one that has tens of thousands of children.
pub(crate) struct Crowd {
    pub(crate) parents: usize,
    pub(crate) children: usize,
    /// The kernel's queue: the exits of them all come faster than anybody reads.
    pub(crate) queue_bytes: usize,
}

impl Crowd {
    const fn count(&self) -> usize {
        self.parents * self.children
    }

    fn start(&self, program: &Path) -> Vec<RunningHazard> {
        let start = |_| {
            let hazard = Hazard::new(program, Scenario::Plain);
            let hazard = hazard.count(self.children).concurrency(self.children);
            hazard.hold().timeout_s(TIMEOUT_S).start().unwrap()
        };
        (0..self.parents).map(start).collect()
    }
}

/// Held against what their parents were told by their own `waitpid`: each exit once,
/// by its watch and in a stream, with its status; and one descriptor for them all.
/// `all_watched` is called while all of them live.
pub(crate) async fn watch_and_end(program: &Path, crowd: Crowd, all_watched: impl FnOnce()) {
    let count = crowd.count();
    let source = ConnectorSource::builder().receive_buffer_bytes(crowd.queue_bytes);
    let hub = Hub::builder()
        .source(source.open().await.unwrap())
        .holds_max(None)
        .open()
        .await
        .unwrap();
    let mut parents = crowd.start(program);
    let pids = parents.iter_mut().flat_map(|it| it.pids().unwrap());
    let pids: Vec<Pid> = pids.filter_map(Pid::new).collect();
    assert_eq!(pids.len(), count);
    let before = open_descriptors();
    let watches = FuturesUnordered::new();
    for pid in &pids {
        watches.push(hub.watch(*pid).await.unwrap().into_future());
    }
    let filter = Filter::pids(pids.iter().copied()).events(EventMask::EXIT);
    let filter = filter.queue_events(NonZeroUsize::new(count).unwrap());
    let stream = hub.subscribe(filter).await.unwrap();
    assert_eq!(own_connector_sockets().len(), 1);
    assert_flat(before, open_descriptors());
    let stats = hub.stats().await.unwrap();
    assert_eq!(
        (stats.watches, stats.tracked, stats.held),
        (count, count, 0)
    );
    all_watched();

    for parent in &mut parents {
        parent.release().unwrap();
    }
    let (exits, events) = futures::join!(
        watches.map(Result::unwrap).collect::<Vec<_>>(),
        stream.collect::<Vec<_>>()
    );
    let truth = parents.into_iter().map(RunningHazard::finish_map);
    let truth: HashMap<i32, i32> = truth.flat_map(Result::unwrap).collect();
    assert_eq!(truth.len(), count);
    let told = exits.iter().map(|exit| (exit.process.pid(), exit.status));
    agree(
        "watches",
        told.map(|(pid, status)| (pid, status.raw())),
        &truth,
    );
    agree("the stream", events.iter().map(exit), &truth);
    assert_flat(before, open_descriptors());
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.watches, stats.tracked), (0, 0));
    assert_eq!((stats.lost_by_kernel, stats.losses_uncounted), (0, 0));
}

fn exit(event: &Event) -> (Pid, Option<i32>) {
    match event.kind {
        EventKind::Exit(status) => (event.pid().unwrap(), status.raw()),
        _ => panic!("no exit: {event}"),
    }
}

fn agree(who: &str, told: impl Iterator<Item = (Pid, Option<i32>)>, truth: &HashMap<i32, i32>) {
    let mut due = truth.clone();
    for (pid, status) in told {
        let waited = due.remove(&pid.as_raw());
        assert!(
            waited.is_some(),
            "{who}: {pid} ended twice, or is a stranger"
        );
        assert_eq!(status, waited, "{who}: {pid}");
    }
    assert!(due.is_empty(), "{who}: {} exits were missed", due.len());
}
