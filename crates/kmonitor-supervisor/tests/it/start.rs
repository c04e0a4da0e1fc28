//! How a tree begins.

use std::sync::Arc;

use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::spec::{Adopt, Backoff, ProcessSpec, Readiness, Restart, Strategy};
use kmonitor_supervisor::{BuildError, End, Service, StartFailure, StartTreeError, Supervisor};

use crate::{secs, service};

#[tokio::test(start_paused = true)]
async fn a_failed_start_is_rolled_back_and_names_the_culprit() {
    for (program, wait) in [
        (Program::new().fails_to_start("no such file"), 0),
        (Program::new().never_ready(), 20),
        (Program::new().never_ready().exits_after(secs(3), 1), 3),
    ] {
        let sim = Sim::new().program("app/c", program);
        let began = tokio::time::Instant::now();
        let error = Supervisor::builder("app")
            .child(service("a"))
            .child(service("b"))
            .child(service("c").ready(Readiness::Exec, secs(20)))
            .child(service("d"))
            .start_on(Arc::new(sim.clone()))
            .await
            .expect_err("c does not start");
        assert_eq!(began.elapsed(), secs(wait));
        let Some(End::StartFailed { child, why }) = error.end() else {
            panic!("{error}");
        };
        assert_eq!(child.as_str(), "c");
        let fits = match wait {
            0 => matches!(**why, StartFailure::Spawn(_)),
            20 => matches!(**why, StartFailure::NotReady(_)),
            _ => matches!(**why, StartFailure::Ended(_)),
        };
        assert!(fits, "{why}");
        assert!(error.to_string().contains("did not start: c"), "{error}");
        assert!(sim.alive().is_empty());
        let stopped = sim.stopped();
        assert!(
            stopped.ends_with(&["app/b".into(), "app/a".into()]),
            "{stopped:?}"
        );
        assert!(!sim.started().contains(&"app/d".into()));
        assert_eq!(error.children().len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_the_start_is_told_of_it_all_the_same() {
    let slow = Program::new().ready_after(secs(20));
    let sim = Sim::new().program("app/a", slow);
    let declared = Supervisor::builder("app").child(service("a").ready(Readiness::Exec, secs(30)));
    let tree = declared.clone().begin_on(Arc::new(sim.clone())).unwrap();
    assert!(tokio::time::timeout(secs(19), tree.ready()).await.is_err());
    assert_eq!(sim.started(), ["app/a"]);
    tree.ready().await.unwrap();
    // Once is for ever.
    tree.ready().await.unwrap();
    tree.shutdown().await;
    tree.ready().await.unwrap();

    let tree = declared.begin_on(Arc::new(sim.clone())).unwrap();
    assert!(tokio::time::timeout(secs(1), tree.ready()).await.is_err());
    tree.handle().shutdown();
    let error = tree.ready().await.unwrap_err();
    assert!(matches!(error.end(), Some(End::Shutdown)), "{error}");
    assert!(sim.alive().is_empty());
    tree.wait().await.result().unwrap();

    let failing = Sim::new().program("app/a", Program::new().fails_to_start("no such file"));
    let tree = Supervisor::builder("app").child(service("a"));
    let tree = tree.begin_on(Arc::new(failing)).unwrap();
    let error = tree.wait().await.result().unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert!(Supervisor::builder("a b").begin_on(Arc::new(sim)).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_failure_deep_down_is_told() {
    let sim = Sim::new().program(
        "app/mid/low/x",
        Program::new().fails_to_start("no such file"),
    );
    let low = Supervisor::builder("low").child(service("x"));
    let error = Supervisor::builder("app")
        .child(service("a"))
        .supervisor(Supervisor::builder("mid").supervisor(low))
        .start_on(Arc::new(sim.clone()))
        .await
        .expect_err("x does not start");
    for part in ["mid", "low", "x was not started", "no such file"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_waits_for_those_before_it() {
    let sim = Sim::new().program("app/db", Program::new().ready_after(secs(20)));
    let begin = Supervisor::builder("app")
        .child(service("db"))
        .child(service("api"));
    let start = begin.start_on(Arc::new(sim.clone()));
    tokio::pin!(start);
    assert!(tokio::time::timeout(secs(19), &mut start).await.is_err());
    assert_eq!(sim.started(), ["app/db"]);
    let tree = start.await.expect("both are ready");
    assert_eq!(sim.started(), ["app/db", "app/api"]);
    drop(tree);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_dropped_is_taken_back() {
    let sim = Sim::new().program("app/b", Program::new().never_ready());
    let begin = Supervisor::builder("app")
        .child(service("a"))
        .child(service("b"));
    let start = begin.start_on(Arc::new(sim.clone()));
    assert!(tokio::time::timeout(secs(1), start).await.is_err());
    assert_eq!(sim.alive(), ["app/a", "app/b"]);
    tokio::time::sleep(secs(1)).await;
    assert!(sim.alive().is_empty());
    assert_eq!(sim.stopped(), ["app/b", "app/a"]);
}

#[tokio::test]
async fn a_declaration_without_sense_is_refused() {
    let app = || Supervisor::builder("app");
    let crooked = Backoff::default().jitter(2.0);
    let adopted = Service::new(
        "x",
        ProcessSpec::command(kmonitor_supervisor::spec::CommandSpec::new("x")),
    );
    let mut deep = Supervisor::builder("s");
    for _ in 0..40 {
        deep = Supervisor::builder("s").supervisor(deep);
    }
    for (what, builder) in [
        ("name", Supervisor::builder("a/b")),
        ("child's name", app().child(service(".x"))),
        ("twice", app().child(service("x")).child(service("x"))),
        (
            "forever",
            app().child(service("x").significant().restart(Restart::Always)),
        ),
        ("jitter", app().child(service("x").backoff(crooked))),
        (
            "not a number",
            app().child(service("x").backoff(crooked.jitter(f64::NAN))),
        ),
        ("below", app().supervisor(app().child(service("")))),
        ("deep", deep),
    ] {
        let schedule = builder.schedule();
        assert!(schedule.is_err(), "{what}");
        let error = builder
            .start_on(Arc::new(Sim::new()))
            .await
            .expect_err(what);
        assert!(matches!(error, StartTreeError::Build(_)), "{what}");
    }
    assert!(app().child(adopted).schedule().is_ok());
    let twice = app().child(service("x")).child(service("x")).schedule();
    assert!(matches!(twice, Err(BuildError::Twice(_))));
}

#[tokio::test(start_paused = true)]
async fn who_is_there_is_adopted_once() {
    let pid = kmonitor_event::Pid::new(1).expect("a pid");
    let sim = Sim::new().programs(
        "app/old",
        [Program::new().exits_after(secs(5), 1), Program::new()],
    );
    let old = Service::adopt("old", Adopt::Pid(pid))
        .or_command("old")
        .arg("--now");
    let tree = crate::start(Supervisor::builder("app").child(old), &sim).await;
    let old = tree.handle().child("old").expect("it is declared");
    let origin = |handle: &kmonitor_supervisor::ChildHandle| handle.status().origin;
    assert_eq!(
        origin(&old),
        Some(kmonitor_supervisor::backend::Origin::Adopted)
    );
    old.exited().await.expect("it ends");
    old.ready().await.expect("it is started");
    assert_eq!(
        origin(&old),
        Some(kmonitor_supervisor::backend::Origin::Spawned)
    );
}

#[test]
fn a_schedule_says_what_will_happen() {
    let schedule = Supervisor::builder("app")
        .strategy(Strategy::RestForOne)
        .child(service("db").backoff(Backoff::exponential(secs(1), secs(5))))
        .child(service("job").restart(Restart::Never))
        .supervisor(Supervisor::builder("web").child(service("api")))
        .schedule()
        .expect("it makes sense");
    assert_eq!(schedule.children[0].waits, [1, 2, 4, 5].map(secs));
    assert_eq!(schedule.children[0].takes_along, ["job", "web"]);
    assert_eq!(schedule.stops_within(), secs(15 + 15 + 15 + 5));
    let text = schedule.to_string();
    let expected = "\
app: RestForOne, bears 5 restarts in 30s, stops within 50s
  1. db, ready within 60s, stops within 15s, restarted OnFailure after 1s 2s 4s 5s (±20 %), and with it job, web
  2. job, ready within 60s, stops within 15s, never restarted
  3. web, stops within 20s, restarted OnFailure after 200ms 400ms 800ms 1.6s 3.2s 6.4s 12.8s 25.6s 30s (±20 %)
     web: OneForOne, bears 5 restarts in 30s, stops within 15s
       1. api, ready within 60s, stops within 15s, restarted OnFailure after 200ms 400ms 800ms 1.6s 3.2s 6.4s 12.8s 25.6s 30s (±20 %)
";
    assert_eq!(text, expected);
}
