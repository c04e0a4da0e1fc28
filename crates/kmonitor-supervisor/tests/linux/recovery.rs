//! The next supervisor finds what the last one started. (That one's death at any
//! moment: `killed.rs`. Here its runtime ends, which leaves the same behind.)

use std::path::Path;
use std::time::Duration;

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use kmonitor_supervisor::Signal;
use kmonitor_supervisor::backend::Origin;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{KillScope, ProcessSpec, Readiness, Stop};

use crate::world::*;

const SCOPES: [KillScope; 4] = [
    KillScope::Best,
    KillScope::Tree,
    KillScope::Group,
    KillScope::Leader,
];

/// Starts a child as a former run did, and forgets everything but the directory.
/// What it said last before that.
fn a_former_run(dir: &Path, spec: &ProcessSpec, scope: KillScope, waits_for: Option<&str>) -> i32 {
    let (dir, spec) = (dir.to_owned(), spec.clone());
    let waits_for = waits_for.map(str::to_owned);
    formerly(move || async move {
        let backend = with_state(&dir).await;
        let mut child = start(&backend, "c", spec, scope);
        let started = child.started().await;
        assert_eq!(started.origin, Origin::Spawned);
        match waits_for {
            Some(line) => child.wrote(&line).await,
            None => child.ready().await,
        }
        started.process.pid.as_raw()
    })
}

/// The former run was this program too, so that what it started is its child: nobody
/// else reaps it.
fn reap(pid: i32) {
    let child = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::NOHANG);
}

#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn what_lives_is_taken_over_and_not_started_again() {
    for scope in SCOPES {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'echo told; exit 7' USR1; echo up; while :; do sleep 0.01; done";
        let spec = shell(script);
        // Its trap is set.
        let pid = a_former_run(dir.path(), &spec, scope, Some("up"));
        let backend = with_state(dir.path()).await;
        assert_eq!(backend.leftovers().len(), 1);
        let mut child = start(&backend, "c", spec.clone(), scope);
        let started = child.started().await;
        assert_eq!(started.origin, Origin::Recovered);
        assert_eq!(started.process.pid.as_raw(), pid);
        let expected = match scope {
            KillScope::Best => KillScope::Cgroup,
            other => other,
        };
        assert_eq!(started.scope, expected);
        child.ready().await;
        assert!(backend.leftovers().is_empty());
        child.signal(Signal::USR1);
        assert_eq!(child.exited().await.code(), Some(7), "{scope:?}");
        assert!(
            child.lines().contains(&"told".to_owned()),
            "{:?}",
            child.lines()
        );
        child.empty().await;
        let mut child = start_again(&backend, "c", 2, spec, scope);
        assert_eq!(child.started().await.origin, Origin::Spawned);
        child.running.kill();
        child.ready().await;
        child.exited().await;
        child.empty().await;
    }
}

/// It writes while nobody reads, and does not die of that.
#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn output_waits_in_the_pipe_for_the_next_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let state = dir.path().join("state");
    let script = format!(
        "echo up; while [ ! -e {0} ]; do sleep 0.01; done; \
         for i in 1 2 3; do echo line $i; echo err $i >&2; done; touch {0}.done; exec sleep 1000",
        gate.display()
    );
    let spec = shell(&script);
    let pid = a_former_run(&state, &spec, KillScope::Best, Some("up"));
    std::fs::write(&gate, "").unwrap();
    let done = dir.path().join("gate.done");
    eventually(|| done.exists()).await;
    assert!(alive(pid));
    let backend = with_state(&state).await;
    let mut child = start(&backend, "c", spec, KillScope::Best);
    child.started().await;
    child.ready().await;
    child.wrote("line 3").await;
    child.wrote("err 3").await;
    assert_eq!(child.lines().len(), 6);
    child.running.kill();
    child.exited().await;
    child.empty().await;
}

#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn readiness_that_comes_while_nobody_looks_is_seen() {
    for ready in [Readiness::NotifyFd(3), Readiness::Line("now".into())] {
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("gate");
        let state = dir.path().join("state");
        let script = format!(
            "echo up; while [ ! -e {0} ]; do sleep 0.01; done; \
             [ -e /proc/self/fd/3 ] && echo >&3; echo now; touch {0}.done; exec sleep 1000",
            gate.display()
        );
        let spec = with_ready(shell(&script), ready);
        a_former_run(&state, &spec, KillScope::Best, Some("up"));
        std::fs::write(&gate, "").unwrap();
        let done = dir.path().join("gate.done");
        eventually(|| done.exists()).await;
        let backend = with_state(&state).await;
        let mut child = start(&backend, "c", spec, KillScope::Best);
        assert_eq!(child.started().await.origin, Origin::Recovered);
        child.ready().await;
        child.running.kill();
        child.exited().await;
        child.empty().await;
    }
}

/// Its own process is dead, and what it left is not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn what_a_dead_one_left_is_cleared_before_a_new_one_is_started() {
    for scope in [KillScope::Cgroup, KillScope::Tree, KillScope::Group] {
        let dir = tempfile::tempdir().unwrap();
        let token = token();
        let script = format!(
            "sh -c 'trap \"\" TERM; while :; do sleep 1000; done; : {token}' & echo up; sleep 1000"
        );
        let spec = shell(&script);
        let pid = a_former_run(dir.path(), &spec, scope, Some("up"));
        eventually(|| living_with(&token).len() == 2).await;
        let held = Pidfd::open(Pid::new(pid).unwrap()).unwrap();
        held.send_signal(9).unwrap();
        eventually(|| !alive(pid)).await;
        reap(pid);
        assert_eq!(living_with(&token).len(), 1);
        let backend = with_state(dir.path()).await;
        let mut child = start(&backend, "c", shell("exit 3"), scope);
        assert_eq!(child.started().await.origin, Origin::Spawned);
        assert_eq!(living_with(&token), [0; 0], "{scope:?}");
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(3));
        child.empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn what_is_no_longer_declared_is_told_and_can_be_stopped() {
    for scope in [KillScope::Cgroup, KillScope::Tree, KillScope::Group] {
        let dir = tempfile::tempdir().unwrap();
        let token = token();
        let script = format!("trap '' TERM; echo up; while :; do sleep 0.05; done; : {token}");
        let pid = a_former_run(dir.path(), &shell(&script), scope, Some("up"));
        let backend = with_state(dir.path()).await;
        let left = backend.leftovers();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].path.as_str(), left[0].scope), ("c", scope));
        assert_eq!(left[0].process.unwrap().pid.as_raw(), pid);
        let stop = Stop::default().grace(Duration::from_millis(50));
        let survivors = backend.stop_leftover(&left[0], &stop).await.unwrap();
        assert_eq!(survivors, []);
        assert!(!alive(pid));
        assert_eq!(living_with(&token), [0; 0]);
        assert!(backend.leftovers().is_empty());
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }
}

/// Its pid is another's now: neither adopted nor harmed.
#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_pid_that_is_another_processs_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let spec = shell("exec sleep 1000");
    let pid = a_former_run(dir.path(), &spec, KillScope::Group, None);
    let mut other = tokio::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let other_pid = other.id().unwrap();
    let record = dir.path().join("c.record");
    let text = std::fs::read_to_string(&record).unwrap();
    let text = text.replace(&format!("process {pid} "), &format!("process {other_pid} "));
    std::fs::write(&record, text).unwrap();
    let backend = with_state(dir.path()).await;
    let mut child = start(&backend, "c", spec, KillScope::Group);
    assert_eq!(child.started().await.origin, Origin::Spawned);
    child.ready().await;
    child.running.kill();
    child.exited().await;
    child.empty().await;
    assert!(alive(other_pid as i32));
    other.kill().await.unwrap();
    // The one whose record was spoilt was found by its mark.
    assert!(!alive(pid));
    reap(pid);
}

/// A directory has many names, and the next run may come by another.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn what_lives_is_found_where_its_cgroup_has_another_name() {
    let real = cgroup2().join(format!("named{}", std::process::id()));
    std::fs::create_dir(&real).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("cgroups");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let dotted = real.join("..").join(real.file_name().unwrap());
    for (number, (first, then)) in [(&real, &link), (&link, &dotted), (&dotted, &real)]
        .into_iter()
        .enumerate()
    {
        let state = dir.path().join(format!("state{number}"));
        let by = |name: &Path| {
            let backend = LinuxBackend::builder().state_dir(&state).cgroup(name);
            backend.build()
        };
        let former = by(first);
        let pid = formerly(move || async move {
            let backend = former.await.unwrap();
            let mut child = start(&backend, "c", shell("exec sleep 300"), KillScope::Cgroup);
            child.started().await.process.pid.as_raw()
        });
        let backend = by(then).await.unwrap();
        let mut child = start(&backend, "c", shell("exec sleep 300"), KillScope::Cgroup);
        let started = child.started().await;
        assert_eq!(started.origin, Origin::Recovered, "{then:?}");
        assert_eq!(started.process.pid.as_raw(), pid);
        child.ready().await;
        assert!(alive(pid));
        child.running.kill();
        child.exited().await;
        child.empty().await;
    }
    // Ours in it goes with the last backend's last task.
    eventually(|| std::fs::remove_dir(&real).is_ok()).await;
}

/// The number of a session says nothing once its leader was reaped; who was seen in it
/// before is in it still.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_session_of_a_recovered_child_is_a_member() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let script = format!(
        "cd {}; env -i sleep 300 & echo $! >one; env -i sleep 300 & echo $! >other
echo up; while [ ! -e end ]; do sleep 0.01; done; exit 0",
        dir.path().display()
    );
    let pid = a_former_run(&file("state"), &shell(&script), KillScope::Tree, Some("up"));
    let number = |name| -> i32 {
        let text = std::fs::read_to_string(file(name)).unwrap();
        text.trim().parse().unwrap()
    };
    let (one, other) = (number("one"), number("other"));
    let backend = with_state(&file("state")).await;
    let mut child = start(&backend, "c", shell("exit 9"), KillScope::Tree);
    assert_eq!(child.started().await.origin, Origin::Recovered);
    child.ready().await;
    std::fs::write(file("end"), "").unwrap();
    child.exited().await;
    child.has(|survivors| survivors.len() == 2).await;
    reap(pid);
    let end = |pid| {
        let held = Pidfd::open(Pid::new(pid).unwrap()).unwrap();
        held.send_signal(9).unwrap();
    };
    end(one);
    assert!(
        child.is_quiet(Duration::from_secs(1)).await,
        "{other} lives"
    );
    end(other);
    child.empty().await;
}
