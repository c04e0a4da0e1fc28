//! A loss is told at its place: what a source with a small buffer tells is
//! compared with what another one, with a large buffer, was told meanwhile.

mod common;

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::process::Command;
use std::time::Duration;

use common::{Feed, lost_count};
use kmonitor_connector::ConnectorSource;
use kmonitor_source::{EventSource, Fact, FactKind};
use tokio::time::timeout;

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_loss_is_told_between_the_facts_that_it_parts() {
    let large = ConnectorSource::builder().receive_buffer_bytes(64 << 20);
    let small = ConnectorSource::builder()
        .receive_buffer_bytes(4 << 10)
        .receive_buffer_bytes_max(4 << 10);
    // In this order: the kernel serves the youngest member of a group first. A
    // processor that is held up between the two sockets then hands its event to the
    // small one late, never early.
    let mut feed = Feed::listening_with(small).await;
    let mut reference = Feed::listening_with(large).await;

    let program = "i=0; while [ $i -lt 3000 ]; do (:); i=$((i+1)); done";
    let mut storm = Command::new("sh")
        .args(["-c", program])
        .spawn()
        .expect("sh is installed");
    while storm.try_wait().expect("a child").is_none() {
        let batch = poll_fn(|cx| feed.source.poll_batch(cx, &mut feed.facts));
        let read = timeout(common::PATIENCE, batch).await;
        read.expect("a storm").expect("reading goes on");
        // A slow reader: the queue overflows again and again.
        std::thread::sleep(Duration::from_millis(3));
    }
    feed.source.close(&mut feed.facts).expect("IGNORE is taken");
    reference
        .source
        .close(&mut reference.facts)
        .expect("IGNORE is taken");
    assert_eq!(reference.told_lost(), 0);

    // Each of two processors may have one event queued to one socket and not yet to
    // the other.
    const BETWEEN_SOCKETS_MAX: i64 = 2;
    let key = |fact: &Fact| (fact.time, format!("{:?}", fact.kind));
    let told: HashSet<_> = feed.facts.iter().map(key).collect();
    let (mut losses, mut told_lost, mut told_facts, mut excess) = (0, 0, 0, 0);
    // How many of the reference's facts up to each were never told.
    let mut never_told = 0;
    let mut missing_up_to = HashMap::new();
    for fact in reference.facts.iter().map(key) {
        never_told += i64::from(!told.contains(&fact));
        missing_up_to.insert(fact, never_told);
    }
    let mut missing = 0;
    // From the first that both were told: the reference began a moment later.
    let both = |fact: &&Fact| missing_up_to.contains_key(&key(fact));
    let first = feed.facts.iter().find(both).expect("facts");
    let missing_before = missing_up_to[&key(first)];
    let begun = feed.facts.iter().skip_while(|fact| !both(fact));
    for fact in begun {
        if let FactKind::Lost { .. } = fact.kind {
            losses += 1;
            told_lost += i64::try_from(lost_count(&fact.kind)).expect("a small number");
            continue;
        }
        let Some(up_to) = missing_up_to.get(&key(fact)) else {
            continue;
        };
        told_facts += 1;
        missing = (*up_to - missing_before).max(missing);
        // A loss that follows before the first was counted is counted with the
        // first: too early, never too late.
        assert!(
            told_lost >= missing - BETWEEN_SOCKETS_MAX,
            "{} missing in silence after {losses} losses",
            missing - told_lost
        );
        excess = told_lost - missing;
    }
    // The answers to other programs' requests are dropped like events.
    let answers = reference.source.stats().received - reference.facts.len() as u64;
    let answers = i64::try_from(answers).expect("a small number");
    assert!(
        excess <= answers + BETWEEN_SOCKETS_MAX,
        "{excess} told lost that were not, {answers} answers"
    );
    assert!(told_facts >= 1_000, "only {told_facts} facts to compare");
    assert!(losses >= 10, "only {losses} losses to look at");
}
