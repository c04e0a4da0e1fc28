//! Pid reuse, forced on the real kernel: no watch, no stream and no address ever
//! takes one process for another that had its pid.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use kmonitor::{EventKind, EventMask, Filter, Hub, Pid, ProcessKey, ProcessRef, SourceKind};
use kmonitor_tests::{Hazard, HeldPid, Rng, Scenario};
use tokio::sync::mpsc;

use crate::HAZARD;
use crate::patience::{is_pending, next, only_exit, rest, soon};

async fn hub_on(kind: SourceKind) -> Hub {
    Hub::builder().only(kind).open().await.unwrap()
}

fn pid_of(held: &HeldPid) -> Pid {
    Pid::new(held.pid()).unwrap()
}

/// The next owner of a pid that has just become free.
fn successor(pid: Pid) -> HeldPid {
    HeldPid::spawn(pid.as_raw()).unwrap_or_else(|error| panic!("{pid} again: {error}"))
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

        let new = successor(pid);
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
        held = successor(pid);
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
    let new = successor(pid);
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

/// As fast as the kernel can: the exit of one owner is often told after the birth
/// of the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn the_host_stream_tells_thousands_of_owners_of_one_pid_apart() {
    const OWNERS: usize = 5000;
    let hub = hub_on(SourceKind::Connector).await;
    let filter = Filter::host()
        .events(EventMask::FORK | EventMask::EXIT)
        .queue_events(NonZeroUsize::new(1 << 20).unwrap());
    let mut stream = hub.subscribe(filter).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        loop {
            let event = next(&mut stream).await;
            let life = match event.kind {
                EventKind::Fork { child } => (child, None),
                EventKind::Exit(status) => (event.process.unwrap(), Some(status.raw())),
                other => panic!("{other}"),
            };
            if tell.send(life).is_err() {
                return;
            }
        }
    });
    let hazard = Hazard::new(HAZARD, Scenario::Reuse).count(OWNERS).start();
    let finished = tokio::task::spawn_blocking(|| hazard.unwrap().finish().unwrap());
    let truth = soon("the hazard", finished).await.unwrap();
    let pid = truth[0].0;
    let mut births = Vec::new();
    let mut deaths: Vec<(ProcessKey, Option<i32>)> = Vec::new();
    while deaths.len() < OWNERS {
        let (key, end) = soon("the next event", told.recv()).await.unwrap();
        if key.pid().as_raw() != pid {
            continue;
        }
        match end {
            None => births.push(key),
            Some(raw) => deaths.push((key, raw)),
        }
    }
    drop(told);
    reading.abort();
    let distinct: HashSet<ProcessKey> = births.iter().copied().collect();
    assert_eq!((births.len(), distinct.len()), (OWNERS, OWNERS));
    // In order, once each, with its own status.
    for (at, ((key, raw), (_, waited))) in deaths.iter().zip(&truth).enumerate() {
        assert_eq!((*key, *raw), (births[at], Some(*waited)), "owner {at}");
    }
}
