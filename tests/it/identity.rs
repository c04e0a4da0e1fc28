//! Pid reuse, forced on the real kernel: no watch, no stream and no address ever
//! takes one process for another that had its pid.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use kmonitor::{EventKind, EventMask, Filter, Hub, Pid, ProcessKey, ProcessRef, SourceKind};
use kmonitor_tests::{Hazard, HeldPid, Rng, Scenario};

use crate::HAZARD;
use crate::patience::{PATIENCE, is_pending, next, only_exit, rest, soon};
use crate::reused::successor;

async fn hub_on(kind: SourceKind) -> Hub {
    Hub::builder().only(kind).open().await.unwrap()
}

fn pid_of(held: &HeldPid) -> Pid {
    Pid::new(held.pid()).unwrap()
}

async fn a_watch_is_of_its_process(kind: SourceKind) {
    let hub = hub_on(kind).await;
    let mut rng = Rng::from_env();
    for _ in 0..100 {
        let old = HeldPid::spawn_far_away(&mut rng).unwrap();
        let pid = pid_of(&old);
        let mut old_hub = hub.watch(pid).await.unwrap();
        let mut old_free = kmonitor::watch(pid);
        assert_eq!(old.finish(7).unwrap(), 7 << 8);

        let new = successor(pid.as_raw());
        let mut new_hub = hub.watch(pid).await.unwrap();
        let mut new_free = kmonitor::watch(pid);
        assert_ne!(old_hub.process(), new_hub.process());
        assert_ne!(old_hub.process().inode(), new_hub.process().inode());
        assert_ne!(old_free.process(), new_free.process());

        let exit = soon("the old one's exit", old_hub.settled()).await.unwrap();
        assert_eq!(exit.status.code(), Some(7), "{exit}");
        assert_eq!(exit.process, old_hub.process());
        let exit = soon("the old one's exit", &mut old_free).await.unwrap();
        assert_eq!(exit.status.code(), Some(7), "{exit}");
        assert!(is_pending(new_hub.exited()), "the new one lives");
        assert!(is_pending(new_free.exited()), "the new one lives");

        assert_eq!(new.finish(9).unwrap(), 9 << 8);
        let exit = soon("the new one's exit", new_hub.settled()).await.unwrap();
        assert_eq!(exit.status.code(), Some(9), "{exit}");
        assert_eq!(exit.process, new_hub.process());
        let exit = soon("the new one's exit", &mut new_free).await.unwrap();
        assert_eq!(exit.status.code(), Some(9), "{exit}");
        // And the old one's stay what they were.
        assert_eq!(old_hub.settled().await.unwrap().status.code(), Some(7));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn a_watch_on_the_connector_is_of_its_process() {
    a_watch_is_of_its_process(SourceKind::Connector).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid"]
async fn a_watch_on_pidfds_is_of_its_process() {
    a_watch_is_of_its_process(SourceKind::Pidfd).await;
}

/// Each is watched and subscribed to while nobody has asked yet what became of
/// those before it.
async fn each_of_many_owners_has_its_own_end(kind: SourceKind) {
    const OWNERS: u32 = 1000;
    let hub = hub_on(kind).await;
    let mut rng = Rng::from_env();
    let mut held = HeldPid::spawn_far_away(&mut rng).unwrap();
    let pid = pid_of(&held);
    let mut told = Vec::new();
    for owner in 0..OWNERS {
        let code = (owner % 251) as u8;
        let filter = Filter::pid(pid).events(EventMask::EXIT);
        let stream = hub.subscribe(filter).await.unwrap();
        let watch = hub.watch(pid).await.unwrap();
        told.push((code, watch, stream));
        held.finish(code).unwrap();
        held = successor(pid.as_raw());
    }
    let mut keys = HashSet::new();
    for (code, mut watch, mut stream) in told {
        let raw = i32::from(code) << 8;
        assert!(keys.insert(watch.process()), "two with one key");
        let exit = soon("an exit", watch.settled()).await.unwrap();
        assert_eq!(exit.status.raw(), Some(raw), "{exit}");
        let events = rest(&mut stream).await;
        let key = watch.process();
        assert_eq!(events[0].process, Some(key), "{exit}, but {events:?}");
        assert_eq!(only_exit(&events), Some(raw), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn each_of_many_owners_has_its_own_end_on_the_connector() {
    each_of_many_owners_has_its_own_end(SourceKind::Connector).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid"]
async fn each_of_many_owners_has_its_own_end_on_pidfds() {
    each_of_many_owners_has_its_own_end(SourceKind::Pidfd).await;
}

async fn an_address_with_an_inode_is_never_another_process(kind: SourceKind) {
    let hub = hub_on(kind).await;
    let mut rng = Rng::from_env();
    let old = HeldPid::spawn_far_away(&mut rng).unwrap();
    let pid = pid_of(&old);
    let inode = hub.watch(pid).await.unwrap().process().inode();
    let address = ProcessRef { pid, inode };
    let text = address.to_string();
    assert_eq!(text, format!("{pid}:{}", inode.unwrap()));
    let filter = || Filter::pid(address).events(EventMask::EXIT);

    // It is the right one: by every way.
    let mut stream = hub.subscribe(filter()).await.unwrap();
    let watch = hub.watch(text.as_str()).await.unwrap();
    let free = kmonitor::watch(text.as_str());
    old.finish(3).unwrap();
    assert_eq!(only_exit(&rest(&mut stream).await), Some(3 << 8));
    let exit = soon("the watch", watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(3));
    let exit = soon("the free watch", free).await.unwrap();
    assert_eq!(exit.status.code(), Some(3));

    // Nobody has the pid; then somebody else has it.
    let refused = async |when: &str| {
        let error = hub.subscribe(filter()).await.unwrap_err();
        assert!(error.is_gone(), "{when}: {error}");
        let error = hub.watch(text.as_str()).await.unwrap_err();
        assert!(error.is_gone(), "{when}: {error}");
        let error = kmonitor::watch(text.as_str()).await.unwrap_err();
        assert!(error.is_gone(), "{when}: {error}");
        error.to_string()
    };
    refused("gone").await;
    let new = successor(pid.as_raw());
    let message = refused("reused").await;
    assert!(message.contains("now belongs to"), "{message}");

    let running = hub.subscribe(Filter::pid(pid).events(EventMask::EXIT));
    let mut running = running.await.unwrap();
    let error = running.add(address).await.unwrap_err();
    assert!(error.is_gone(), "added: {error}");
    let removed = running.remove(address).await.unwrap();
    assert!(!removed, "removed another than was named");
    new.finish(4).unwrap();
    assert_eq!(only_exit(&rest(&mut running).await), Some(4 << 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn an_address_on_the_connector_is_never_another_process() {
    an_address_with_an_inode_is_never_another_process(SourceKind::Connector).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid"]
async fn an_address_on_pidfds_is_never_another_process() {
    an_address_with_an_inode_is_never_another_process(SourceKind::Pidfd).await;
}

/// What the host stream says of the owners of one pid: births and ends in their
/// order. `None` where the kernel's queue overflowed: then nobody can say.
async fn owners_told(hub: &Hub, count: usize) -> Option<(Vec<i32>, Vec<ProcessKey>, Vec<Ended>)> {
    let filter = Filter::host()
        .events(EventMask::FORK | EventMask::EXIT)
        .queue_events(NonZeroUsize::new(1 << 20).unwrap());
    let mut stream = hub.subscribe(filter).await.unwrap();
    let hazard = Hazard::new(HAZARD, Scenario::Reuse).count(count).start();
    let finished = tokio::task::spawn_blocking(|| hazard.unwrap().finish().unwrap());
    let finished = tokio::time::timeout(10 * PATIENCE, finished).await;
    let truth = finished.expect("the hazard ends").unwrap();
    let pid = truth[0].0;
    let (mut births, mut ends) = (Vec::new(), Vec::new());
    while ends.len() < count {
        let event = next(&mut stream).await;
        match event.kind {
            EventKind::Fork { child } if child.pid().as_raw() == pid => births.push(child),
            EventKind::Exit(status) => {
                let process = event.process.unwrap();
                if process.pid().as_raw() == pid {
                    ends.push((process, status.raw()));
                }
            }
            EventKind::Lost(lost) => {
                eprintln!("{lost}");
                return None;
            }
            _ => {}
        }
    }
    let statuses = truth.iter().map(|(_, status)| *status);
    Some((statuses.collect(), births, ends))
}

/// Who ended, and with which raw status.
type Ended = (ProcessKey, Option<i32>);

/// As fast as the kernel can: the exit of one owner is often told after the birth
/// of the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn the_host_stream_tells_a_hundred_thousand_owners_of_one_pid_apart() {
    const OWNERS: usize = 100_000;
    /// On a machine so busy that the queue overflows.
    const TRIES: usize = 5;
    let hub = hub_on(SourceKind::Connector).await;
    for _ in 0..TRIES {
        let Some((truth, births, mut ends)) = owners_told(&hub, OWNERS).await else {
            continue;
        };
        let distinct: HashSet<ProcessKey> = births.iter().copied().collect();
        assert_eq!((births.len(), distinct.len()), (OWNERS, OWNERS));
        // Once each, with its own status. The kernel may report two of them the wrong
        // way round, and what it reports is told in its order.
        ends.sort_by_key(|(process, _)| process.incarnation());
        for (at, end) in ends.iter().enumerate() {
            assert_eq!(*end, (births[at], Some(truth[at])), "owner {at}");
        }
        return;
    }
    panic!("the queue overflowed {TRIES} times");
}
