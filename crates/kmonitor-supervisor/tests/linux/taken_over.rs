//! What a supervisor that was killed left, and what it did not leave to this one.

use std::path::Path;
use std::process::{Command, Stdio};

use kmonitor_hub::Hub;
use kmonitor_supervisor::Signal;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::backend::{Origin, Reach};
use kmonitor_supervisor::spec::{KillScope, ProcessSpec};

use crate::world::*;

/// A leader that ignores TERM, and a worker in a session of its own whose parent has
/// ended. That one says in a file that it heard TERM.
fn leader_and_worker(dir: &Path, token: &str) -> ProcessSpec {
    let script = "import os,signal,sys,time
dir = sys.argv[1]
def told(*_):
    open(dir + '/told', 'w').close()
if os.fork():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.wait()
else:
    os.setsid()
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGTERM, told)
    open(dir + '/up', 'w').close()
while True: time.sleep(1000)";
    spec("python3", &["-c", script, dir.to_str().unwrap(), token])
}

/// The supervisor that is killed.
#[tokio::test]
#[ignore = "is no test: the program that the others here kill"]
async fn the_former() {
    let Some(dir) = std::env::var_os("KMONITOR_TEST_FORMER") else {
        return;
    };
    let dir = Path::new(&dir);
    let token = std::env::var("KMONITOR_TEST_TOKEN").unwrap();
    let backend = with_state(&dir.join("state")).await;
    let spec = leader_and_worker(dir, &token);
    let mut child = start(&backend, "c", spec, KillScope::Tree);
    child.started().await;
    child.ready().await;
    std::future::pending::<()>().await;
}

/// Runs it until both are up, and kills it.
async fn former(dir: &Path, token: &str) {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "taken_over::the_former",
            "--ignored",
            "--nocapture",
        ])
        .env("KMONITOR_TEST_FORMER", dir)
        .env("KMONITOR_TEST_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually(|| dir.join("up").exists()).await;
    program.kill().unwrap();
    program.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn a_recovered_tree_is_not_empty_while_workers_live_that_went_to_init() {
    if !alone("taken_over::a_recovered_tree_is_not_empty_while_workers_live_that_went_to_init") {
        return;
    }
    let (dir, token) = (tempfile::tempdir().unwrap(), token());
    former(dir.path(), &token).await;
    let hub = Hub::builder()
        .only(kmonitor_source::SourceKind::Connector)
        .open();
    let backend = LinuxBackend::builder()
        .hub(hub.await.unwrap())
        .state_dir(dir.path().join("state"));
    let backend = backend.build().await.unwrap();
    let spec = leader_and_worker(dir.path(), &token);
    let mut child = start(&backend, "c", spec, KillScope::Tree);
    assert_eq!(child.started().await.origin, Origin::Recovered);
    child.ready().await;
    drop(child.running.signal(&[Signal::KILL], Reach::Leader));
    assert_eq!(child.exited().await.signal(), Some(9));
    assert!(child.is_quiet(std::time::Duration::from_millis(300)).await);
    assert_eq!(child.running.survivors().await.len(), 1);
    child.running.kill();
    child.empty().await;
    assert_eq!(living_with(&token), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_the_orphans_of_a_recovered_tree() {
    if !alone("taken_over::a_stop_reaches_the_orphans_of_a_recovered_tree") {
        return;
    }
    let (dir, token) = (tempfile::tempdir().unwrap(), token());
    former(dir.path(), &token).await;
    let backend = with_state(&dir.path().join("state")).await;
    let spec = leader_and_worker(dir.path(), &token);
    let mut child = start(&backend, "c", spec, KillScope::Tree);
    assert_eq!(child.started().await.origin, Origin::Recovered);
    child.ready().await;
    child.signal(Signal::TERM);
    let told = dir.path().join("told");
    eventually(|| told.exists()).await;
    child.running.kill();
    child.exited().await;
    child.empty().await;
    assert_eq!(living_with(&token), [0; 0]);
}

/// The directory is removed while its supervisor runs, and another makes it anew: that
/// one does not take the first one's cgroups for what nobody needs any more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_directory_in_the_place_of_another_does_not_end_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let first = with_state(&state).await;
    let mut child = start(&first, "c", shell("echo up; sleep 1000"), KillScope::Cgroup);
    child.started().await;
    child.ready().await;
    std::fs::remove_dir_all(&state).unwrap();
    let second = with_state(&state).await;
    assert_eq!(second.leftovers(), []);
    let mut other = start(&second, "c", shell("exit 3"), KillScope::Cgroup);
    other.started().await;
    other.ready().await;
    assert_eq!(other.exited().await.code(), Some(3));
    other.empty().await;
    assert!(child.is_quiet(std::time::Duration::from_millis(200)).await);
    child.running.kill();
    child.exited().await;
    child.empty().await;
}

/// Where all children are ours to reap: a leader that a former run left is reaped when
/// its record has been dealt with, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_left_is_not_reaped_as_an_orphan() {
    if !alone("taken_over::a_leader_that_was_left_is_not_reaped_as_an_orphan") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let former = state.clone();
    let pid = formerly(move || async move {
        let backend = with_state(&former).await;
        let mut child = start(&backend, "c", shell("sleep 1000"), KillScope::Group);
        let pid = child.started().await.process.pid;
        child.ready().await;
        pid
    });
    let backend = LinuxBackend::builder()
        .state_dir(&state)
        .reap_all_children(true);
    let backend = backend.build().await.unwrap();
    let held = kmonitor_pidfd::Pidfd::open(pid).unwrap();
    held.send_signal(9).unwrap();
    // Whose end is told after that one's, and who is reaped.
    for _ in 0..3 {
        let other = Command::new("true").spawn().map(|child| child.id());
        let other = format!("/proc/{}", other.unwrap());
        eventually(|| !Path::new(&other).exists()).await;
    }
    assert_eq!(held.readiness().unwrap(), kmonitor_pidfd::Readiness::Zombie);
    let mut child = start(&backend, "c", shell("exit 3"), KillScope::Group);
    assert_eq!(child.started().await.origin, Origin::Spawned);
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(3));
    child.empty().await;
    eventually(|| zombies().is_empty()).await;
}
