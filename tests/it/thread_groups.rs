//! Thread groups on the real kernel: one exit each, at the true end, with the
//! status that the parent's `waitpid` gave; watched early and late, through
//! every source, by stream, by hub watch and by free watch.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kmonitor::pidfd::LinuxProbe;
use kmonitor::source::{Identity, ProcessProbe, ProcessState};
use kmonitor::{
    Event, EventKind, EventMask, Exit, Filter, Hub, Pid, ProcessKey, SourceKind, Status,
};
use kmonitor_tests::{Hazard, Scenario};

use crate::HAZARD;

/// When the watcher comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before the process has done anything.
    Early,
    /// When its leader has gone, or its threads stand ready.
    Late,
}

const MOMENTS: [Moment; 2] = [Moment::Early, Moment::Late];

/// Everything is told within this time, or the test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What three ways of watching told of the same processes.
#[derive(Default)]
struct Told {
    stream: Vec<(i32, Status)>,
    hub_watch: Vec<(i32, Status)>,
    free_watch: Vec<(i32, Status)>,
}

impl Told {
    /// In pairs and not by pid: a pid may be used again within a run.
    fn hold_against(&self, truth: &[(i32, i32)], what: &str) {
        let mut truth: Vec<_> = truth.iter().map(|(pid, raw)| (*pid, Some(*raw))).collect();
        truth.sort_unstable();
        let ways = [
            ("stream", &self.stream),
            ("hub watch", &self.hub_watch),
            ("free watch", &self.free_watch),
        ];
        for (way, told) in ways {
            assert_eq!(told.len(), truth.len(), "{what}, {way}: one exit each");
            let mut told: Vec<_> = told.iter().map(|(pid, it)| (*pid, it.raw())).collect();
            told.sort_unstable();
            for (told, waited) in told.iter().zip(&truth) {
                assert_eq!(told, waited, "{what}, {way}");
            }
        }
    }
}

fn assert_dead(probe: &LinuxProbe, key: ProcessKey, what: &str) {
    let identity = Identity::Inode(key.inode().expect("a watched process has its inode"));
    let state = probe.state(key.pid(), Some(identity)).unwrap();
    assert_ne!(
        state,
        ProcessState::Alive,
        "{what}: premature exit of {key}"
    );
}

fn pids(raw: &[i32]) -> Vec<Pid> {
    raw.iter().map(|raw| Pid::new(*raw).unwrap()).collect()
}

async fn exits_of(mut stream: kmonitor::Subscription, what: &str) -> Vec<(i32, Status)> {
    let probe = LinuxProbe::new();
    let mut exits = Vec::new();
    while let Some(Event { process, kind, .. }) = stream.next().await {
        match (process, kind) {
            (Some(key), EventKind::Exit(status)) => {
                assert_dead(&probe, key, what);
                exits.push((key.pid().as_raw(), status));
            }
            (_, other) => panic!("{what}: {other}"),
        }
    }
    exits
}

fn flatten(exits: Vec<Exit>) -> Vec<(i32, Status)> {
    let pair = |exit: Exit| (exit.process.pid().as_raw(), exit.status);
    exits.into_iter().map(pair).collect()
}

/// Attaches to a batch in all three ways; gives what will be told.
async fn attach(hub: &Hub, batch: &[i32], what: &str) -> tokio::task::JoinHandle<Told> {
    let filter = Filter::pids(pids(batch)).events(EventMask::EXIT);
    let stream = hub.subscribe(filter).await.unwrap();
    let mut hub_watches = Vec::new();
    let mut free_watches = Vec::new();
    for pid in pids(batch) {
        hub_watches.push(hub.watch(pid).await.unwrap());
        free_watches.push(kmonitor::watch(pid));
    }
    let what = what.to_owned();
    tokio::spawn(async move {
        let stream = tokio::spawn(async move { exits_of(stream, &what).await });
        let hub_watch: FuturesUnordered<_> = hub_watches
            .into_iter()
            .map(IntoFuture::into_future)
            .collect();
        let free_watch: FuturesUnordered<_> = free_watches
            .into_iter()
            .map(IntoFuture::into_future)
            .collect();
        Told {
            hub_watch: flatten(hub_watch.map(Result::unwrap).collect().await),
            free_watch: flatten(free_watch.map(Result::unwrap).collect().await),
            stream: stream.await.unwrap(),
        }
    })
}

async fn run(scenario: Scenario, kind: SourceKind, moment: Moment, count: usize, at_once: usize) {
    let what = format!("{scenario} on {kind}, {moment:?}");
    let hub = Hub::builder().only(kind).open().await.unwrap();
    let mut hazard = Hazard::new(HAZARD, scenario)
        .count(count)
        .concurrency(at_once)
        .delay(Duration::from_millis(match scenario {
            Scenario::LeaderFirst => 20,
            _ => 0,
        }));
    hazard = match moment {
        Moment::Early => hazard.hold(),
        Moment::Late => hazard.late(),
    };
    let mut running = hazard.start().unwrap();
    let mut told = Told::default();
    loop {
        let batch = match moment {
            Moment::Early => running.pids().unwrap(),
            Moment::Late => running.late_pids().unwrap(),
        };
        if batch.is_empty() {
            break;
        }
        let telling = attach(&hub, &batch, &what).await;
        running.release().unwrap();
        let batch = tokio::time::timeout(PATIENCE, telling)
            .await
            .unwrap_or_else(|_| panic!("{what}: an exit is missing"))
            .unwrap();
        told.stream.extend(batch.stream);
        told.hub_watch.extend(batch.hub_watch);
        told.free_watch.extend(batch.free_watch);
    }
    let truth = running.finish().unwrap();
    assert_eq!(truth.len(), count);
    for (_, status) in &truth {
        assert!(scenario.allows(*status), "{what}: {status:#x}");
    }
    told.hold_against(&truth, &what);
}

async fn everywhere(scenario: Scenario, count: usize, at_once: usize) {
    for kind in [SourceKind::Connector, SourceKind::Pidfd] {
        for moment in MOMENTS {
            if moment == Moment::Late && !scenario.has_late_point() {
                continue;
            }
            run(scenario, kind, moment, count, at_once).await;
        }
    }
}

/// How many processes each scenario ends, per source and moment.
const MANY: usize = 1500;

macro_rules! scenarios {
    ($($name:ident: $scenario:ident, $count:expr, $at_once:expr;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs the proc connector: initial namespaces"]
        async fn $name() {
            everywhere(Scenario::$scenario, $count, $at_once).await;
        }
    )+};
}

scenarios! {
    plain_exits_once_each: Plain, MANY, 50;
    signals_kill_once_each: Signal, MANY, 50;
    leader_first_then_the_last_thread: LeaderFirst, MANY, 50;
    exec_by_a_thread_with_the_leader_waiting: ThreadExec, MANY, 30;
    exec_by_a_thread_with_the_leader_gone: ThreadExecLeaderGone, MANY, 30;
    exit7_in_a_thread_while_the_group_exits_with_5: ThreadExit7Group5, MANY, 4;
    leader_exits_3_last_thread_exits_9: Leader3Last9, MANY, 50;
    six_threads_race_exit_group: Race6, MANY, 20;
}
