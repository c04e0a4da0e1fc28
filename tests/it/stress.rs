//! When everything goes wrong at once: a reader that was stopped in a storm.

use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use kmonitor::connector::ConnectorSource;
use kmonitor::{
    Event, EventKind, EventMask, Filter, Hub, HubWatch, LossOrigin, Pid, SourceKind, Status,
    Subscription, UnknownReason,
};
use kmonitor_tests::{Hazard, RunningHazard, Scenario};
use rustix::process::{Signal, getpid, kill_process};

use crate::HAZARD;
use crate::counted::Counted;
use crate::elsewhere::alone;
use crate::netlink::own_connector_sockets;
use crate::patience::{next, soon, until};

const WATCHED: usize = 1000;
/// Each a fork and an exit: more than the largest queue holds.
const STORM: usize = 100_000;

#[test]
#[ignore = "needs the proc connector, and minutes on a slow machine"]
fn a_reader_stopped_in_a_storm_counts_its_loss_and_misses_no_exit() {
    alone(
        "stress::a_reader_stopped_in_a_storm_counts_its_loss_and_misses_no_exit",
        || stopped_in_a_storm(Holds::None),
    );
}

/// What pidfds buy: the status of who died and was reaped within the loss.
#[test]
#[ignore = "needs the proc connector, and minutes on a slow machine"]
fn with_held_pidfds_a_stopped_reader_knows_every_status() {
    alone(
        "stress::with_held_pidfds_a_stopped_reader_knows_every_status",
        || stopped_in_a_storm(Holds::All),
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    None,
    All,
}

/// Held processes, each with a watch, and a stream of their exits.
struct Watched {
    hazard: RunningHazard,
    watches: Vec<HubWatch>,
    named: Subscription,
}

impl Watched {
    async fn start(hub: &Hub) -> Self {
        let mut hazard = Hazard::new(HAZARD, Scenario::Plain)
            .count(WATCHED)
            .concurrency(WATCHED)
            .hold()
            .timeout_s(300)
            .start()
            .unwrap();
        let pids = hazard.pids().unwrap();
        let pids: Vec<Pid> = pids.into_iter().filter_map(Pid::new).collect();
        let mut watches = Vec::new();
        for pid in &pids {
            watches.push(hub.watch(*pid).await.unwrap());
        }
        let named = Filter::pids(pids).events(EventMask::EXIT);
        let named = hub.subscribe(named).await.unwrap();
        Self {
            hazard,
            watches,
            named,
        }
    }
}

fn drops() -> u64 {
    own_connector_sockets()
        .iter()
        .map(|socket| socket.drops)
        .sum()
}

/// Of the kernel's, all counted.
fn lost(event: &Event) -> u64 {
    match event.kind {
        EventKind::Lost(lost) if lost.origin == LossOrigin::Kernel => lost.count.unwrap(),
        _ => 0,
    }
}

/// Stops this whole program by SIGSTOP. Another one makes a storm then, has the watched
/// end in the midst of it, and at last has this one go on.
fn storm_while_stopped(hazard: &mut RunningHazard) {
    let half = format!("\"$0\" storm --count {} --pin >/dev/null", STORM / 2);
    let script = format!(
        "until grep -q '^State:.T' /proc/$PPID/status; do :; done
         {half} && echo && {half}; ended=$?; kill -CONT $PPID; exit $ended"
    );
    let mut storm = Command::new("sh");
    storm.args(["-c", &script, HAZARD]);
    let mut storm = hazard.release_by(&mut storm).unwrap();
    kill_process(getpid(), Signal::STOP).unwrap();
    assert!(storm.wait().unwrap().success());
}

async fn stopped_in_a_storm(holds: Holds) {
    let builder = Hub::builder().only(SourceKind::Connector);
    let hub = match holds {
        Holds::None => builder.holds_max(None),
        Holds::All => builder,
    };
    let hub = hub.open().await.unwrap();
    let Watched {
        mut hazard,
        watches,
        mut named,
    } = Watched::start(&hub).await;
    let host = Filter::host().events(EventMask::FORK);
    let mut host = hub.subscribe(host).await.unwrap();
    if holds == Holds::All {
        assert_eq!(hub.stats().await.unwrap().held, WATCHED);
    }

    storm_while_stopped(&mut hazard);
    let truth = hazard.finish_map().unwrap();

    let mut unknown = 0;
    for watch in watches {
        let exit = soon("an exit", watch).await.unwrap();
        unknown += usize::from(!agrees(exit.process.pid(), exit.status, &truth));
    }
    let told = told_of(&mut named, &truth).await;
    assert_eq!(told.exits, WATCHED, "each once");
    // Until all is read the kernel goes on dropping whatever happens on the host.
    let dropped = drops();
    assert!(dropped > 10_000, "no storm for this queue: {dropped}");
    assert_eq!(told.lost, dropped, "in the stream of some");
    // Its own queue overflowed too, which the kernel's losses are not part of.
    let mut host_lost = 0;
    while host_lost < dropped {
        host_lost += lost(&next(&mut host).await);
    }
    assert_eq!(host_lost, dropped, "in the host's stream");
    assert_eq!(drops(), dropped, "the storm is over");
    let stats = hub.stats().await.unwrap();
    assert_eq!(stats.lost_by_kernel, dropped);
    assert_eq!((stats.watches, stats.losses_uncounted), (0, 0));
    eprintln!("of {WATCHED} statuses {unknown} unknown, of {dropped} lost events none uncounted");
    match holds {
        Holds::All => assert_eq!(unknown, 0),
        Holds::None => assert!(unknown > 0, "no exit was lost: this tested nothing"),
    }
}

/// Whether a status is known: then it is what the parent was told.
fn agrees(pid: Pid, status: Status, truth: &HashMap<i32, i32>) -> bool {
    match status {
        Status::Unknown(UnknownReason::EventLost) => false,
        known => {
            assert_eq!(known.raw(), truth.get(&pid.as_raw()).copied(), "{pid}");
            true
        }
    }
}

struct Told {
    exits: usize,
    lost: u64,
}

async fn told_of(named: &mut Subscription, truth: &HashMap<i32, i32>) -> Told {
    let mut seen = HashMap::new();
    let mut sum = 0;
    while let Some(event) = soon("the end of the stream", named.next()).await {
        sum += lost(&event);
        if let EventKind::Exit(status) = event.kind {
            let pid = event.pid().unwrap();
            let known = agrees(pid, status, truth);
            assert!(known || event.inferred, "{event}");
            assert_eq!(seen.insert(pid, known), None, "ended twice: {event}");
        }
    }
    Told {
        exits: seen.len(),
        lost: sum,
    }
}

/// The least queue there is, which never grows, and everything asked for at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector"]
async fn the_least_queue_under_a_storm_misses_no_watch_and_recovers() {
    let source = ConnectorSource::builder()
        .receive_buffer_bytes(1)
        .receive_buffer_bytes_max(1);
    let (source, asked) = Counted::new(source.open().await.unwrap());
    let hub = Hub::builder().source(source).open().await.unwrap();
    let Watched {
        mut hazard,
        watches,
        mut named,
    } = Watched::start(&hub).await;
    let mut tree = hub.subscribe(Filter::tree(Pid::current())).await.unwrap();
    let mut host = hub.subscribe(Filter::host()).await.unwrap();

    let before = (asked.fruitful(), asked.in_vain());
    let storm = tokio::task::spawn_blocking(|| kmonitor_tests::storm(HAZARD, STORM / 5));
    hazard.release().unwrap();
    let truth = tokio::task::spawn_blocking(|| hazard.finish_map().unwrap());
    let truth = truth.await.unwrap();
    storm.await.unwrap().unwrap();
    for watch in watches {
        let exit = soon("an exit", watch).await.unwrap();
        agrees(exit.process.pid(), exit.status, &truth);
    }
    let told = told_of(&mut named, &truth).await;
    assert_eq!(told.exits, WATCHED, "each once");
    assert!(told.lost > 0, "no loss: this tested nothing");
    // Counted, not timed: who reads asks once in vain for each time that something was
    // there, and before it sleeps; who spins does so for as long as it may, so it gets
    // a while in which not much happens.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fruitful = asked.fruitful() - before.0;
    let in_vain = asked.in_vain() - before.1;
    eprintln!("the source was asked {fruitful} times with, {in_vain} without an answer");
    assert!(in_vain <= 4 * fruitful + 100, "it spins");

    // All of them go on as if nothing had been.
    let mut last = Command::new("sh");
    let last = last.args(["-c", "read x; exit 7"]).stdin(Stdio::piped());
    let mut last = last.spawn().unwrap();
    let pid = Pid::try_from(last.id()).unwrap();
    let watch = hub.watch(pid).await.unwrap();
    drop(last.stdin.take());
    let exit = soon("an exit", watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(7), "{exit}");
    last.wait().unwrap();
    // Of a single process's few events some may find no room in such a queue.
    let mut spawned = HashSet::new();
    let (mut in_tree, mut in_host) = (false, false);
    let goes_on = |stream: &mut Subscription, spawned: &HashSet<Pid>| {
        let mut goes_on = false;
        while let Some(Some(event)) = stream.next().now_or_never() {
            let exit = matches!(event.kind, EventKind::Exit(_));
            goes_on |= exit && event.pid().is_some_and(|pid| spawned.contains(&pid));
        }
        goes_on
    };
    until("both streams go on", async || {
        let mut child = Command::new("true").spawn().unwrap();
        spawned.insert(Pid::try_from(child.id()).unwrap());
        child.wait().unwrap();
        in_tree |= goes_on(&mut tree, &spawned);
        in_host |= goes_on(&mut host, &spawned);
        in_tree && in_host
    })
    .await;
}

/// Threads that come and go faster than they can be listed: each look at the process
/// would cause the next, and nobody else be served.
#[test]
#[ignore = "needs the proc connector"]
fn a_process_of_many_short_threads_holds_up_nobody() {
    alone(
        "stress::a_process_of_many_short_threads_holds_up_nobody",
        beside_many_short_threads,
    );
}

async fn beside_many_short_threads() {
    const STAYING: usize = 300;
    const BEGETTING: usize = 10;
    let ended = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..STAYING {
        let ended = Arc::clone(&ended);
        threads.push(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::park();
            }
        }));
    }
    for _ in 0..BEGETTING {
        let ended = Arc::clone(&ended);
        threads.push(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let brief = || std::thread::sleep(Duration::from_millis(5));
                let born: Vec<_> = (0..8).map(|_| std::thread::spawn(brief)).collect();
                for thread in born {
                    thread.join().unwrap();
                }
            }
        }));
    }
    let hub = Hub::builder().only(SourceKind::Connector).open();
    let hub = soon("a hub", hub).await.unwrap();
    let own = Filter::pid(Pid::current()).events(EventMask::EXIT | EventMask::THREAD_EXIT);
    let stream = hub.subscribe(own);
    let mut stream = soon("a subscription", stream).await.unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let watch = hub.watch(Pid::try_from(child.id()).unwrap());
    let watch = soon("a watch", watch).await.unwrap();
    let answers = async {
        for _ in 0..1000 {
            stream.next().await.unwrap();
            hub.stats().await.unwrap();
        }
    };
    soon("a thousand answers", answers).await;
    child.kill().unwrap();
    let exit = soon("an exit", watch).await.unwrap();
    assert_eq!(exit.status.signal(), Some(9));
    child.wait().unwrap();
    ended.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.thread().unpark();
        thread.join().unwrap();
    }
}
