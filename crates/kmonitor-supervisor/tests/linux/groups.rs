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

/// Who adopts its leader into a scope that is killed must not be in it. A process is in
/// one group only, so this runs again, in a group that a sibling leads.
#[tokio::test]
async fn a_group_that_we_are_in_is_not_adopted() {
    const SIBLING: &str = "KMONITOR_TEST_SIBLING";
    if let Ok(sibling) = std::env::var(SIBLING) {
        let adopt = Adopt::Pid(sibling.parse().unwrap());
        let spec = ProcessSpec::adopt(adopt);
        let mut child = start(&plain().await, "c", spec, KillScope::Group);
        let error = child.failed().await.to_string();
        assert!(error.contains("is in the group"), "{error}");
        return println!("refused");
    }
    let mut sibling = member(6, 0);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "groups::a_group_that_we_are_in_is_not_adopted"])
        .arg("--nocapture")
        .env(SIBLING, sibling.id().to_string())
        .process_group(i32::try_from(sibling.id()).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("refused"), "{text}{errors}");
    assert!(output.status.success(), "{text}{errors}");
    drop(sibling.stdin.take());
    assert_eq!(sibling.wait().unwrap().code(), Some(6));
}

/// One that was adopted with its group, and went to another group then.
struct Deserter {
    process: Child,
    /// Leads the group that it went to.
    other: Child,
    supervised: crate::world::Child,
}

impl Deserter {
    /// `stays`: makes a member of the group that it leaves, by the group's number.
    async fn new(stays: impl FnOnce(i32) -> Option<Child>) -> (Self, Option<Child>) {
        let backend = plain().await;
        let other = member(0, 0);
        let program = format!(
            "import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
sys.stdin.readline()
os.setpgid(0, {})
signal.alarm(300)
print('left', flush=True)
signal.pause()",
            other.id()
        );
        let mut process = Command::new("python3")
            .args(["-c", &program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = Pid::try_from(process.id()).unwrap();
        let stays = stays(pid.as_raw());
        let spec = ProcessSpec::adopt(Adopt::Pid(pid));
        let mut supervised = start(&backend, "c", spec, KillScope::Group);
        supervised.started().await;
        supervised.ready().await;
        drop(process.stdin.take());
        let mut said = String::new();
        let mut output = std::io::BufReader::new(process.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut said).unwrap();
        let deserter = Self {
            process,
            other,
            supervised,
        };
        (deserter, stays)
    }

    async fn is_told_to_end(&mut self) {
        self.supervised.signal(kmonitor_supervisor::Signal::TERM);
        assert_eq!(self.supervised.exited().await.code(), Some(5));
        self.process.wait().unwrap();
    }

    async fn leaves_nothing(mut self) {
        self.supervised.empty().await;
        // Whose group it went to was not told.
        drop(self.other.stdin.take());
        assert_eq!(self.other.wait().unwrap().code(), Some(0));
    }
}

/// It is stopped as one that leads a group.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_left_its_group_is_told_all_the_same() {
    let (mut leader, _) = Deserter::new(|_| None).await;
    leader.is_told_to_end().await;
    leader.leaves_nothing().await;
}

/// So are those that stayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_left_others_in_its_group_is_told_with_them() {
    let (mut leader, stayed) = Deserter::new(|group| Some(member(0, group))).await;
    leader.is_told_to_end().await;
    let status = stayed.unwrap().wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    leader.leaves_nothing().await;
}

/// Members that fork and end faster than one can look are members.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_empty_while_its_members_hop() {
    let dir = tempfile::tempdir().unwrap();
    let (hops, end) = (dir.path().join("hops"), dir.path().join("end"));
    // Each hop is a new process, whose parent ends. They end with the directory, too,
    // if this test fails, and after a while if it is killed and leaves that behind.
    let program = format!(
        "import os, time
hops = os.open('{0}/hops', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
last = time.monotonic() + 300
def go_on():
    return time.monotonic() < last and os.path.exists('{0}/hops') and not os.path.exists('{0}/end')
if os.fork() == 0:
    while go_on():
        os.write(hops, b'x')
        if os.fork():
            os._exit(0)
os._exit(3)",
        dir.path().display()
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
