//! Ten thousand processes watched at once through one hub.

use std::collections::HashMap;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kmonitor::{Hub, Pid, SourceKind};
use kmonitor_tests::{Hazard, Scenario};

use crate::HAZARD;
use crate::elsewhere::alone;

const PROCESSES: usize = 10_000;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[ignore = "needs the proc connector and room for 10 000 processes"]
fn ten_thousand_watches_take_no_descriptors_and_miss_no_exit() {
    alone(
        "many::ten_thousand_watches_take_no_descriptors_and_miss_no_exit",
        watch_ten_thousand,
    );
}

async fn watch_ten_thousand() {
    let hub = Hub::builder()
        .only(SourceKind::Connector)
        .holds_max(None)
        .open()
        .await
        .unwrap();
    let mut hazard = Hazard::new(HAZARD, Scenario::Plain)
        .count(PROCESSES)
        .concurrency(PROCESSES)
        .hold()
        .timeout_s(300)
        .start()
        .unwrap();
    let pids = hazard.pids().unwrap();
    assert_eq!(pids.len(), PROCESSES);
    let before = open_descriptors();
    let watches = FuturesUnordered::new();
    for pid in pids {
        let watch = hub.watch(Pid::new(pid).unwrap()).await.unwrap();
        watches.push(watch.into_future());
    }
    assert!(
        open_descriptors() <= before + 2,
        "{before} descriptors became {}",
        open_descriptors()
    );
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.watches, stats.held), (PROCESSES, 0));
    hazard.release().unwrap();
    let exits: Vec<_> = watches.map(Result::unwrap).collect().await;
    let truth: HashMap<i32, i32> = hazard.finish_map().unwrap();
    assert_eq!(exits.len(), truth.len());
    for exit in exits {
        let waited = truth.get(&exit.process.pid().as_raw()).copied();
        assert_eq!(exit.status.raw(), waited, "{exit}");
    }
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.watches, stats.tracked), (0, 0));
    assert!(!stats.listening, "nothing is watched any more");
}
