//! What the program and its hub hold while nobody asks anything of them.

use std::fmt;
use std::time::{Duration, Instant};

use kmonitor::Hub;

use crate::memory::resident_kib;

const PATIENCE: Duration = Duration::from_secs(30);

/// How much more may be resident in the last quarter than in the first: what an
/// allocator's luck is good for, and far less than a leak of a few bytes an event
/// makes of the millions of events there are.
const GROWTH_MAX_KIB: i64 = 2048;

pub(crate) struct Usage {
    resident_kib: i64,
    descriptors: usize,
}

impl Usage {
    /// Once the hub has swept up what was dropped.
    pub(crate) async fn at_rest(hub: &Hub) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = hub.stats().await.unwrap();
            let tables = [
                stats.subscriptions,
                stats.watches,
                stats.tracked,
                stats.held,
            ];
            if tables == [0; 4] && !stats.listening {
                break;
            }
            assert!(Instant::now() < deadline, "not at rest: {stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self {
            resident_kib: resident_kib(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        }
    }

    pub(crate) fn must_hold_nothing_more_than(&self, first: &Self) {
        // The hub's thread may be looking at some process just then.
        assert!(
            self.descriptors <= first.descriptors + 2,
            "{first} became {self}"
        );
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident_kib,
            descriptors,
        } = self;
        write!(f, "{resident_kib} KiB, {descriptors} descriptors")
    }
}

fn median(rounds: &[Usage]) -> i64 {
    let mut all: Vec<i64> = rounds.iter().map(|usage| usage.resident_kib).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// At least four rounds.
pub(crate) fn must_not_grow(rounds: &[Usage]) {
    let quarter = rounds.len() / 4;
    let first = median(&rounds[..quarter]);
    let last = median(&rounds[rounds.len() - quarter..]);
    println!("resident, medians: {first} KiB in the first quarter, {last} KiB in the last");
    assert!(last - first <= GROWTH_MAX_KIB, "it grows");
}
