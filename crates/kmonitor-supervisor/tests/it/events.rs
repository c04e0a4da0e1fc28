//! What a tree tells of itself.

use futures::StreamExt;
use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::{Cause, Event, EventKind, Events, Supervisor};

use crate::{secs, service, start};

/// All there are now.
async fn drain(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(secs(0), events.next()).await {
        all.push(event);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn every_change_is_told_with_its_cause() {
    let sim = Sim::new().programs(
        "app/a",
        [Program::new().exits_after(secs(5), 1), Program::new()],
    );
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let (snapshot, mut events) = tree.handle().subscribe();
    assert!(
        snapshot
            .child("app/a")
            .is_some_and(kmonitor_supervisor::ChildStatus::is_ready)
    );
    tokio::time::sleep(secs(60)).await;
    tree.handle()
        .child("a")
        .expect("declared")
        .stop()
        .await
        .expect("it stops");
    let told = drain(&mut events).await;
    let numbers: Vec<u64> = told.iter().map(|event| event.seq).collect();
    let expected: Vec<u64> = (snapshot.seq + 1..).take(told.len()).collect();
    assert_eq!(numbers, expected, "none is missing, none is told twice");
    let kinds: Vec<(&str, &Cause)> = told
        .iter()
        .map(|event| {
            let kind = match event.kind {
                EventKind::Exited { .. } => "exited",
                EventKind::RestartScheduled { .. } => "scheduled",
                EventKind::Stopped => "gone",
                EventKind::Starting { generation: 2 } => "starting",
                EventKind::Started { .. } => "started",
                EventKind::Ready => "ready",
                EventKind::StopRequested { .. } => "stop",
                _ => "?",
            };
            (kind, &event.cause)
        })
        .collect();
    let (itself, user) = (&Cause::Itself, &Cause::User);
    let expected = [
        ("exited", itself),
        ("scheduled", itself),
        ("gone", itself),
        ("starting", itself),
        ("started", itself),
        ("ready", itself),
        ("stop", user),
        ("exited", user),
        ("gone", user),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(told[0].at, secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_the_state_instead() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let handle = tree.handle();
    let (_, mut slow) = handle.subscribe_with(3);
    let (_, mut quick) = handle.subscribe();
    let a = handle.child("a").expect("it is declared");
    for _ in 0..5 {
        a.restart().await.expect("it restarts");
    }
    let last = drain(&mut quick).await.last().map(|event| event.seq);
    let told = drain(&mut slow).await;
    let [resync] = &told[..] else {
        panic!("{told:?}");
    };
    let EventKind::Resync(snapshot) = &resync.kind else {
        panic!("{resync:?}");
    };
    assert_eq!(Some(snapshot.seq), last);
    assert_eq!(snapshot.child("app/a").map(|a| a.generation), Some(6));
    a.stop().await.expect("it stops");
    let after = drain(&mut slow).await;
    assert_eq!(
        after[0].seq,
        snapshot.seq + 1,
        "from here on nothing is missing"
    );
    assert_eq!(after.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_with_the_tree() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let (_, events) = tree.handle().subscribe();
    tree.shutdown().await;
    let all: Vec<Event> = events.collect().await;
    let last = all.last().expect("there are some");
    assert!(matches!(last.kind, EventKind::Ended { .. }));
    assert_eq!(last.path.as_str(), "app");
    let (_, mut late) = tree.handle().subscribe();
    assert!(late.recv().await.is_none());
}
