//! Hosts that hide something, and what a program inherits from who started it.

use std::process::{Command, Stdio};
use std::time::Duration;

use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::KillScope;

use crate::world::*;

/// Runs a test of this program, which is none by itself, behind some words.
fn within(prefix: &[&str], test: &str) {
    let output = Command::new(prefix[0])
        .args(&prefix[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("surroundings::{test}")])
        .args(["--ignored", "--nocapture"])
        .env("KMONITOR_TEST_WITHIN", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Whether it is run by [`within`].
fn is_within() -> bool {
    std::env::var_os("KMONITOR_TEST_WITHIN").is_some()
}

/// Another `/proc`, by these words.
fn with_proc(mount: &str, test: &str) {
    let script = format!("{mount} && exec \"$@\"");
    let own = ["unshare", "--mount", "--propagation=private"];
    within(&[&own[..], &["sh", "-c", &script, "sh"]].concat(), test);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is no test: the part of another"]
async fn groups_and_trees_end() {
    if !is_within() {
        return;
    }
    for scope in [KillScope::Group, KillScope::Tree] {
        let backend = plain().await;
        let mut child = start(&backend, "c", shell("exit 3"), scope);
        child.started().await;
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(3));
        child.empty().await;
    }
}

/// As for a unit with `ProcSubset=pid`: how many were forked, and which pid was the last,
/// is not to be seen.
#[test]
#[ignore = "needs root, to mount"]
fn a_tree_ends_where_only_processes_are_shown() {
    with_proc(
        "mount -t proc -o subset=pid proc /proc",
        "groups_and_trees_end",
    );
}

#[tokio::test]
#[ignore = "is no test: the part of another"]
async fn the_boot_is_unknown() {
    if !is_within() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let built = LinuxBackend::builder().state_dir(dir.path()).build().await;
    let error = built.unwrap_err().to_string();
    assert!(error.contains("boot_id"), "{error}");
}

/// A record of any boot would pass for one of this: strangers would be killed.
#[test]
#[ignore = "needs root, to mount"]
fn no_state_is_kept_where_the_boot_is_unknown() {
    with_proc(
        "mount -t proc -o subset=pid proc /proc",
        "the_boot_is_unknown",
    );
}

#[tokio::test]
#[ignore = "is no test: the part of another"]
async fn nothing_can_be_seen() {
    if !is_within() {
        return;
    }
    let error = LinuxBackend::builder().build().await.unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
    let unbuilt = kmonitor_supervisor::Supervisor::builder("app")
        .child(kmonitor_supervisor::Service::command("c", "true"))
        .start()
        .await;
    let error = unbuilt.unwrap_err().to_string();
    assert!(error.contains("/proc"), "{error}");
}

#[test]
#[ignore = "needs root, to mount"]
fn without_proc_nothing_is_started() {
    with_proc("mount -t tmpfs none /proc", "nothing_can_be_seen");
}

/// Whoever has a child's number there is another process, and would be signalled.
#[test]
#[ignore = "needs root, to unshare namespaces"]
fn with_the_proc_of_another_namespace_nothing_is_started() {
    let prefix = ["unshare", "--pid", "--fork", "--kill-child"];
    within(&prefix, "nothing_can_be_seen");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is no test: the part of another"]
async fn quick_children_end() {
    if !is_within() {
        return;
    }
    let backend = plain().await;
    for index in 0..100 {
        let name = format!("c{index}");
        let mut child = start(&backend, &name, spec("true", &[]), KillScope::Leader);
        child.started().await;
        child.ready().await;
        assert_eq!(child.exited().await.code(), Some(0));
        child.empty().await;
    }
}

/// The kernel would reap children as they die, before they are taken hold of.
#[test]
fn children_are_started_where_sigchld_is_ignored() {
    let program = "import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])";
    within(&["python3", "-c", program], "quick_children_end");
}

/// Start times are another clock's there.
#[test]
#[ignore = "needs root, to unshare namespaces"]
fn a_tree_ends_in_a_time_namespace() {
    let clocks = ["--monotonic", "1000000", "--boottime", "1000000"];
    let own = ["unshare", "--time", "--fork", "--kill-child"];
    within(&[&own[..], &clocks].concat(), "groups_and_trees_end");
}

/// A program on a file system that does not answer hangs like this.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_shutdown_ends_though_a_child_hangs_before_its_program() {
    use kmonitor_supervisor::spec::{Readiness, Stop};
    use kmonitor_supervisor::{Service, Supervisor};

    let base = Frozen::new();
    let backend = LinuxBackend::builder()
        .cgroup(&base.0)
        .build()
        .await
        .unwrap();
    let mut child = start(&backend, "c", shell("exit 3"), KillScope::Cgroup);
    assert!(child.is_quiet(Duration::from_millis(300)).await);
    let asked = tokio::time::timeout(Duration::from_secs(10), child.running.survivors());
    assert_eq!(asked.await.unwrap(), []);
    // It is frozen still.
    child.running.kill();
    child.started().await;
    child.ready().await;
    assert_eq!(child.exited().await.signal(), Some(9));
    child.empty().await;

    let second = Duration::from_secs(1);
    let stop = Stop::default().grace(second).patience(second);
    let service = Service::command("c", "sh")
        .args(["-c", "exit 3"])
        .stop(stop.scope(KillScope::Cgroup))
        .ready(Readiness::Exec, second);
    let tree = Supervisor::builder("app").child(service);
    let begun = tree.start_on(std::sync::Arc::new(backend));
    let begun = tokio::time::timeout(Duration::from_secs(30), begun).await;
    begun.expect("it ends").unwrap_err();
    // The backend's own in it goes with its last task.
    std::fs::write(base.0.join("cgroup.freeze"), "0").unwrap();
    eventually(|| std::fs::remove_dir(&base.0).is_ok()).await;
}

/// A cgroup whose members do not run.
struct Frozen(std::path::PathBuf);

impl Frozen {
    fn new() -> Self {
        let dir = cgroup2().join(format!("frozen{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cgroup.freeze"), "1").unwrap();
        Self(dir)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::remove_dir(&self.0);
    }
}
