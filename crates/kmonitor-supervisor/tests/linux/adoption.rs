//! Processes that were there before.

use kmonitor_event::{Pid, ProcessRef};
use kmonitor_pidfd::Pidfd;
use kmonitor_supervisor::backend::Origin;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{Adopt, KillScope, ProcessSpec};

use crate::world::*;

/// A process that is nobody's child but init's: its pid, as it writes it to a file.
struct Stranger {
    dir: tempfile::TempDir,
    pid: Pid,
}

impl Stranger {
    /// Runs this as a shell's script, and is known once it has done `first`.
    fn new(first: &str, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!(
            "{first}; echo $$ > {0}.new; mv {0}.new {0}; {script}",
            file.display()
        );
        // In the background of a shell that ends at once.
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                "setsid sh -c \"$1\" >/dev/null 2>&1 </dev/null &",
                "sh",
                &script,
            ])
            .status()
            .unwrap();
        assert!(status.success());
        let until = std::time::Instant::now() + PATIENCE;
        let pid = loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                break text.trim().parse().unwrap();
            }
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        };
        Self { dir, pid }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("pid")
    }

    fn kill(&self, signal: i32) {
        Pidfd::open(self.pid).unwrap().send_signal(signal).unwrap();
    }
}

/// Its own status, though it is no child of ours; and the next is one.
async fn is_followed_to_its_end(backend: &LinuxBackend) {
    // Before we are a subreaper: who comes to us when its parent ends is no stranger.
    let new = || Stranger::new("trap 'exit 7' USR1", "while :; do sleep 0.01; done");
    for (by, stranger) in [("pid", new()), ("file", new()), ("inode", new())] {
        let whom = match by {
            "pid" => Adopt::Pid(stranger.pid),
            "file" => Adopt::PidFile(stranger.file()),
            _ => Adopt::Process(ProcessRef {
                pid: stranger.pid,
                inode: Pidfd::open(stranger.pid).unwrap().inode(),
            }),
        };
        let mut spec = ProcessSpec::adopt(whom);
        spec.command = Some(command("sh", &["-c", "exit 5"]));
        let mut child = start(backend, "c", spec.clone(), KillScope::Best);
        let started = child.started().await;
        assert_eq!(started.origin, Origin::Adopted);
        assert_eq!(started.scope, KillScope::Tree);
        assert_eq!(started.process.pid, stranger.pid);
        child.ready().await;
        stranger.kill(10);
        assert_eq!(child.exited().await.code(), Some(7), "by {by}");
        child.empty().await;
        let mut child = start_again(backend, "c", 2, spec, KillScope::Best);
        assert_eq!(child.started().await.origin, Origin::Spawned);
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(5));
        child.empty().await;
        assert!(!alive(stranger.pid.as_raw()));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn with_the_connector() {
    if !alone("adoption::with_the_connector") {
        return;
    }
    is_followed_to_its_end(&with_connector().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Linux 6.15, or root"]
async fn without() {
    if !alone("adoption::without") {
        return;
    }
    is_followed_to_its_end(&plain().await).await;
}

/// A stop reaches what it had when it was adopted, and what it got later.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn its_tree_is_stopped() {
    if !alone("adoption::its_tree_is_stopped") {
        return;
    }
    for backend in [with_connector().await, plain().await] {
        let token = token();
        let stranger = Stranger::new(
            &format!("trap \"sh -c 'while :; do sleep 1000; done; : {token}' &\" USR1"),
            &format!(
                "sh -c 'while :; do sleep 1000; done; : {token}' & \
                 while :; do sleep 0.01; done"
            ),
        );
        eventually(|| living_with(&token).len() >= 2).await;
        let spec = ProcessSpec::adopt(Adopt::Pid(stranger.pid));
        let mut child = start(&backend, "c", spec, KillScope::Tree);
        child.started().await;
        child.ready().await;
        stranger.kill(10);
        child
            .has(|left| left.iter().filter(|one| one.comm == "sh").count() >= 3)
            .await;
        child.running.kill();
        assert_eq!(child.exited().await.signal(), Some(9));
        child.empty().await;
        assert_eq!(living_with(&token), [0; 0]);
    }
}

/// Who is the application's own child is followed, and left for it to reap.
#[tokio::test]
async fn an_adopted_child_of_the_application_stays_its_own() {
    let backend = plain().await;
    let mut own = tokio::process::Command::new("sh")
        .args(["-c", "read x; exit 6"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::try_from(own.id().unwrap()).unwrap();
    let spec = ProcessSpec::adopt(Adopt::Pid(pid));
    let mut child = start(&backend, "c", spec, KillScope::Leader);
    assert_eq!(child.started().await.origin, Origin::Adopted);
    child.ready().await;
    drop(own.stdin.take());
    assert_eq!(child.exited().await.code(), Some(6));
    child.empty().await;
    assert_eq!(own.wait().await.unwrap().code(), Some(6));
}

/// What was adopted is adopted by the next supervisor too.
#[tokio::test]
#[ignore = "needs Linux 6.15, or root"]
async fn an_adopted_process_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = Stranger::new("trap 'exit 7' USR1", "while :; do sleep 0.01; done");
    let spec = ProcessSpec::adopt(Adopt::PidFile(stranger.file()));
    let (state, former) = (dir.path().to_owned(), spec.clone());
    formerly(move || async move {
        let backend = with_state(&state).await;
        let mut child = start(&backend, "c", former, KillScope::Best);
        assert_eq!(child.started().await.origin, Origin::Adopted);
        child.ready().await;
    });
    // Nobody else names it any more.
    std::fs::remove_file(stranger.file()).unwrap();
    let backend = with_state(dir.path()).await;
    let mut child = start(&backend, "c", spec, KillScope::Best);
    let started = child.started().await;
    assert_eq!(
        (started.origin, started.process.pid),
        (Origin::Recovered, stranger.pid)
    );
    child.ready().await;
    stranger.kill(10);
    assert_eq!(child.exited().await.code(), Some(7));
    child.empty().await;
}

/// The supervisor of an adopted child is restarted, and its generations begin anew:
/// the pid may be another's by then.
#[tokio::test]
#[ignore = "needs root, to ask for a pid"]
async fn a_pid_that_changed_hands_is_not_adopted_again() {
    let backend = plain().await;
    // Somebody else may get the pid, and keep it.
    for _ in 0..20 {
        let mut own = sleeper();
        let pid = Pid::try_from(own.id()).unwrap();
        let spec = ProcessSpec::adopt(Adopt::Pid(pid));
        let mut child = start(&backend, "c", spec.clone(), KillScope::Leader);
        assert_eq!(child.started().await.process.pid, pid);
        child.ready().await;
        own.kill().unwrap();
        child.exited().await;
        child.empty().await;
        own.wait().unwrap();
        let Some(mut next) = next_owner(pid) else {
            continue;
        };
        let mut child = start(&backend, "c", spec, KillScope::Leader);
        let error = child.failed().await.to_string();
        assert!(error.contains("not the one"), "{error}");
        assert!(next.try_wait().unwrap().is_none());
        next.kill().unwrap();
        next.wait().unwrap();
        return;
    }
    panic!("no pid was to be had twice");
}

fn sleeper() -> std::process::Child {
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("1000").spawn().unwrap()
}

/// A process with this pid: the kernel counts on from what is written there.
fn next_owner(pid: Pid) -> Option<std::process::Child> {
    for _ in 0..50 {
        let before = (pid.as_raw() - 1).to_string();
        std::fs::write("/proc/sys/kernel/ns_last_pid", before).unwrap();
        let mut child = sleeper();
        if i32::try_from(child.id()).unwrap() == pid.as_raw() {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}
