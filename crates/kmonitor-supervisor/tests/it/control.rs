//! Telling a tree what to do.

use std::sync::{Arc, Mutex};

use kmonitor_supervisor::backend::sim::{Escapee, Program, Sim, What};
use kmonitor_supervisor::backend::{Backend, Launch, Reach, Reports, Running};
use kmonitor_supervisor::spec::Backoff;
use kmonitor_supervisor::{ChildState, ControlError, Signal, Supervisor};

use crate::{secs, service, start};

#[tokio::test(start_paused = true)]
async fn a_stop_goes_before_a_pending_restart() {
    let sim = Sim::new().program("app/a", Program::new().exits_after(secs(1), 1));
    let patient = Backoff::constant(secs(60));
    let builder = Supervisor::builder("app").child(service("a").backoff(patient));
    let tree = start(builder, &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    a.exited().await.expect("it crashes");
    tokio::time::sleep(secs(10)).await;
    assert!(
        matches!(a.status().state, ChildState::Waiting { until: Some(until) } if until == secs(61))
    );
    a.stop().await.expect("it is down");
    assert!(matches!(a.status().state, ChildState::Down));
    tokio::time::sleep(secs(600)).await;
    assert_eq!(sim.started().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_resolves_when_its_effect_is_visible() {
    let slow = Program::new()
        .ready_after(secs(5))
        .exits_on(Signal::TERM, 0, secs(3));
    let sim = Sim::new().program("app/a", slow);
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    let began = tokio::time::Instant::now();
    a.restart().await.expect("it restarts");
    assert_eq!(began.elapsed(), secs(8));
    assert!(a.status().is_ready());
    assert_eq!(a.status().generation, 2);
    assert_eq!(a.status().restarts, 0, "that was no failure");
    a.stop().await.expect("it stops");
    assert!(sim.alive().is_empty());
    a.start().await.expect("it starts");
    assert_eq!(sim.alive(), ["app/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_is_not_taken_back() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    // Not even polled.
    drop(a.stop());
    a.exited().await.expect("it is stopped");
    assert_eq!(sim.stopped(), ["app/a"]);
}

#[tokio::test(start_paused = true)]
async fn signals_reach_whom_they_should() {
    let sim = Sim::new().program("app/a", Program::new().ignores(Signal::HUP));
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    a.signal(Signal::HUP).await.expect("it is sent");
    a.signal_all(Signal::USR1).await.expect("it is sent");
    a.exited().await.expect("it dies of USR1");
    let signals = sim.log().into_iter().filter_map(|deed| match deed.what {
        What::Signalled { signal, reach } => Some((signal, reach)),
        _ => None,
    });
    let expected = [(Signal::HUP, Reach::Leader), (Signal::USR1, Reach::Scope)];
    assert_eq!(signals.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn children_come_and_go() {
    let sim = Sim::new().program("app/bad", Program::new().fails_to_start("no such file"));
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let handle = tree.handle();
    handle.add(service("b")).await.expect("b starts");
    let error = handle.add(service("b")).await.expect_err("b is there");
    assert!(matches!(error, ControlError::Exists(_)));
    let error = handle
        .add(service("bad"))
        .await
        .expect_err("it cannot start");
    assert!(error.to_string().contains("no such file"), "{error}");
    assert!(handle.child("bad").is_none());
    let error = handle.add(service("a b")).await.expect_err("no name");
    assert!(matches!(error, ControlError::Invalid(_)));

    let a = handle.child("a").expect("it is declared");
    a.remove().await.expect("it goes");
    assert!(handle.child("a").is_none());
    assert!(a.ready().await.is_err(), "it is gone for good");
    assert!(matches!(a.start().await, Err(ControlError::NoSuchChild(_))));
    assert_eq!(sim.alive(), ["app/b"]);
    // Another one of this name.
    handle.add(service("a")).await.expect("a starts anew");
    assert!(a.ready().await.is_err(), "that is somebody else");
}

#[tokio::test(start_paused = true)]
async fn who_is_stuck_cannot_be_removed_until_it_is_gone() {
    let sim = Sim::new().program("app/a", Program::new().leaves(Escapee::Stuck(secs(100))));
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let handle = tree.handle();
    let a = handle.child("a").expect("it is declared");
    let error = a.remove().await.expect_err("something is left");
    assert!(matches!(&error, ControlError::Survivors { survivors, .. } if survivors.len() == 1));
    assert!(matches!(
        handle.add(service("a")).await,
        Err(ControlError::Exists(_))
    ));
    tokio::time::sleep(secs(100)).await;
    assert!(handle.child("a").is_none());
    handle.add(service("a")).await.expect("now there is room");
    assert_eq!(sim.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_touches_only_what_changed() {
    let sim = Sim::new();
    let app = || Supervisor::builder("app");
    let task = |name: &str| {
        kmonitor_supervisor::Task::new(name, |stop| async move {
            stop.cancelled().await;
            Ok(())
        })
    };
    let before = app()
        .child(service("same"))
        .child(service("changed"))
        .child(service("gone"))
        .child(task("task"))
        .supervisor(Supervisor::builder("sub").child(service("x")));
    let tree = start(before, &sim).await;
    let handle = tree.handle();
    let generation = |path: &str| handle.child(path).map(|child| child.status().generation);
    let after = app()
        .child(service("new"))
        .child(service("same"))
        .child(service("changed").arg("--more"))
        .child(task("task"))
        .supervisor(Supervisor::builder("sub").child(service("x")));
    handle.reload(&after).await.expect("all are ready");
    assert_eq!(generation("same"), Some(1));
    assert_eq!(generation("changed"), Some(2));
    assert_eq!(generation("gone"), None);
    assert_eq!(generation("new"), Some(1));
    assert_eq!(generation("task"), Some(1));
    assert_eq!(generation("sub"), Some(1));
    assert_eq!(sim.stopped(), ["app/gone", "app/changed"]);

    let sub = handle.child("sub").expect("it is declared");
    let more = Supervisor::builder("sub")
        .child(service("x"))
        .child(service("y"));
    sub.reload(&more).await.expect("y starts");
    assert_eq!(generation("sub/x"), Some(1));
    assert_eq!(generation("sub/y"), Some(1));
    let same = handle.child("same").expect("it is declared");
    let error = same.reload(&app()).await.expect_err("it has no children");
    assert!(matches!(error, ControlError::NotASupervisor(_)));
}

#[tokio::test(start_paused = true)]
async fn exited_and_ready_tell_what_has_happened_already() {
    let sim = Sim::new().programs(
        "app/a",
        [Program::new().exits_after(secs(1), 3), Program::new()],
    );
    let patient = Backoff::constant(secs(60));
    let builder = Supervisor::builder("app").child(service("a").backoff(patient));
    let tree = start(builder, &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    tokio::time::sleep(secs(2)).await;
    let code = |ending: kmonitor_supervisor::Ending| ending.status().and_then(|s| s.code());
    assert_eq!(a.exited().await.map(code), Ok(Some(3)));
    assert_eq!(a.exited().await.map(code), Ok(Some(3)), "it stays so");
    a.ready().await.expect("it is restarted");
    a.ready().await.expect("and stays so");
    let waits = tokio::time::timeout(secs(600), a.exited());
    assert!(waits.await.is_err(), "the one that runs has not ended");
    tree.shutdown().await;
    assert!(a.ready().await.is_err());
    assert!(a.exited().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_after_the_end_are_answered() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    tree.shutdown().await;
    assert!(matches!(a.start().await, Err(ControlError::Ended)));
    assert!(matches!(a.status().state, ChildState::Down));
    assert!(
        tree.handle().child("a").is_some(),
        "one can still look at it"
    );
}

#[tokio::test(start_paused = true)]
async fn output_is_kept_over_restarts() {
    let sim = Sim::new().program("app/a", Program::new().prints("hello"));
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    a.restart().await.expect("it restarts");
    let lines = a.output().lines;
    assert_eq!(lines.len(), 2);
    assert_eq!(&*lines[1].bytes, b"hello");
}

/// A backend that writes down with which arguments it is to start what.
#[derive(Default)]
struct Written(Sim, Mutex<Vec<(String, usize)>>);

impl Backend for Written {
    fn start(&self, launch: Launch, reports: Reports) -> Box<dyn Running> {
        let args = launch
            .spec
            .command
            .as_ref()
            .map_or(0, |command| command.args.len());
        let mut written = self.1.lock().expect("nobody panicked");
        written.push((launch.path.name().to_owned(), args));
        drop(written);
        self.0.start(launch, reports)
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_starts_what_is_declared_now() {
    let backend = Arc::new(Written::default());
    let app = || Supervisor::builder("app");
    let start = app()
        .child(service("a"))
        .start_on(Arc::clone(&backend) as Arc<dyn Backend>);
    let tree = start.await.expect("a is ready");
    let changed = app().child(service("a").arg("--more"));
    tree.handle().reload(&changed).await.expect("a is ready");
    let written = backend.1.lock().expect("nobody panicked").clone();
    assert_eq!(written, [("a".into(), 0), ("a".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_a_removed_child_does_not_mean_another_of_its_name() {
    let sim = Sim::new().program("app/a", Program::new().prints("new"));
    let tree = start(Supervisor::builder("app").child(service("b")), &sim).await;
    let handle = tree.handle();
    handle.add(service("a")).await.expect("it starts");
    let old = handle.child("a").expect("it was added");
    old.remove().await.expect("it goes");
    handle.add(service("a")).await.expect("it starts");
    for request in [old.stop(), old.restart(), old.remove(), old.start()] {
        let refused = request.await;
        assert!(
            matches!(refused, Err(ControlError::NoSuchChild(_))),
            "{refused:?}"
        );
    }
    assert!(old.output().lines.is_empty());
    let new = handle.child("a").expect("it was added");
    assert!(new.status().is_ready() && new.status().generation == 1);
    assert_eq!(new.output().lines.len(), 1);
}

/// Not that which is up when the future is first polled.
#[tokio::test(start_paused = true)]
async fn exited_means_the_incarnation_of_the_call() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    let ended = a.exited();
    a.restart().await.expect("it restarts");
    let ended = tokio::time::timeout(secs(1), ended).await;
    ended.expect("it has ended").expect("it is there");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_asked_for_in_a_wait_is_no_restart() {
    let crash = Program::new().exits_after(secs(1), 1);
    let fails = Program::new().fails_to_start("it is broken");
    let sim = Sim::new().programs("app/a", [crash, fails]);
    let wait = Backoff::constant(secs(1000));
    let builder = Supervisor::builder("app").child(service("a").backoff(wait));
    let tree = start(builder, &sim).await;
    let a = tree.handle().child("a").expect("it is declared");
    a.exited().await.expect("it ends");
    tokio::time::sleep(secs(1)).await;
    let failed = a.start().await;
    assert!(
        matches!(failed, Err(ControlError::StartFailed { .. })),
        "{failed:?}"
    );
    assert!(matches!(a.status().state, ChildState::Down));
}
