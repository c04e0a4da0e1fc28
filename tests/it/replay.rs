//! What was recorded of a run comes out again when it is replayed.

use std::num::NonZeroUsize;

use kmonitor::source::replay::ReplaySource;
use kmonitor::source::sim::{SimConfig, SimKernel};
use kmonitor::{Event, EventMask, Filter, Hub};
use kmonitor_tests::Rng;
use serde_json::Value;

use crate::patience::{PATIENCE, rest, soon, until};

/// More than any run here tells.
const ROOM: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

fn everything() -> Filter {
    Filter::host().events(EventMask::all()).queue_events(ROOM)
}

/// A recording has no place for what only its hub knew.
fn as_recorded(event: &Event) -> Value {
    let mut line = serde_json::to_value(event).unwrap();
    let fields = line.as_object_mut().unwrap();
    for field in ["key", "incarnation", "child_key", "child_incarnation"] {
        fields.remove(field);
    }
    line
}

/// Names the first difference, with what was told of that process before.
fn hold_against(replayed: &[Event], recorded: &[Event]) {
    for (is, due) in replayed.iter().zip(recorded) {
        if as_recorded(is) != as_recorded(due) {
            let history = recorded
                .iter()
                .filter(|event| event.pid() == due.pid() && event.seq <= due.seq + 20);
            let history: Vec<_> = history.map(|e| as_recorded(e).to_string()).collect();
            let (is, due) = (as_recorded(is), as_recorded(due));
            panic!(
                "{is}\ncame instead of\n{due}\namong\n{}",
                history.join("\n")
            );
        }
    }
    assert_eq!(replayed.len(), recorded.len());
}

async fn record(seed: u64) -> Vec<Event> {
    let config = SimConfig::default()
        .seed(seed)
        .pid_max(200)
        .queue_facts_max(1 << 16);
    let kernel = SimKernel::new(config);
    let hub = Hub::builder()
        .source(kernel.source())
        .probe(kernel.probe())
        .open();
    let hub = hub.await.unwrap();
    let mut stream = hub.subscribe(everything()).await.unwrap();
    kernel.run(3000);
    kernel.settle();
    kernel.end();
    rest(&mut stream).await
}

async fn replay(recording: String) -> Vec<Event> {
    let source = ReplaySource::new(std::io::Cursor::new(recording));
    let probe = source.probe();
    let hub = Hub::builder().source(source).probe(probe).open();
    let hub = hub.await.unwrap();
    let mut stream = hub.subscribe(everything()).await.unwrap();
    rest(&mut stream).await
}

#[tokio::test]
async fn a_replayed_recording_is_the_same_stream() {
    let mut rng = Rng::from_env();
    for _ in 0..10 {
        let seed = rng.next_u64();
        eprintln!("simulated kernel with seed {seed}");
        let recorded = record(seed).await;
        assert!(recorded.len() > 1000, "{} events only", recorded.len());
        let lines: String = recorded
            .iter()
            .map(|event| serde_json::to_string(event).unwrap() + "\n")
            .collect();
        let replayed = replay(lines).await;
        hold_against(&replayed, &recorded);
    }
}

#[tokio::test]
async fn a_broken_line_ends_the_stream_and_is_named() {
    let good = r#"{"type":"exit","seq":0,"time_ns":9,"pid":8,"status":{"code":0}}"#;
    let source = ReplaySource::new(std::io::Cursor::new(format!("{good}\n{{\"type\":")));
    let probe = source.probe();
    let hub = Hub::builder().source(source).probe(probe).open();
    let hub = soon("the hub", hub).await.unwrap();
    let mut stream = hub.subscribe(everything()).await.unwrap();
    assert_eq!(rest(&mut stream).await.len(), 1);
    let mut reason = String::new();
    until("the hub is closed", async || match hub.stats().await {
        Ok(_) => false,
        Err(closed) => {
            reason = closed.reason;
            true
        }
    })
    .await;
    assert!(reason.contains("line 2"), "{reason} within {PATIENCE:?}");
}
