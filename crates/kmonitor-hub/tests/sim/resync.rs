//! What a loss took is found out, and told between two marks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kmonitor_event::{Event, EventKind, EventMask, Pid, Resync, Status, UnknownReason};
use kmonitor_hub::{Filter, Hub};
use kmonitor_source::sim::{SimConfig, SimKernel};

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub, hub_on, hub_probing, idle, kinds, status_of, subscribe};

/// The births in a stream: parent, child, and whether it was inferred.
fn births(events: &[Event]) -> Vec<(Pid, Pid, bool)> {
    let births = events.iter().filter_map(|event| match event.kind {
        EventKind::Fork { child } => Some((event.pid()?, child.pid(), event.inferred)),
        _ => None,
    });
    births.collect()
}

/// The marks in a stream.
fn marks(events: &[Event]) -> Vec<Resync> {
    let marks = events.iter().filter_map(|event| match event.kind {
        EventKind::Resync(mark) => Some(mark),
        _ => None,
    });
    marks.collect()
}

const COMPLETE: [Resync; 2] = [Resync::Begin, Resync::End { complete: true }];
const PERHAPS_NOT: [Resync; 2] = [Resync::Begin, Resync::End { complete: false }];

/// Whether all that was inferred stands between the marks.
fn inferred_stand_between_marks(events: &[Event]) -> bool {
    let mut within = false;
    events.iter().all(|event| {
        if let EventKind::Resync(mark) = event.kind {
            within = mark == Resync::Begin;
        }
        within || !event.inferred
    })
}

#[tokio::test(start_paused = true)]
async fn births_within_a_loss_are_told_and_followed() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let stranger = kernel.spawn().unwrap();
    kernel.advance(Duration::from_millis(200));
    let mut tree = subscribe(&hub, Filter::tree(root)).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    let mut named = subscribe(&hub, Filter::pid(root).keep_open()).await;
    kernel.lose(1);
    let child = kernel.fork(root).unwrap();
    let grandchild = kernel.fork(child).unwrap();
    let others = kernel.fork(stranger).unwrap();
    let gone = kernel.fork(root).unwrap();
    kernel.exit_group(gone.leader(), 1).unwrap();
    idle().await;
    let later = kernel.fork(grandchild).unwrap();
    for (code, pid) in (2..).zip([later, grandchild, child, root, others]) {
        kernel.exit_group(pid.leader(), code).unwrap();
    }

    let in_tree = drain(&mut tree).await;
    assert_eq!(marks(&in_tree), COMPLETE);
    let expected = [
        (root, child, true),
        (child, grandchild, true),
        (grandchild, later, false),
    ];
    assert_eq!(births(&in_tree), expected);
    let ended = [later, grandchild, child, root];
    assert_eq!(exits(&in_tree).len(), 4, "{in_tree:?}");
    for (code, pid) in (2..).zip(ended) {
        assert_eq!(status_of(&in_tree, pid).code(), Some(code));
    }

    let in_host = drain(&mut host).await;
    assert_eq!(marks(&in_host), COMPLETE);
    let mut told = births(&in_host);
    told.sort_unstable();
    let mut all = expected.to_vec();
    all.push((stranger, others, true));
    all.sort_unstable();
    assert_eq!(told, all);
    assert_eq!(status_of(&in_host, others).code(), Some(6));
    assert!(inferred_stand_between_marks(&in_host) && inferred_stand_between_marks(&in_tree));

    // Who is not to be told of births is told where the loss is, and no more.
    let by_name = drain(&mut named).await;
    assert_eq!(
        births(&by_name).iter().filter(|it| it.0 == root).count(),
        births(&by_name).len()
    );
    assert_eq!(marks(&by_name), COMPLETE);

    let stats = hub.stats().await.unwrap();
    assert_eq!(
        (stats.resyncs, stats.looks, stats.births_inferred),
        (1, 1, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn marks_stand_around_the_ends_that_were_lost_and_wait_for_their_statuses() {
    let config = SimConfig::default().status_readable(false);
    let (kernel, hub) = hub_on(config).await;
    let pids = [(); 300].map(|()| kernel.spawn().unwrap());
    let filter = Filter::pids(pids).events(EventMask::EXIT).keep_open();
    let mut events = subscribe(&hub, filter).await;
    kernel.lose(1);
    for pid in pids {
        kernel.exit_group(pid.leader(), 3).unwrap();
    }
    let events = drain(&mut events).await;
    assert_eq!(exits(&events).len(), pids.len());
    assert!(inferred_stand_between_marks(&events));
    assert_eq!(marks(&events), COMPLETE);
    let last = kinds(&events).pop();
    assert_eq!(last, Some("resync"));
    let stats = hub.stats().await.unwrap();
    assert_eq!(stats.deaths_inferred, pids.len() as u64);
    assert_eq!(stats.looks, 0, "nobody was to be told of births");
}

/// Runs a hub on which the given happens when the process table is read the first
/// time after a loss, before or after the reading.
async fn hub_with_happening(
    kernel: &SimKernel,
    after: bool,
    happens: impl Fn(&SimKernel) + Send + Sync + 'static,
) -> (Hub, Arc<AtomicUsize>) {
    let armed = Arc::new(AtomicUsize::new(0));
    let fuse = Arc::clone(&armed);
    let happens = move |kernel: &SimKernel| {
        if fuse.swap(0, Ordering::SeqCst) > 0 {
            happens(kernel);
        }
    };
    let probe = FaultyProbe::new(kernel);
    let probe = if after {
        probe.after_listing(happens)
    } else {
        probe.during_listing(happens)
    };
    (hub_probing(kernel, probe).await, armed)
}

/// The look is ahead of the queue.
#[tokio::test(start_paused = true)]
async fn a_birth_whose_report_is_still_to_come_is_told_once() {
    for (dies, host) in [(false, false), (true, false), (false, true), (true, true)] {
        let kernel = SimKernel::with_seed(4);
        let root = kernel.spawn().unwrap();
        let (hub, armed) = hub_with_happening(&kernel, false, move |kernel| {
            let late = kernel.fork(root).unwrap();
            let later = kernel.fork(late).unwrap();
            kernel.set_next_pid(Pid::new(300).unwrap()).unwrap();
            let _ = kernel.fork(later).unwrap();
        })
        .await;
        let filter = if host {
            Filter::host()
        } else {
            Filter::tree(root)
        };
        let mut events = subscribe(&hub, filter).await;
        armed.store(1, Ordering::SeqCst);
        kernel.lose(1);
        idle().await;
        let pids = kernel.processes();
        let born: Vec<Pid> = pids.into_iter().filter(|pid| *pid > root).collect();
        assert_eq!(born.len(), 3);
        if dies {
            for pid in &born {
                kernel.exit_group(pid.leader(), 5).unwrap();
            }
        }
        let events = drain(&mut events).await;
        let mut told: Vec<Pid> = births(&events).into_iter().map(|it| it.1).collect();
        told.sort_unstable();
        assert_eq!(told, born, "{events:?}");
        assert_eq!(exits(&events).len(), if dies { 3 } else { 0 });
    }
}

/// A child that is taken up had one of its own before that was read.
#[tokio::test(start_paused = true)]
async fn who_is_born_to_a_child_while_it_is_being_found_is_followed() {
    let kernel = SimKernel::with_seed(4);
    let root = kernel.spawn().unwrap();
    let hidden = Pid::new(77).unwrap();
    let (hub, armed) = hub_with_happening(&kernel, true, move |kernel| {
        let _grandchild = kernel.fork(hidden).unwrap();
    })
    .await;
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    kernel.lose(1);
    kernel.set_next_pid(hidden).unwrap();
    kernel.fork(root).unwrap();
    armed.store(1, Ordering::SeqCst);
    let events = drain(&mut events).await;
    let grandchild = *kernel.processes().last().unwrap();
    let expected = [(root, hidden, true), (hidden, grandchild, false)];
    assert_eq!(births(&events), expected);
}

/// Once the second owner lived on under the first one's key, and the first one's end
/// was never told.
#[tokio::test(start_paused = true)]
async fn a_pid_that_changes_hands_within_a_loss_is_two_processes() {
    for host in [false, true] {
        let (kernel, hub) = hub().await;
        let root = kernel.spawn().unwrap();
        let filter = if host {
            Filter::host()
        } else {
            Filter::tree(root)
        };
        let mut events = subscribe(&hub, filter).await;
        let pid = kernel.fork(root).unwrap();
        // The system tells births by ticks of 10 ms.
        kernel.advance(Duration::from_millis(11));
        idle().await;
        kernel.lose(1);
        kernel.exit_group(pid.leader(), 1).unwrap();
        kernel.reap(pid).unwrap();
        kernel.set_next_pid(pid).unwrap();
        assert_eq!(kernel.fork(root).unwrap(), pid);
        idle().await;
        kernel.exit_group(pid.leader(), 2).unwrap();
        let events = drain(&mut events).await;
        let expected = [(root, pid, false), (root, pid, true)];
        assert_eq!(births(&events), expected);
        let statuses: Vec<Status> = events
            .iter()
            .filter_map(|event| match event.kind {
                EventKind::Exit(status) => Some(status),
                _ => None,
            })
            .collect();
        assert_eq!(statuses[0], Status::Unknown(UnknownReason::EventLost));
        assert_eq!(statuses[1].code(), Some(2));
        let ended = events.iter().filter(|it| it.kind.name() == "exit");
        let keys: Vec<_> = ended.filter_map(|event| event.process).collect();
        assert_ne!(keys[0], keys[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_zombie_that_was_told_is_not_told_again() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root)).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    let child = kernel.fork(root).unwrap();
    kernel.exit_group(child.leader(), 1).unwrap();
    idle().await;
    kernel.lose(1);
    for stream in [&mut tree, &mut host] {
        let events = drain(stream).await;
        assert_eq!(births(&events), [(root, child, false)]);
        assert_eq!(exits(&events).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_out_is_not_found_again() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let before = kernel.fork(root).unwrap();
    // Longer ago than a report takes at most.
    kernel.advance(Duration::from_millis(200));
    let mut births_only = subscribe(&hub, Filter::pids([] as [Pid; 0]).keep_open()).await;
    births_only.add_births(root).await.unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root)).await;
    let out = kernel.fork(root).unwrap();
    idle().await;
    assert!(tree.remove(out).await.unwrap());
    assert!(births_only.remove(out).await.unwrap());
    kernel.advance(Duration::from_millis(200));
    // Something that is read, and says so how late it is.
    kernel.exec(root.leader()).unwrap();
    idle().await;
    kernel.lose(1);
    let lost = kernel.fork(root).unwrap();
    assert_ne!(before, lost);
    for stream in [&mut tree, &mut births_only] {
        let events = drain(stream).await;
        assert_eq!(births(&events), [(root, out, false), (root, lost, true)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_orphan_of_the_loss_makes_the_end_incomplete() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root)).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    kernel.lose(1);
    let middle = kernel.fork(root).unwrap();
    let orphan = kernel.fork(middle).unwrap();
    kernel.exit_group(middle.leader(), 0).unwrap();
    let events = drain(&mut tree).await;
    assert_eq!(marks(&events), PERHAPS_NOT);
    assert_eq!(births(&events), []);
    // Init's child it is now, and so it is told.
    let events = drain(&mut host).await;
    assert_eq!(marks(&events), COMPLETE);
    assert_eq!(births(&events), [(Pid::new(1).unwrap(), orphan, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_ends_within_a_loss_gets_its_end_mark_first() {
    for reaped in [false, true] {
        let (kernel, hub) = hub().await;
        let root = kernel.spawn().unwrap();
        kernel.advance(Duration::from_millis(200));
        let mut events = subscribe(&hub, Filter::tree(root)).await;
        kernel.lose(1);
        kernel.exit_group(root.leader(), 0).unwrap();
        if reaped {
            kernel.reap(root).unwrap();
        }
        let seen = drain(&mut events).await;
        assert_eq!(kinds(&seen), ["lost", "resync", "exit", "resync"]);
        // Of who is nowhere to be seen nobody knows to whom its children went.
        assert_eq!(marks(&seen), if reaped { PERHAPS_NOT } else { COMPLETE });
        assert_eq!(events.next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_look_at_the_system_the_end_is_incomplete() {
    let kernel = SimKernel::with_seed(4);
    let root = kernel.spawn().unwrap();
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    faults.fail_listing();
    kernel.lose(1);
    assert_eq!(marks(&drain(&mut events).await), PERHAPS_NOT);
}

/// Each look at the system happens to make for another loss.
#[tokio::test(start_paused = true)]
async fn losses_without_end_do_not_look_without_end() {
    let kernel = SimKernel::with_seed(4);
    let root = kernel.spawn().unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let probe = FaultyProbe::new(&kernel).after_listing(move |kernel| {
        counted.fetch_add(1, Ordering::SeqCst);
        kernel.lose(1);
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    let began = tokio::time::Instant::now();
    let mut ends = 0;
    while ends < 3 {
        let event: Event = events.next().await.unwrap();
        if let EventKind::Resync(Resync::End { complete }) = event.kind {
            assert!(!complete);
            ends += 1;
            kernel.lose(1);
        }
    }
    let waited = began.elapsed().as_millis();
    let looks = looks.load(Ordering::SeqCst) as u128;
    assert!(looks >= 3 * 8, "{looks}");
    assert!(looks <= waited / 50 + 2, "{looks} looks in {waited} ms");
}
