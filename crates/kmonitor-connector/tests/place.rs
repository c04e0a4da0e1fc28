//! A loss is told at its place: what a source with a small buffer tells is
//! compared with what another one, with a large buffer, was told meanwhile.

mod common;

use std::collections::HashMap;
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
    let mut reference = Feed::listening_with(large).await;
    let mut feed = Feed::listening_with(small).await;

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

    // Two processors may queue to two sockets in either order.
    const SWAPPED_MAX: i64 = 2;
    let key = |fact: &Fact| (fact.time, format!("{:?}", fact.kind));
    let places: HashMap<_, _> = reference.facts.iter().map(key).zip(0i64..).collect();
    let (mut losses, mut told_not_missing, mut told_here, mut last) = (0, 0, None, None);
    for fact in &feed.facts {
        if let FactKind::Lost { .. } = fact.kind {
            let count = i64::try_from(lost_count(&fact.kind)).expect("a small number");
            told_here = Some(told_here.unwrap_or(0) + count);
            continue;
        }
        let Some(place) = places.get(&key(fact)).copied() else {
            continue;
        };
        let missing = last.map_or(0, |last: i64| place - last - 1);
        if let Some(count) = told_here.take() {
            losses += 1;
            told_not_missing += count - missing;
        } else {
            assert!(missing <= SWAPPED_MAX, "{missing} are missing in silence");
        }
        // A loss that follows before the first was counted is counted with the
        // first: too early, never too late.
        assert!(
            told_not_missing >= -SWAPPED_MAX,
            "{told_not_missing} after {losses} losses"
        );
        last = Some(place);
    }
    // The answers to other programs' requests are dropped like events.
    let answers = reference.source.stats().received - reference.facts.len() as u64;
    let answers = i64::try_from(answers).expect("a small number");
    assert!(told_not_missing <= answers + SWAPPED_MAX);
    assert!(losses >= 10, "only {losses} losses to look at");
}
