//! What is asked of an incarnation, and how two of them get along.

use kmonitor_supervisor::Signal;
use kmonitor_supervisor::backend::{Reach, StartError};
use kmonitor_supervisor::spec::{KillScope, ProcessSpec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::world::*;

/// A current-thread runtime stands still while its thread reads `/proc`.
#[tokio::test]
async fn proc_is_not_read_on_the_threads_of_the_runtime() {
    let backend = plain().await;
    let mut child = start(&backend, "c", shell("sleep 1000"), KillScope::Tree);
    child.started().await;
    child.ready().await;
    let signal = child.running.signal(&[Signal::CONT], Reach::Scope);
    let survivors = child.running.survivors();
    tokio::pin!(signal, survivors);
    // Nothing else runs on this thread meanwhile, so nothing can have been done yet.
    assert!(futures::poll!(&mut signal).is_pending());
    assert!(futures::poll!(&mut survivors).is_pending());
    signal.await.unwrap();
    assert!(!survivors.await.is_empty());
    child.running.kill();
    child.exited().await;
    child.empty().await;
}

/// As after `drop(tree)`, when another tree with such a child is started at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_until_nothing_is_left_of_the_former_incarnation() {
    let backend = plain().await;
    let script = "echo up; trap '' TERM; while :; do sleep 0.01; done";
    let mut first = start(&backend, "c", shell(script), KillScope::Group);
    first.started().await;
    first.ready().await;
    let mut second = start(&backend, "c", shell("exit 3"), KillScope::Group);
    let mut third = start(&backend, "c", shell("exit 4"), KillScope::Group);
    // Another child's start does not.
    let mut other = start(&backend, "d", shell("exit 5"), KillScope::Group);
    other.started().await;
    assert!(second.is_quiet(std::time::Duration::from_millis(200)).await);
    third.running.kill();
    assert!(matches!(third.failed().await, StartError::Cancelled));
    first.running.kill();
    first.exited().await;
    first.empty().await;
    second.started().await;
    second.ready().await;
    assert_eq!(second.exited().await.code(), Some(3));
    second.empty().await;
}

/// A supervisor as a child: what it starts is marked as its own, and as ours.
#[tokio::test]
#[ignore = "is no test: the supervised supervisor of the next"]
async fn the_inner_supervisor() {
    let Ok(token) = std::env::var("KMONITOR_TEST_INNER") else {
        return;
    };
    let backend = plain().await;
    let script = format!("sleep 1000; : {token}");
    let mut child = start(&backend, "c", shell(&script), KillScope::Group);
    child.started().await;
    child.ready().await;
    println!("inner is up");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervised_supervisor_started_does_not_escape() {
    let backend = plain().await;
    let token = token();
    let exe = std::env::current_exe().unwrap();
    let args = [
        "--exact",
        "handles::the_inner_supervisor",
        "--ignored",
        "--nocapture",
    ];
    let mut command = command(exe.to_str().unwrap(), &args);
    let inner = ("KMONITOR_TEST_INNER".into(), Some(token.clone().into()));
    command.env.push(inner);
    let spec = ProcessSpec::command(command);
    let mut child = start(&backend, "outer", spec, KillScope::Tree);
    child.started().await;
    child.ready().await;
    eventually(|| {
        child
            .lines()
            .iter()
            .any(|line| line.contains("inner is up"))
    })
    .await;
    drop(child.running.signal(&[Signal::KILL], Reach::Leader));
    assert_eq!(child.exited().await.signal(), Some(9));
    assert!(child.is_quiet(std::time::Duration::from_millis(200)).await);
    assert!(!living_with(&token).is_empty());
    child.running.kill();
    child.empty().await;
    assert_eq!(living_with(&token), [0; 0]);
}

/// Wherever the descriptors run out: it is started and supervised, or nobody is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_for_want_of_descriptors_leaves_nobody() {
    if !alone("handles::a_start_that_fails_for_want_of_descriptors_leaves_nobody") {
        return;
    }
    let backend = plain().await;
    let whole = getrlimit(Resource::Nofile);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    for scope in [KillScope::Best, KillScope::Tree, KillScope::Group] {
        // What is opened once is.
        let mut child = start(&backend, "c", shell("exit 3"), scope);
        child.started().await;
        child.ready().await;
        child.exited().await;
        child.empty().await;
        let mut failures = 0;
        let now = open();
        for more in 0..40 {
            let token = token();
            let script = format!("setsid sleep 1000 {token} & sleep 1000 {token}");
            let current = Some(now - 1 + more);
            setrlimit(Resource::Nofile, Rlimit { current, ..whole }).unwrap();
            let mut child = start(&backend, "c", shell(&script), scope);
            let first = child.next().await;
            setrlimit(Resource::Nofile, whole).unwrap();
            if let kmonitor_supervisor::backend::Report::Failed(error) = first {
                failures += 1;
                assert_eq!(living_with(&token), [0; 0], "{scope:?} {more}: {error}");
                continue;
            }
            child.ready().await;
            child.running.kill();
            child.exited().await;
            child.empty().await;
            // A group does not hold who leaves it.
            for pid in living_with(&token) {
                assert_eq!(scope, KillScope::Group, "{more}");
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        println!("{scope:?}: {failures} starts failed");
        assert!(failures > 0);
    }
}
