//! A stop leaves nothing, or says what.

use std::time::{Duration, Instant};

use kmonitor_supervisor::Signal;
use kmonitor_supervisor::backend::Survivor;
use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{KillScope, Output, ProcessSpec};

use crate::world::*;

/// Ignores TERM.
const IGNORES: &str = "import signal,time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
time.sleep(1000)";

/// The leader ends at once and leaves a grandchild that ignores TERM.
const DOUBLE_FORK: &str = "import os,signal,time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(7)
if os.fork(): os._exit(0)
print('up', flush=True)
time.sleep(1000)";

/// The same, in a session of its own.
const DAEMON: &str = "import os,signal,time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(7)
os.setsid()
if os.fork(): os._exit(0)
print('up', flush=True)
time.sleep(1000)";

/// The same, and its environment is another.
const DAEMON_WITHOUT_ENVIRONMENT: &str = "import os,signal,sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(7)
os.setsid()
if os.fork(): os._exit(0)
os.execve('/bin/sh', ['sh', '-c', 'echo up; sleep 1000; :', sys.argv[1]], {})";

/// Each forks on and ends: nobody lives long enough to be looked at twice. Not for ever,
/// because a test that is killed leaves them behind.
const COMETS: &str = "import os,signal,time
end = time.monotonic() + 300
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
for _ in range(6):
    if not os.fork(): break
else:
    os._exit(7)
while time.monotonic() < end:
    if os.fork(): os._exit(0)";

/// Twice as many each time, up to some thousand.
const BOMB: &str = "import os,signal,time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
for _ in range(10):
    os.fork()
    time.sleep(0.02)
time.sleep(1000)";

const STOPPED: &str = "import os,signal
print('up', flush=True)
os.kill(os.getpid(), signal.SIGSTOP)";

fn with_token(script: &str, token: &str) -> ProcessSpec {
    spec("python3", &["-c", script, token])
}

/// Whether the leader ends by itself.
async fn nothing_is_left(backend: &LinuxBackend, scope: KillScope, script: &str, ends: bool) {
    let token = token();
    let mut child = start(backend, "c", with_token(script, &token), scope);
    assert_eq!(child.started().await.scope, scope);
    child.ready().await;
    child.wrote("up").await;
    if ends {
        assert_eq!(child.exited().await.code(), Some(7));
    }
    if script == STOPPED {
        child.has(|left| left.iter().any(|s| s.state == 'T')).await;
    }
    child.signal(Signal::TERM);
    // They ignore it, and what ignores it is there.
    assert!(child.is_quiet(Duration::from_millis(100)).await);
    let before = child.running.survivors().await;
    assert!(!before.is_empty());
    child.running.kill();
    if !ends {
        assert_eq!(child.exited().await.signal(), Some(9));
    }
    let killed = Instant::now();
    child.empty().await;
    println!("{scope:?} empty after {:?}", killed.elapsed());
    assert_eq!(living_with(&token), [0; 0], "{before:?}");
    assert!(child.running.survivors().await.is_empty());
    eventually(|| zombies().is_empty()).await;
}

async fn all_of_them(backend: &LinuxBackend, scope: KillScope) {
    nothing_is_left(backend, scope, IGNORES, false).await;
    nothing_is_left(backend, scope, STOPPED, false).await;
    nothing_is_left(backend, scope, DOUBLE_FORK, true).await;
    nothing_is_left(backend, scope, DAEMON, true).await;
}

#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn cgroup() {
    if !alone("scopes::cgroup") {
        return;
    }
    let backend = plain().await;
    assert_eq!(backend.cgroups_unusable(), None);
    all_of_them(&backend, KillScope::Cgroup).await;
    nothing_is_left(
        &backend,
        KillScope::Cgroup,
        DAEMON_WITHOUT_ENVIRONMENT,
        true,
    )
    .await;
    nothing_is_left(&backend, KillScope::Cgroup, COMETS, true).await;
    nothing_is_left(&backend, KillScope::Cgroup, BOMB, false).await;
}

/// The same beside a connector, which follows the same processes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a writable cgroup v2 and the proc connector"]
async fn cgroup_beside_the_connector() {
    if !alone("scopes::cgroup_beside_the_connector") {
        return;
    }
    let backend = with_connector().await;
    // So that the connector is listened to.
    let mut tree = start(&backend, "t", shell("sleep 1000"), KillScope::Tree);
    tree.started().await;
    tree.ready().await;
    all_of_them(&backend, KillScope::Cgroup).await;
    nothing_is_left(
        &backend,
        KillScope::Cgroup,
        DAEMON_WITHOUT_ENVIRONMENT,
        true,
    )
    .await;
    tree.running.kill();
    tree.exited().await;
    tree.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the proc connector"]
async fn tree_by_the_connector() {
    if !alone("scopes::tree_by_the_connector") {
        return;
    }
    let backend = with_connector().await;
    all_of_them(&backend, KillScope::Tree).await;
    nothing_is_left(&backend, KillScope::Tree, DAEMON_WITHOUT_ENVIRONMENT, true).await;
    nothing_is_left(&backend, KillScope::Tree, BOMB, false).await;
    nothing_is_left(&backend, KillScope::Tree, COMETS, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tree_by_scans() {
    if !alone("scopes::tree_by_scans") {
        return;
    }
    let backend = plain().await;
    all_of_them(&backend, KillScope::Tree).await;
    nothing_is_left(&backend, KillScope::Tree, BOMB, false).await;
    nothing_is_left(&backend, KillScope::Tree, COMETS, true).await;
}

#[tokio::test]
async fn group() {
    if !alone("scopes::group") {
        return;
    }
    let backend = plain().await;
    nothing_is_left(&backend, KillScope::Group, IGNORES, false).await;
    nothing_is_left(&backend, KillScope::Group, STOPPED, false).await;
    nothing_is_left(&backend, KillScope::Group, DOUBLE_FORK, true).await;
    nothing_is_left(&backend, KillScope::Group, COMETS, true).await;
}

/// A leader-scoped child is over when its leader is; what it leaves is its own.
#[tokio::test]
async fn leader() {
    let backend = plain().await;
    let token = token();
    let daemon = with_output(with_token(DAEMON, &token), Output::Null);
    let mut child = start(&backend, "c", daemon, KillScope::Leader);
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(7));
    child.empty().await;
    eventually(|| living_with(&token).len() == 1).await;
    for pid in living_with(&token) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// A stopped process does not hear TERM until it is continued.
#[tokio::test]
async fn a_stopped_child_is_continued_to_hear_term() {
    let backend = plain().await;
    let mut child = start(&backend, "c", python(STOPPED), KillScope::Group);
    child.started().await;
    child.ready().await;
    child.has(|left| left.iter().any(|s| s.state == 'T')).await;
    child.signal(Signal::TERM);
    child.signal(Signal::CONT);
    assert_eq!(child.exited().await.signal(), Some(15));
    child.empty().await;
}

#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn nested_cgroups_that_a_child_made_are_removed() {
    let backend = plain().await;
    let script = "
        at=$(awk -F: '$1==0 {print $3}' /proc/self/cgroup)
        for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
            [ -e $root$at/cgroup.kill ] && mkdir -p $root$at/a/b $root$at/c && at=$root$at
        done
        sh -c \"echo \\$\\$ > $at/a/b/cgroup.procs; exec sleep 1000\" &
        while ! grep -q . $at/a/b/cgroup.procs; do :; done
        echo $at; exit 3";
    let mut child = start(&backend, "c", shell(script), KillScope::Cgroup);
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(3));
    let dir = child.lines()[0].clone();
    assert!(std::path::Path::new(&dir).join("a/b").is_dir(), "{dir}");
    assert_eq!(child.running.survivors().await.len(), 1);
    child.running.kill();
    child.empty().await;
    assert!(!std::path::Path::new(&dir).exists(), "{dir}");
    let base = std::path::Path::new(&dir).parent().unwrap().to_owned();
    assert!(base.is_dir());
    drop(child);
    drop(backend);
    eventually(|| !base.exists()).await;
}

/// Of two backends in one program the one makes us a subreaper, and the other's
/// orphans come to us too: they were zombies for ever.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_another_backends_children_are_reaped() {
    if !alone("scopes::orphans_of_another_backends_children_are_reaped") {
        return;
    }
    let follows_trees = plain().await;
    let mut tree = start(&follows_trees, "t", shell("sleep 1000"), KillScope::Tree);
    tree.started().await;
    tree.ready().await;
    let other = plain().await;
    nothing_is_left(&other, KillScope::Group, DOUBLE_FORK, true).await;
    nothing_is_left(&other, KillScope::Group, COMETS, true).await;
    // In a session of its own, which is in no group of the child's; and seen alive, because
    // one that dies before that cannot be told from a child of the application's.
    let token = token();
    let script = "import os,time
if os.fork(): os._exit(7)
os.setsid()
time.sleep(1000)";
    let daemon = with_output(with_token(script, &token), Output::Null);
    let mut child = start(&other, "d", daemon, KillScope::Group);
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(7));
    // Without the daemon, once it has left the group.
    child.empty().await;
    let left = living_with(&token);
    assert_eq!(left.len(), 1, "{left:?}");
    let pid = rustix::process::Pid::from_raw(left[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually(|| zombies().is_empty()).await;
    tree.running.kill();
    tree.exited().await;
    tree.empty().await;
}

/// Who has been seen in a group and then leaves it is not waited for: the group is
/// empty without it.
#[tokio::test]
async fn who_leaves_a_group_after_its_leaders_end_is_not_waited_for() {
    let backend = plain().await;
    let token = token();
    let script = "import os,sys,time
if os.fork(): os._exit(7)
print('up', flush=True)
sys.stdin = open(sys.argv[2])
os.setsid()
time.sleep(1000)";
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let args = ["-c", script, &token, gate.to_str().unwrap()];
    let spec = spec("python3", &args);
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.code(), Some(7));
    child.wrote("up").await;
    // It has been found in the group, and waits.
    assert!(child.is_quiet(Duration::from_millis(200)).await);
    // Opened for writing, and so it goes on.
    drop(std::fs::File::create(&gate).unwrap());
    child.empty().await;
    let left = living_with(&token);
    assert_eq!(left.len(), 1);
    for pid in left {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// Survivors are named with state, also those that cannot be killed for the moment.
#[tokio::test]
async fn survivors_have_names_and_states() {
    let backend = plain().await;
    let mut child = start(
        &backend,
        "c",
        shell("echo up; sleep 1000; :"),
        KillScope::Tree,
    );
    child.started().await;
    child.ready().await;
    child.wrote("up").await;
    // Once `sleep` is executed, and both have gone to sleep.
    let both = |left: &[Survivor]| {
        let mut names: Vec<_> = left.iter().map(|s| (s.comm.as_str(), s.state)).collect();
        names.sort_unstable();
        names == [("sh", 'S'), ("sleep", 'S')]
    };
    child.has(both).await;
    child.running.kill();
    assert_eq!(child.exited().await.signal(), Some(9));
    child.empty().await;
}
