//! A loss is told at its place: what a source with a small buffer tells is
//! compared with what another one, with a large buffer, was told meanwhile.

mod common;

use std::collections::HashMap;
use std::future::poll_fn;
use std::process::Command;
use std::time::Duration;

use common::Feed;
use kmonitor_connector::ConnectorSource;
use kmonitor_source::{EventSource, Fact, FactKind};
use tokio::time::timeout;

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_loss_is_told_between_the_facts_that_it_parts() {
    let large = ConnectorSource::builder().receive_buffer_bytes(64 << 20);
    let small = ConnectorSource::builder().receive_buffer_bytes(4 << 10);
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

    let key = |fact: &Fact| (fact.time, format!("{:?}", fact.kind));
    let places: HashMap<_, _> = reference.facts.iter().map(key).zip(0i64..).collect();
    let mut losses = 0;
    for window in feed.facts.windows(3) {
        let [before, lost, after] = window else {
            continue;
        };
        let FactKind::Lost { count: Some(count) } = lost.kind else {
            continue;
        };
        let (Some(from), Some(to)) = (places.get(&key(before)), places.get(&key(after))) else {
            continue;
        };
        losses += 1;
        let missing = to - from - 1;
        // The answers to other programs' requests are lost with the events, and
        // two processors may queue to two sockets in either order.
        let off = missing.abs_diff(i64::try_from(count).expect("a small number"));
        assert!(
            off <= 2,
            "{missing} are missing where {count} are told lost"
        );
    }
    assert!(losses >= 10, "only {losses} losses to look at");
}
