//! Where `pidfd_open` is blocked, by a real seccomp filter.

use std::collections::HashMap;
use std::future::Future;
use std::process::Command;

use kmonitor::pidfd::Mechanism;
use kmonitor::source::StartErrorKind;
use kmonitor::{EventKind, EventMask, Filter, Hub, OpenError, Pid, SourceKind};
use kmonitor_tests::{Hazard, Puppets, Scenario, in_unshare, without_pidfd_open};
use rustix::io::Errno;

use crate::child::HeldChild;
use crate::elsewhere::elsewhere;
use crate::patience::{exit_status, next, only_exit, rest, soon};
use crate::{HAZARD, PUPPET};

/// What container runtimes answer, and what an old kernel would.
const ANSWERS: [Errno; 2] = [Errno::PERM, Errno::NOSYS];

/// Runs a future where `pidfd_open` does not work, and neither does it for the
/// hubs that it opens.
fn restricted<F: Future<Output = ()>>(answer: Errno, body: impl FnOnce() -> F + Send) {
    without_pidfd_open(answer.raw_os_error(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    })
    .unwrap();
}

#[test]
fn a_free_watch_polls_and_says_so() {
    for answer in ANSWERS {
        restricted(answer, || async {
            let mut child = HeldChild::shell("exit 7");
            let mut watch = kmonitor::watch(child.pid());
            assert_eq!(watch.mechanism(), Some(Mechanism::Polling));
            child.make_zombie();
            let exit = soon("the exit", watch.exited()).await.unwrap();
            assert_eq!(exit.status.code(), Some(7));
            child.reap();
            let exit = soon("the reaping", watch.reaped()).await.unwrap();
            assert_eq!(exit.status.code(), Some(7));
            let gone = kmonitor::watch(child.pid()).await.unwrap_err();
            assert!(gone.is_gone(), "{gone}");
        });
    }
}

#[test]
fn the_pidfd_source_names_the_cause() {
    for answer in ANSWERS {
        restricted(answer, || async {
            let opened = Hub::builder().only(SourceKind::Pidfd).open().await;
            let Err(OpenError::Source(error)) = opened else {
                panic!("it cannot work: {opened:?}");
            };
            assert_eq!(error.source_kind(), SourceKind::Pidfd);
            assert_eq!(error.kind(), StartErrorKind::Blocked, "{error}");
        });
    }
}

/// Neither source, and still a process can be watched.
#[test]
#[ignore = "needs root in the initial namespaces, and unshare"]
fn where_no_source_works_both_reasons_are_told() {
    elsewhere(
        "restricted::where_no_source_works_both_reasons_are_told",
        |command: &Command| in_unshare(&["--net"], command),
        |_| {},
        || async {
            restricted(Errno::PERM, || async {
                let opened = soon("a refusal", Hub::open()).await;
                let Err(OpenError::NoSource(reasons)) = opened else {
                    panic!("none can work: {opened:?}");
                };
                let reasons: Vec<_> = reasons
                    .iter()
                    .map(|error| (error.source_kind(), error.kind()))
                    .collect();
                assert_eq!(
                    reasons,
                    [
                        (SourceKind::Connector, StartErrorKind::NetworkNamespace),
                        (SourceKind::Pidfd, StartErrorKind::Blocked),
                    ]
                );
                let mut child = HeldChild::shell("exit 7");
                let watch = kmonitor::watch(child.pid());
                child.make_zombie();
                let exit = soon("the exit", watch).await.unwrap();
                assert_eq!(exit.status.code(), Some(7));
            });
        },
    );
}

/// The reports and `/proc` tell the status, and nothing is held.
#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_hub_on_the_connector_does_without_pidfds() {
    for answer in ANSWERS {
        restricted(answer, || async {
            let hub = soon("a hub", Hub::open()).await.unwrap();
            assert_eq!(hub.capabilities().source.kind, SourceKind::Connector);
            let mut puppets = Puppets::start(PUPPET).unwrap();
            let pid = Pid::new(puppets.spawn().unwrap()).unwrap();
            let exits = Filter::pid(pid).events(EventMask::EXIT);
            let mut stream = hub.subscribe(exits).await.unwrap();
            let mut watch = hub.watch(pid).await.unwrap();
            assert_eq!(watch.process().inode(), None);
            assert_eq!(hub.stats().await.unwrap().held, 0);
            puppets.exit(pid.as_raw(), 7).unwrap();
            let exit = soon("the watch", watch.settled()).await.unwrap();
            assert_eq!(exit.status.code(), Some(7));
            assert_eq!(only_exit(&rest(&mut stream).await), Some(7 << 8));
            puppets.reap(pid.as_raw()).unwrap();
            soon("the reaping", watch.reaped()).await.unwrap();
            let gone = hub.watch(pid).await.unwrap_err();
            assert!(gone.is_gone(), "{gone}");
        });
    }
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_tree_is_followed_without_pidfds() {
    restricted(Errno::PERM, || async {
        let hub = soon("a hub", Hub::open()).await.unwrap();
        let mut puppets = Puppets::start(PUPPET).unwrap();
        let root = puppets.spawn().unwrap();
        let old = puppets.fork(root).unwrap();
        let mut stream = hub
            .subscribe(Filter::tree(Pid::new(root).unwrap()))
            .await
            .unwrap();
        let new = puppets.fork(old).unwrap();
        let event = next(&mut stream).await;
        assert!(
            matches!(event.kind, EventKind::Fork { child } if child.pid().as_raw() == new),
            "{event}"
        );
        let mut ends = Vec::new();
        for (pid, code) in [(new, 1), (old, 2), (root, 3)] {
            puppets.exit(pid, code).unwrap();
            let event = next(&mut stream).await;
            ends.push((
                event.pid().unwrap().as_raw(),
                exit_status(&event).unwrap().code(),
            ));
            puppets.reap(pid).unwrap();
        }
        assert_eq!(ends, [(new, Some(1)), (old, Some(2)), (root, Some(3))]);
        assert_eq!(soon("the end", stream.next()).await, None);
    });
}

/// Reaped as they die, so the status of some cannot be known: but none is wrong,
/// and each ends once.
#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn thread_groups_end_once_and_never_wrongly_without_pidfds() {
    const COUNT: usize = 300;
    for scenario in [
        Scenario::LeaderFirst,
        Scenario::Leader3Last9,
        Scenario::ThreadExec,
        Scenario::Race6,
    ] {
        restricted(Errno::PERM, || async {
            let hub = soon("a hub", Hub::open()).await.unwrap();
            let mut hazard = Hazard::new(HAZARD, scenario)
                .count(COUNT)
                .concurrency(COUNT)
                .delay(std::time::Duration::from_millis(5))
                .hold()
                .start()
                .unwrap();
            let pids = hazard.pids().unwrap();
            let named = pids.iter().map(|pid| Pid::new(*pid).unwrap());
            let exits = Filter::pids(named).events(EventMask::EXIT);
            let mut stream = hub.subscribe(exits).await.unwrap();
            hazard.release().unwrap();
            let events = rest(&mut stream).await;
            let truth = hazard.finish_map().unwrap();
            assert_eq!(events.len(), COUNT, "{scenario}");
            let mut told = HashMap::new();
            for event in events {
                let status = exit_status(&event).unwrap_or_else(|| panic!("{event}"));
                let pid = event.pid().unwrap().as_raw();
                assert!(told.insert(pid, status).is_none(), "{scenario}: twice");
                if let Some(raw) = status.raw() {
                    assert_eq!(raw, truth[&pid], "{scenario}: {event}");
                }
            }
            let known = told.values().filter(|status| status.known().is_some());
            eprintln!("{scenario}: {} of {COUNT} statuses known", known.count());
        });
    }
}
