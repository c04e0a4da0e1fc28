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

/// A member may make its cgroup one of threads, which cannot be killed at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_cgroup_that_cannot_be_killed_at_once_is_killed_one_by_one() {
    let backend = plain().await;
    let token = token();
    let script = format!(
        "at=$(awk -F: '$1==0 {{print $3}}' /proc/self/cgroup)
        for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
            [ -e $root$at/cgroup.kill ] && dir=$root$at && top=$root
        done
        setsid sh -c 'while :; do sleep 1000; done; : {token}' &
        worker=$!
        for pid in $$ $worker; do echo $pid > $top/cgroup.procs; done
        echo threaded > $dir/cgroup.type || echo cannot
        for pid in $$ $worker; do echo $pid > $dir/cgroup.procs; done
        echo up; cat $dir/cgroup.type; while :; do sleep 1000; done; : {token}"
    );
    let mut child = start(&backend, "c", shell(&script), KillScope::Cgroup);
    child.started().await;
    child.ready().await;
    child.wrote("up").await;
    eventually(|| child.lines().iter().any(|line| line == "threaded")).await;
    assert!(living_with(&token).len() >= 2);
    child.running.kill();
    assert_eq!(child.exited().await.signal(), Some(9));
    child.empty().await;
    assert_eq!(living_with(&token), [0; 0]);
}

/// What systemd told a supervisor is about the supervisor.
#[test]
fn a_child_does_not_get_the_words_of_the_supervisors_own_manager() {
    const INNER: &str = "handles::the_managed_supervisor";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", INNER, "--ignored", "--nocapture"])
        .env("KMONITOR_TEST_MANAGED", "1")
        .env("NOTIFY_SOCKET", "/run/systemd/notify")
        .env("WATCHDOG_USEC", "1")
        .env("LISTEN_FDS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nothing of it: [\"mine\"]"), "{output:?}");
}

#[tokio::test]
#[ignore = "is no test: the supervisor of the one before"]
async fn the_managed_supervisor() {
    if std::env::var_os("KMONITOR_TEST_MANAGED").is_none() {
        return;
    }
    let backend = plain().await;
    let script = "echo $NOTIFY_SOCKET$WATCHDOG_USEC$LISTEN_FDS$LISTEN_PID";
    let mut command = command("sh", &["-c", script]);
    // Unless it is told so.
    command.env.push(("LISTEN_PID".into(), Some("mine".into())));
    let spec = ProcessSpec::command(command);
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    child.exited().await;
    child.empty().await;
    println!("nothing of it: {:?}", child.lines());
}

/// Two that are to have a descriptor of the same number, and cannot be executed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_exec_is_told_whatever_numbers_others_give_their_children() {
    let backend = plain().await;
    for round in 0..40 {
        let mut children: Vec<_> = (0..4)
            .map(|index| {
                let spec = with_ready(
                    spec("/nowhere/program", &[]),
                    kmonitor_supervisor::spec::Readiness::NotifyFd(200 + round % 3),
                );
                start(&backend, &format!("c{index}"), spec, KillScope::Group)
            })
            .collect();
        for child in &mut children {
            let error = child.failed().await;
            assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        }
    }
}

/// Who does not die of SIGKILL is looked for ever more seldom, and by nobody once its
/// handle is gone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a freezer (cgroup v1)"]
async fn who_cannot_be_killed_is_not_looked_for_without_end() {
    if !alone("handles::who_cannot_be_killed_is_not_looked_for_without_end") {
        return;
    }
    let top = std::path::Path::new("/sys/fs/cgroup/freezer");
    if !top.join("tasks").exists() {
        println!("there is no freezer here");
        return;
    }
    let freezer = top.join(token());
    std::fs::create_dir(&freezer).unwrap();
    let write = |file: &str, text: &str| std::fs::write(freezer.join(file), text).unwrap();
    let backend = plain().await;
    // Not by a shell: who waits in vfork for a child that is frozen is not frozen itself.
    let spec = spec("sleep", &["1000"]);
    let mut child = start(&backend, "c", spec, KillScope::Tree);
    let pid = child.started().await.process.pid;
    child.ready().await;
    write("cgroup.procs", &pid.to_string());
    write("freezer.state", "FROZEN");
    let state = || std::fs::read_to_string(freezer.join("freezer.state")).unwrap();
    eventually(|| state().trim() == "FROZEN").await;
    child.running.kill();
    assert!(child.is_quiet(std::time::Duration::from_secs(2)).await);
    let pid_text = format!("/proc/{pid}/stat");
    assert!(std::path::Path::new(&pid_text).exists());
    drop(child);
    // Its last round.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = work_done();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let after = work_done();
    write("freezer.state", "THAWED");
    eventually(|| !alive(pid.as_raw())).await;
    eventually(|| std::fs::remove_dir(&freezer).is_ok()).await;
    // A look at the process table alone reads hundreds of files.
    assert!(after - before < 20, "{}", after - before);
}

/// How often this program has read from a file.
fn work_done() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.unwrap().parse().unwrap()
}
