//! Who reaps whom, and that nobody is left a zombie.

use std::io::BufRead as _;
use std::process::{Command, Stdio};

use kmonitor_hub::Hub;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::KillScope;

use crate::world::*;

/// The connector had said which of our children are orphans.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn orphans_are_reaped_after_the_hub_has_ended() {
    if !alone("reaping::orphans_are_reaped_after_the_hub_has_ended") {
        return;
    }
    let hub = Hub::builder().only(kmonitor_source::SourceKind::Connector);
    let hub = hub.open().await.unwrap();
    let backend = LinuxBackend::builder().hub(hub.clone()).build();
    let backend = backend.await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "i=0; while [ $i -lt 100 ]; do (true &); i=$((i+1)); done; touch {0}/first
while [ ! -e {0}/on ]; do sleep 0.01; done
i=0; while [ $i -lt 100 ]; do (true &); i=$((i+1)); done; touch {0}/all; exec sleep 300",
        dir.path().display()
    );
    let mut child = start(&backend, "c", shell(&script), KillScope::Tree);
    child.started().await;
    child.ready().await;
    let is_there = |name: &str| dir.path().join(name).exists();
    eventually(|| is_there("first")).await;
    hub.close().await;
    std::fs::write(dir.path().join("on"), "").unwrap();
    eventually(|| is_there("all")).await;
    eventually(|| zombies().is_empty()).await;
    child.running.kill();
    child.exited().await;
    child.empty().await;
}

/// Its tracer comes first, and may take its time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to trace"]
async fn a_leader_that_is_traced_when_it_dies_is_reaped() {
    if !alone("reaping::a_leader_that_is_traced_when_it_dies_is_reaped") {
        return;
    }
    for scope in [KillScope::Leader, KillScope::Tree] {
        let backend = plain().await;
        let mut child = start(&backend, "c", shell("exec sleep 300"), scope);
        let pid = child.started().await.process.pid.as_raw();
        child.ready().await;
        let seize = format!(
            "import ctypes, signal
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
assert libc.ptrace(0x4206, {pid}, None, None) == 0
print('up', flush=True)
signal.alarm(300)
signal.pause()"
        );
        let mut tracer = Command::new("python3")
            .args(["-c", &seize])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = std::io::BufReader::new(tracer.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        child.running.kill();
        assert_eq!(child.exited().await.signal(), Some(9), "{scope:?}");
        child.empty().await;
        assert!(zombies().contains(&pid), "{scope:?}: it is its tracer's");
        tracer.kill().unwrap();
        tracer.wait().unwrap();
        eventually(|| !zombies().contains(&pid)).await;
    }
}

/// While a child is started, a dead one may be it. That one is looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_that_end_while_a_child_starts_are_reaped() {
    if !alone("reaping::orphans_that_end_while_a_child_starts_are_reaped") {
        return;
    }
    let backend = LinuxBackend::builder().reap_all_children(true).build();
    let backend = backend.await.unwrap();
    let mut subreaper = start(&backend, "s", shell("exec sleep 300"), KillScope::Tree);
    subreaper.started().await;
    subreaper.ready().await;
    for round in 0..5 {
        // It is reaped, being a child; its orphan comes to us.
        let mut parent = Command::new("sh");
        let script = "(setsid sleep 0.05 &)";
        drop(parent.args(["-c", script]).spawn().unwrap());
        let begin = |index| {
            let name = format!("c{round}x{index}");
            start(&backend, &name, shell("exec sleep 300"), KillScope::Leader)
        };
        let mut children: Vec<_> = (0..40).map(begin).collect();
        for child in &mut children {
            child.started().await;
        }
        eventually(|| zombies().is_empty()).await;
        for child in &mut children {
            child.running.kill();
            child.ready().await;
            child.exited().await;
            child.empty().await;
        }
    }
    subreaper.running.kill();
    subreaper.exited().await;
}

/// A member led a session, and was reaped by its own parent: nobody told of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to choose a pid"]
async fn a_child_of_the_application_may_lead_a_session_with_a_members_number() {
    if !alone("reaping::a_child_of_the_application_may_lead_a_session_with_a_members_number") {
        return;
    }
    let backend = plain().await;
    // Somebody else may have got the number.
    for round in 0..20 {
        if with_a_members_number(&backend, &format!("c{round}")).await {
            return;
        }
    }
    panic!("no number was to be had twice");
}

/// Whether it got that.
async fn with_a_members_number(backend: &LinuxBackend, name: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let script = format!(
        "cd {}; setsid sh -c 'echo $$ >pid; while [ ! -e end ]; do sleep 0.01; done'
touch reaped; exec sleep 300",
        dir.path().display()
    );
    let mut child = start(backend, name, shell(&script), KillScope::Tree);
    child.started().await;
    child.ready().await;
    let session = || std::fs::read_to_string(file("pid")).unwrap_or_default();
    eventually(|| session().ends_with('\n')).await;
    let session: i32 = session().trim().parse().unwrap();
    let seen = child.running.survivors().await;
    assert!(seen.iter().any(|it| it.pid.as_raw() == session), "{seen:?}");
    std::fs::write(file("end"), "").unwrap();
    eventually(|| file("reaped").exists()).await;
    std::fs::write("/proc/sys/kernel/ns_last_pid", (session - 1).to_string()).unwrap();
    let mut own = Command::new("setsid");
    let mut own = own.args(["sh", "-c", "exit 7"]).spawn().unwrap();
    let pid = own.id() as i32;
    eventually(|| zombies().contains(&pid)).await;
    // One more look at our children is over when a later one's end is told.
    let later = format!("{name}-later");
    let mut later = start(backend, &later, shell("exit 0"), KillScope::Leader);
    later.started().await;
    later.ready().await;
    later.exited().await;
    later.empty().await;
    assert_eq!(own.wait().unwrap().code(), Some(7));
    child.running.kill();
    child.exited().await;
    child.empty().await;
    pid == session
}
