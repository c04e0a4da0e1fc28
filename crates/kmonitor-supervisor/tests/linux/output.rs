//! What a child writes, what it inherits, and what it does not.

use std::path::{Path, PathBuf};

use kmonitor_supervisor::Stream;
use kmonitor_supervisor::spec::{KillScope, Output, ProcessSpec};

use crate::world::*;

async fn run_to_end(spec: ProcessSpec) -> Child {
    let dir = tempfile::tempdir().unwrap();
    let backend = with_state(dir.path()).await;
    let mut child = start(&backend, "c", spec, KillScope::Group);
    child.started().await;
    child.ready().await;
    child.exited().await;
    child.empty().await;
    child
}

/// More than a pipe holds, up to the last byte before the end, without its newline.
#[tokio::test]
async fn nothing_is_lost_at_the_end() {
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; printf end";
    for _ in 0..3 {
        let child = run_to_end(shell(script)).await;
        let snapshot = child.output.snapshot();
        assert_eq!(snapshot.dropped, 30_001 - 10_000);
        let lines = child.lines();
        assert_eq!(lines[9_999], "end");
        for (index, line) in lines[..9_999].iter().enumerate() {
            assert_eq!(*line, format!("line {}", index + 20_001));
        }
    }
}

#[tokio::test]
async fn all_that_was_written_is_there_when_the_exit_is_told() {
    let backend = plain().await;
    for _ in 0..50 {
        let mut child = start(
            &backend,
            "c",
            shell("echo a; echo b >&2"),
            KillScope::Leader,
        );
        child.started().await;
        child.ready().await;
        child.exited().await;
        let mut lines = child.output.snapshot().lines;
        lines.sort_by_key(|line| line.stream.name());
        let found: Vec<_> = lines
            .iter()
            .map(|l| (l.stream, l.text().into_owned()))
            .collect();
        let expected = [(Stream::Stdout, "a".into()), (Stream::Stderr, "b".into())];
        assert!(found.iter().all(|line| expected.contains(line)) && found.len() == 2);
        child.empty().await;
    }
}

/// A grandchild outside the scope keeps the pipe open.
#[tokio::test]
async fn whoever_keeps_the_pipe_open_is_not_waited_for() {
    let token = token();
    let script = format!("setsid sh -c 'sleep 1000; : {token}' & echo last; exit 0");
    let child = run_to_end(shell(&script)).await;
    assert_eq!(child.lines(), ["last"]);
    eventually(|| !living_with(&token).is_empty()).await;
    for pid in living_with(&token) {
        let group = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[tokio::test]
async fn long_lines_are_cut_and_say_so() {
    let child = run_to_end(python("print('x' * 100000); print('short')")).await;
    let lines = child.output.snapshot().lines;
    assert!(lines[0].cut && lines[0].bytes.len() == 8192);
    assert_eq!((lines[1].text().as_ref(), lines[1].cut), ("short", false));
}

/// With `Null` nothing is seen, and with `Inherit` it goes where we write.
#[tokio::test]
async fn nothing_is_captured_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("where");
    let script = format!(
        "echo x; there=$(readlink /proc/$$/fd/1); echo $there > {}",
        file.display()
    );
    let own = std::fs::read_link("/proc/self/fd/1").unwrap();
    for (output, place) in [
        (Output::Null, PathBuf::from("/dev/null")),
        (Output::Inherit, own),
    ] {
        let child = run_to_end(with_output(shell(&script), output)).await;
        assert!(child.lines().is_empty());
        let there = std::fs::read_to_string(&file).unwrap();
        assert_eq!(Path::new(there.trim_end()), place);
    }
}

/// The application's descriptors stay its own, also those opened without care.
#[tokio::test]
async fn no_descriptor_leaks_into_a_child() {
    let careless = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = with_state(dir.path()).await;
    let list = shell("ls -l /proc/self/fd | sed -n 's/.* \\([0-9]* -> .*\\)/\\1/p'");
    for scope in [KillScope::Best, KillScope::Tree] {
        let mut child = start(&backend, "c", list.clone(), scope);
        child.started().await;
        child.ready().await;
        child.exited().await;
        child.empty().await;
        let open = child.lines();
        // `ls` opens the directory that it lists as 3.
        assert_eq!(open.len(), 4, "{open:?}");
        assert!(open[0].starts_with("0 -> /dev/null"), "{open:?}");
        assert!(
            open[1].contains("c.out") || open[1].contains("pipe:"),
            "{open:?}"
        );
        assert!(open[2].ends_with("c.err"), "{open:?}");
        assert!(open[3].starts_with("3 -> /proc/"), "{open:?}");
    }
    drop(careless);
}

/// Whatever this program ignores or blocks.
#[tokio::test]
async fn a_child_begins_with_default_signals_in_a_session_of_its_own() {
    // For the threads that fork, which begin as the one that starts them.
    let script = "import signal,os,sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.environ['KMONITOR_TEST_DEAF'] = '1'
os.execv(sys.argv[1], [sys.argv[1], '--exact', 'output::the_deaf_part', '--ignored', '--nocapture'])";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("all as it should be"),
        "{output:?}"
    );
}

#[tokio::test]
#[ignore = "is no test: the part of the one above that runs with ignored signals"]
async fn the_deaf_part() {
    if std::env::var_os("KMONITOR_TEST_DEAF").is_none() {
        return;
    }
    let ours = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(ours.contains("SigBlk:\t0000000000000200"), "{ours}");
    let child = run_to_end(spec("grep", &["-E", "SigBlk|SigIgn", "/proc/self/status"])).await;
    let lines = child.lines();
    assert_eq!(
        lines,
        ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]
    );
    let child = run_to_end(shell("exec ps -o pid=,pgid=,sid= -p $$")).await;
    let line = child.lines()[0].clone();
    let ids: Vec<_> = line.split_whitespace().collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{line}");
    println!("all as it should be");
}

#[tokio::test]
async fn environment_directory_and_arguments_are_the_specified_ones() {
    let mut command = command("sh", &["-c", "echo $A-$B-$KEPT-$1; pwd", "sh", "x y"]);
    command.env_clear = true;
    command.env = vec![
        ("A".into(), Some("1".into())),
        ("B".into(), None),
        ("PATH".into(), Some("/usr/bin:/bin".into())),
    ];
    command.dir = Some("/usr".into());
    let child = run_to_end(ProcessSpec::command(command)).await;
    assert_eq!(child.lines(), ["1---x y", "/usr"]);
}

#[tokio::test]
#[ignore = "needs root, to become another user"]
async fn a_child_is_the_user_it_should_be_and_nobody_else() {
    let mut command = command("sh", &["-c", "id -u; id -g; id -G; echo ok >/dev/stderr"]);
    command.user = Some((12345, 23456));
    let child = run_to_end(ProcessSpec::command(command)).await;
    let mut lines = child.lines();
    lines.sort();
    assert_eq!(lines, ["12345", "23456", "23456", "ok"]);
}

/// A child that runs in a cgroup says so itself.
#[tokio::test]
#[ignore = "needs root and a writable cgroup v2"]
async fn a_child_is_in_its_cgroup_before_it_is_executed() {
    let backend = plain().await;
    let mut command = command("sh", &["-c", "grep ^0:: /proc/self/cgroup"]);
    command.user = Some((12345, 12345));
    let mut child = start(
        &backend,
        "c",
        ProcessSpec::command(command),
        KillScope::Cgroup,
    );
    child.started().await;
    child.ready().await;
    child.exited().await;
    let line = child.lines()[0].clone();
    assert!(
        line.contains("/kmonitor-") && line.contains("/c."),
        "{line}"
    );
    child.empty().await;
}
