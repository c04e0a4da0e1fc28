//! Who is in an adopted process's group.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use kmonitor_event::Pid;
use kmonitor_supervisor::spec::{Adopt, KillScope, ProcessSpec};

use crate::world::*;

/// One that ends with this code when its standard input is closed.
fn member(code: i32, group: i32) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read x; exit {code}")])
        .stdin(Stdio::piped())
        .process_group(group)
        .spawn()
        .unwrap()
}

/// A group whose leader is adopted: the leader, another member, and the supervised child.
async fn adopted_group() -> (Child, Child, crate::world::Child) {
    let backend = plain().await;
    let first = member(6, 0);
    let pid = Pid::try_from(first.id()).unwrap();
    let second = member(7, pid.as_raw());
    let spec = ProcessSpec::adopt(Adopt::Pid(pid));
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    (first, second, child)
}

/// The application's own children are its own to reap, also those in the group.
#[tokio::test(flavor = "multi_thread")]
async fn the_applications_children_in_an_adopted_group_stay_its_own() {
    let (mut first, mut second, mut child) = adopted_group().await;
    drop(first.stdin.take());
    assert_eq!(child.exited().await.code(), Some(6));
    // It is waited for the other now.
    assert!(child.is_quiet(std::time::Duration::from_millis(100)).await);
    drop(second.stdin.take());
    child.empty().await;
    assert_eq!(second.wait().unwrap().code(), Some(7));
    assert_eq!(first.wait().unwrap().code(), Some(6));
}

/// Its leader is reaped by another, and the rest of the group still belongs to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_outlives_a_leader_that_somebody_else_reaps() {
    let (mut first, mut second, mut child) = adopted_group().await;
    drop(first.stdin.take());
    assert_eq!(first.wait().unwrap().code(), Some(6));
    child.exited().await;
    assert!(child.is_quiet(std::time::Duration::from_millis(100)).await);
    assert_eq!(child.running.survivors().await.len(), 1);
    child.running.kill();
    child.empty().await;
    let status = second.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
}

/// Who adopts its leader into a scope that is killed must not be in it.
#[tokio::test]
async fn a_group_that_we_are_in_is_not_adopted() {
    let backend = plain().await;
    let own = rustix::process::getpgrp().as_raw_nonzero().get();
    let mut first = member(6, own);
    let spec = ProcessSpec::adopt(Adopt::Pid(Pid::try_from(first.id()).unwrap()));
    let mut child = start(&backend, "c", spec, KillScope::Group);
    let error = child.failed().await.to_string();
    assert!(error.contains("group"), "{error}");
    drop(first.stdin.take());
    first.wait().unwrap();
}

/// It is stopped as one that leads a group.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_left_its_group_is_told_all_the_same() {
    let backend = plain().await;
    let mut other = member(0, 0);
    let program = format!(
        "import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
sys.stdin.readline()
os.setpgid(0, {})
print('left', flush=True)
signal.pause()",
        other.id()
    );
    let mut leader = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let spec = ProcessSpec::adopt(Adopt::Pid(Pid::try_from(leader.id()).unwrap()));
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    drop(leader.stdin.take());
    let mut said = String::new();
    let mut output = std::io::BufReader::new(leader.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut said).unwrap();
    child.signal(kmonitor_supervisor::Signal::TERM);
    assert_eq!(child.exited().await.code(), Some(5));
    leader.wait().unwrap();
    child.empty().await;
    drop(other.stdin.take());
    other.wait().unwrap();
}

/// Members that fork and end faster than one can look are members.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_empty_while_its_members_hop() {
    let dir = tempfile::tempdir().unwrap();
    let (hops, end) = (dir.path().join("hops"), dir.path().join("end"));
    // Each hop is a new process, whose parent ends.
    let program = format!(
        "import os, time
hops = os.open('{}', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
if os.fork() == 0:
    while not os.path.exists('{}'):
        os.write(hops, b'x')
        if os.fork():
            os._exit(0)
os._exit(3)",
        hops.display(),
        end.display()
    );
    let backend = plain().await;
    let spec = python(&program);
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(3));
    assert!(child.is_quiet(std::time::Duration::from_millis(1500)).await);
    let count = || std::fs::metadata(&hops).unwrap().len();
    assert!(count() > 100, "they did not hop: this tested nothing");
    std::fs::write(end, "").unwrap();
    child.empty().await;
}
