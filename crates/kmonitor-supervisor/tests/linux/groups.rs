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
