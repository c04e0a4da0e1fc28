//! A loss is told at its place: what a source with a small buffer tells is
//! compared with what another one, with a large buffer, was told meanwhile.

mod common;

use std::collections::HashMap;
use std::future::poll_fn;
use std::process::Command;

use common::{Feed, lost_count};
use kmonitor_connector::ConnectorSource;
use kmonitor_source::EventSource;
use tokio::time::timeout;

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_loss_is_told_between_the_facts_that_it_parts() {
    let big = ConnectorSource::builder().receive_buffer_bytes(64 << 20);
    let small = ConnectorSource::builder().receive_buffer_bytes(16 << 10);
    let mut reference = Feed::listening_with(big).await;
    let mut feed = Feed::listening_with(small).await;

    let program = "i=0; while [ $i -lt 3000 ]; do (:); i=$((i+1)); done";
    let mut storm = Command::new("sh").args(["-c", program]).spawn().expect("sh is installed");
    while storm.try_wait().expect("a child").is_none() {
        let batch = poll_fn(|cx| feed.source.poll_batch(cx, &mut feed.facts));
        timeout(common::PATIENCE, batch).await.expect("a storm").expect("reading goes on");
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    feed.source.close(&mut feed.facts).expect("IGNORE is taken");
    reference.source.close(&mut reference.facts).expect("IGNORE is taken");
    assert_eq!(reference.told_lost(), 0);

    let places: HashMap<_, _> = reference.facts.iter().enumerate()
        .map(|(at, fact)| ((fact.time, format!("{:?}", fact.kind)), at)).collect();
    let place = |fact: &kmonitor_source::Fact| places.get(&(fact.time, format!("{:?}", fact.kind))).copied();
    let mut diffs = vec![];
    for window in feed.facts.windows(3) {
        let [before, lost, after] = window else { continue };
        let count = lost_count(&lost.kind);
        if !matches!(lost.kind, kmonitor_source::FactKind::Lost{..}) { continue }
        if let (Some(b), Some(a)) = (place(before), place(after)) {
            diffs.push((count, a as i64 - b as i64 - 1 - count as i64));
        } else { diffs.push((count, -99999)); }
    }
    println!("{} facts, ref {}, {:?}", feed.facts.len(), reference.facts.len(), diffs);
    println!("{:?}", feed.source.stats());
}
