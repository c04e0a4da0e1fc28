//! Facts as a kernel would tell them, and the processes they are about.

use std::sync::Arc;

use kmonitor_event::{Pid, Timestamp};
use kmonitor_source::{BATCH_FACTS_MAX, Fact, FactKind};

use crate::rng::Rng;

/// The pids that a large machine hands out: `pid_max` of 64-bit Linux where
/// something (systemd) has raised it to its limit.
const PID_MAX: usize = 4 << 20;

/// Below are the system's own.
const PID_MIN: usize = 300;

/// The length of the ring of facts: some 20 000 processes, so that the tables
/// are looked at in many places, in a multiple of whole batches.
const RING_FACTS: usize = 60 * BATCH_FACTS_MAX;

/// Processes that somebody subscribes to, and others that nobody does.
#[derive(Debug, Clone)]
pub struct Population {
    /// In random order: they were started at any time.
    pub subscribed: Vec<Pid>,
    /// In the order in which a kernel hands them out, which is by number, leaving
    /// out those in use.
    pub others: Vec<Pid>,
}

impl Population {
    /// So many subscribed processes, anywhere among the pids.
    #[must_use]
    pub fn new(subscribed: usize) -> Self {
        let mut pids: Vec<usize> = (PID_MIN..PID_MAX).collect();
        Rng::new(7).shuffle(&mut pids);
        let mut others = pids.split_off(subscribed);
        others.sort_unstable();
        let pid = |raw: usize| i32::try_from(raw).ok().and_then(Pid::new);
        Self {
            subscribed: pids.into_iter().filter_map(pid).collect(),
            others: others.into_iter().filter_map(pid).collect(),
        }
    }
}

/// Short processes that nobody subscribed to, each a fork, an exec and an exit,
/// with pids one after the other, all started by one shell or make.
#[must_use]
pub fn unmatched_sequential(population: &Population) -> Arc<[Fact]> {
    lives(&population.others, population.others[0])
}

/// The same with pids anywhere, which is kinder to no cache. No kernel does this.
#[must_use]
pub fn unmatched_random(population: &Population) -> Arc<[Fact]> {
    let mut rng = Rng::new(11);
    let others = &population.others;
    let pids: Vec<Pid> = (0..RING_FACTS / 3)
        .map(|_| others[rng.below(others.len())])
        .collect();
    lives(&pids, others[0])
}

fn lives(pids: &[Pid], parent: Pid) -> Arc<[Fact]> {
    let parent = Some(parent);
    let kinds = pids.iter().skip(1).flat_map(|pid| {
        let pid = *pid;
        [
            FactKind::Forked { parent, child: pid },
            FactKind::Execed { process: pid },
            FactKind::TaskExited {
                process: pid,
                tid: pid.leader(),
                code: 0,
                parent,
            },
        ]
    });
    stamped(kinds.take(RING_FACTS))
}

/// Execs of subscribed processes, in random order: of each one as often as of any
/// other, before any comes again.
#[must_use]
pub fn matched(population: &Population) -> Arc<[Fact]> {
    matched_of(population, population.subscribed.len())
}

/// The same of so many of them, at most: the others do nothing.
#[must_use]
pub fn matched_of(population: &Population, busy: usize) -> Arc<[Fact]> {
    let pids = &population.subscribed;
    let mut order = matched_order(pids.len());
    order.truncate(busy);
    let whole_rounds = RING_FACTS.div_ceil(order.len()) * order.len();
    let execs = order.iter().cycle().take(whole_rounds);
    stamped(execs.map(|at| FactKind::Execed { process: pids[*at] }))
}

/// Whom the facts of [`matched`] are about, of so many, and in this order: not in the order in which
/// they were subscribed to, which is how they lie in memory.
#[must_use]
pub fn matched_order(subscribed: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..subscribed).collect();
    Rng::new(13).shuffle(&mut order);
    order
}

fn stamped(kinds: impl Iterator<Item = FactKind>) -> Arc<[Fact]> {
    let times = (1_u64..).map(|n| Timestamp::from_nanos(n * 14_000));
    let facts = times.zip(kinds).map(|(time, kind)| Fact::new(time, kind));
    facts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nobody_is_both_subscribed_and_not() {
        let population = Population::new(1000);
        let subscribed: HashSet<Pid> = population.subscribed.iter().copied().collect();
        assert_eq!(subscribed.len(), 1000);
        assert!(
            population
                .others
                .iter()
                .all(|pid| !subscribed.contains(pid))
        );
        assert!(population.others.is_sorted());
        let facts = unmatched_sequential(&population);
        assert_eq!(facts.len(), RING_FACTS);
        assert_eq!(matched(&population).len() % 1000, 0);
    }
}
