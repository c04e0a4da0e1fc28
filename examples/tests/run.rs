//! Each example, run as a user runs it, on the real kernel.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also in a function it calls"
)]

mod common;

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::{Running, pid, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The service, ready, and the pids of its workers.
fn service() -> (Running, Vec<Pid>) {
    let service = Running::start(&mut Command::new(env!("CARGO_BIN_EXE_service")));
    let worker = |number| {
        let line = service.line_with(&format!("worker {number} is "));
        let process = line.rsplit(' ').next().unwrap();
        pid(process.split(':').next().unwrap().parse().unwrap())
    };
    let workers = vec![worker(1), worker(2)];
    service.line_with("ready");
    (service, workers)
}

fn assert_gone(workers: &[Pid]) {
    for worker in workers {
        assert!(test_kill_process(*worker).is_err(), "{worker:?} lives");
    }
}

#[track_caller]
fn assert_said(lines: &[String], text: &str) {
    let said = lines.iter().any(|line| line.contains(text));
    assert!(said, "nothing with {text:?} in {lines:#?}");
}

#[test]
fn the_service_stops_its_workers_and_itself_when_told() {
    for signal in [Signal::TERM, Signal::INT] {
        let (service, workers) = service();
        service.signal(signal);
        let (status, lines) = service.end();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        assert_said(&lines, &format!("signal {}: stopping 2", signal.as_raw()));
        assert_said(&lines, "worker 1 exited with status 0");
        assert_said(&lines, "worker 2 exited with status 0");
        assert_gone(&workers);
    }
}

#[test]
fn the_service_kills_a_worker_that_does_not_stop() {
    let (service, workers) = service();
    kill_process(workers[1], Signal::STOP).unwrap();
    let stat = format!("/proc/{}/stat", workers[1].as_raw_pid());
    until("the worker is stopped", || {
        std::fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    service.signal(Signal::TERM);
    let (status, lines) = service.end();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert_said(&lines, "worker 1 exited with status 0");
    assert_said(&lines, "1 workers not stopped within 2s: killing");
    assert_said(&lines, "worker 2 killed by signal 9");
    assert_gone(&workers);
}

#[test]
fn the_service_notices_workers_that_die_by_themselves() {
    let (service, workers) = service();
    kill_process(workers[0], Signal::KILL).unwrap();
    service.line_with("worker 1 killed by signal 9");
    kill_process(workers[1], Signal::QUIT).unwrap();
    service.line_with("worker 2 killed by signal 3");
    service.line_with("no worker is left");
    let (status, _) = service.end();
    assert_eq!(status.code(), Some(1));
    assert_gone(&workers);
}

/// Workers see the end of their stdin, whatever ends the service.
#[test]
fn workers_do_not_outlive_a_service_that_was_killed() {
    let (service, workers) = service();
    service.signal(Signal::KILL);
    service.end();
    until("the workers have ended", || {
        workers.iter().all(|worker| is_dead(*worker))
    });
}

/// Whether a process was reaped, or only waits for init to do that.
fn is_dead(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Children of the test, and so strangers to the program under test.
fn strangers(scripts: &[&str]) -> Vec<Child> {
    let start = |script: &&str| {
        let script = format!("read line; {script}");
        let mut command = Command::new("sh");
        let command = command.args(["-c", &script]).stdin(Stdio::piped());
        command.spawn().unwrap()
    };
    scripts.iter().map(start).collect()
}

/// Runs `wait_for_exit` on strangers, which end when it watches them all.
fn wait_for(scripts: &[&str]) -> (ExitStatus, Vec<String>) {
    let mut children = strangers(scripts);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wait_for_exit"));
    command.args(children.iter().map(|child| child.id().to_string()));
    let waiting = Running::start(&mut command);
    let descriptors = format!("/proc/{}/fd", waiting.child.id());
    until("it watches all", || {
        let entries = std::fs::read_dir(&descriptors).unwrap();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let pidfds = links.filter(|link| link.to_string_lossy().contains("pidfd"));
        pidfds.count() == children.len()
    });
    for child in &mut children {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    waiting.end()
}

#[test]
fn wait_for_exit_ends_as_the_process_did() {
    for (script, said, code) in [
        ("exit 7", "exited with status 7", 7),
        ("kill -9 $$", "killed by signal 9", 137),
        ("exit 0", "exited with status 0", 0),
    ] {
        let (status, lines) = wait_for(&[script]);
        assert_eq!(status.code(), Some(code), "{lines:#?}");
        assert_said(&lines, said);
    }
}

#[test]
fn wait_for_exit_reports_each_of_several() {
    let (status, lines) = wait_for(&["exit 3", "kill -15 $$", "exit 0"]);
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_said(&lines, "exited with status 3");
    assert_said(&lines, "killed by signal 15");
    assert_said(&lines, "exited with status 0");
}

#[test]
fn wait_for_exit_refuses_what_is_no_process() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let gone = gone.id().to_string();
    for (arguments, code, said) in [
        (vec![], 2, "usage"),
        (vec![gone.as_str()], 1, "does not exist"),
        (vec!["0"], 1, "is not a process id"),
        (vec!["soon"], 1, "is not a process id"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wait_for_exit"));
        let (status, lines) = Running::start(command.args(arguments)).end();
        assert_eq!(status.code(), Some(code), "{lines:#?}");
        assert_said(&lines, said);
    }
}

#[test]
#[ignore = "needs the proc connector"]
fn follow_tree_tells_of_all_descendants() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_follow_tree"));
    let (status, lines) = Running::start(&mut command).end();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    // sh, sleep and true; the fork of sh itself is not shown.
    let counts = [count(" fork: "), count(" exec"), count(" exit: ")];
    assert_eq!(counts, [2, 3, 3], "{lines:#?}");
}

#[test]
#[ignore = "needs the proc connector"]
fn follow_tree_ends_as_the_command_did_and_with_the_last_descendant() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_follow_tree"));
    // The grandchild outlives the command, and is an orphan by then.
    command.args(["sh", "-c", "exec 3<&0; (read line <&3; exit 5) & exit 3"]);
    let mut tree = Running::start(command.stdin(Stdio::piped()));
    tree.line_with("exited with status 3");
    drop(tree.child.stdin.take());
    let (status, lines) = tree.end();
    assert_eq!(status.code(), Some(3), "{lines:#?}");
    assert_said(&lines, "exited with status 5");
}

#[test]
#[ignore = "needs to make a network namespace"]
fn follow_tree_says_what_to_do_where_it_cannot_follow() {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--"]);
    command.arg(env!("CARGO_BIN_EXE_follow_tree"));
    let (status, lines) = Running::start(&mut command).end();
    assert_eq!(status.code(), Some(69), "{lines:#?}");
    assert_said(&lines, "the pidfd source cannot see fork,exec events");
    assert_said(&lines, "the connector source does not work here: ");
    assert_said(&lines, "kmonitor::watch(pid)");
}

/// Runs `custom_source` on a script.
fn play(script: &str) -> (ExitStatus, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_custom_source"));
    let command = command.arg("/dev/stdin").stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    running.end()
}

#[test]
fn custom_source_plays_its_own_script() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_custom_source"));
    let (status, lines) = Running::start(&mut command).end();
    assert_eq!(status.code(), Some(0));
    let expected = [
        "1 fork: child 100",
        "100 exec",
        "100 fork: child 101",
        "101 exit: exited with status 0",
        "100 exit: exited with status 7",
        "1 exit: exited with status 0",
        "watched: 1 exited with status 0",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn custom_source_tells_processes_apart_that_had_the_same_pid() {
    let (status, lines) = play("fork 1 5\nexit 5 3\nfork 1 5\nexit 5 4\nexit 1 0");
    assert_eq!(status.code(), Some(0));
    let expected = [
        "1 fork: child 5",
        "5 exit: exited with status 3",
        "1 fork: child 5",
        "5 exit: exited with status 4",
        "1 exit: exited with status 0",
        "watched: 1 exited with status 0",
    ];
    assert_eq!(lines, expected);
}

/// More than the queue holds at once: whether anything is lost, and how much, is
/// a matter of threads; that it ends, and that the watch tells, is not.
#[test]
fn custom_source_survives_a_script_faster_than_its_reader() {
    let mut script = String::new();
    for child in 2..20_000 {
        script.push_str(&format!("fork 1 {child}\nexit {child} 0\n"));
    }
    let (status, lines) = play(&(script + "exit 1 9"));
    assert_eq!(status.code(), Some(0));
    let last = lines.last().unwrap();
    assert!(last.starts_with("watched: 1 "), "{last}");
}

#[test]
fn custom_source_says_that_the_script_ended_first() {
    let (status, lines) = play("fork 1 5");
    assert_eq!(status.code(), Some(0));
    let last = "watched: the hub was closed before the process ended: the source has ended";
    assert_eq!(lines, ["1 fork: child 5", last]);
}

#[test]
fn custom_source_names_the_line_it_cannot_use() {
    for (script, said) in [
        (
            "fork 1 5\nexplode 5",
            "line 2, \\\"explode 5\\\": expected `fork",
        ),
        ("exit 5 0", "there is no process 5"),
        ("fork 1 1", "there is a process 1 already"),
        ("exit 1 256", "line 1"),
    ] {
        let (status, lines) = play(script);
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        assert_said(&lines, said);
    }
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn told_by_signals_prints_what_happened() {
    let mut target = Command::new("sh")
        .args(["-c", "read line; true & wait; kill -9 $$"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_told_by_signals"));
    let monitor = Running::start(command.arg(target.id().to_string()));
    monitor.line_with("watching");
    drop(target.stdin.take());
    target.wait().unwrap();
    let (status, lines) = monitor.end();
    assert!(status.success(), "{lines:#?}");
    let [fork, abort, exit] = &lines[..] else {
        panic!("three were due: {lines:#?}");
    };
    assert!(fork.starts_with("fork of "), "{fork}");
    assert!(abort.starts_with(&format!("abort of {}, uid ", target.id())));
    assert!(exit.starts_with(&format!("exit of {}, uid ", target.id())));
}

/// The C programs are monitors of the device, whose tests run them; here they
/// are only held against the header.
#[test]
fn the_c_programs_compile_without_a_warning() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for program in ["wait_exit", "follow_tree", "every_event"] {
        for standard in ["-std=c11", "-std=c99"] {
            let status = Command::new("cc")
                .args([
                    standard,
                    "-Wall",
                    "-Wextra",
                    "-Wpedantic",
                    "-Werror",
                    "-pthread",
                ])
                .arg(format!("-I{root}/crates/kmonitor-signal/include"))
                .args(["-fsyntax-only", &format!("{root}/examples/c/{program}.c")])
                .status()
                .unwrap();
            assert!(status.success(), "{program} {standard}");
        }
    }
}

/// The numbers of the interface are those that programs of 2004 were built with.
#[test]
fn the_header_has_the_numbers_of_2004() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let source = "#include <kmonitor.h>\n\
        _Static_assert(KMONITOR_IOW_REGISTER == 0x400CDE01, \"register\");\n\
        _Static_assert(KMONITOR_IOW_DEREGISTER == 0x400CDE02, \"deregister\");\n\
        _Static_assert(sizeof(struct kmonitor_cmd) == 12, \"cmd\");\n\
        _Static_assert(THREAD_CREATE == 1 && THREAD_ABORT == 2 && THREAD_EXIT == 4, \"t\");\n\
        _Static_assert(PROCESS_FORK == 8 && PROCESS_ABORT == 16, \"p\");\n\
        _Static_assert(PROCESS_EXEC == 32 && PROCESS_EXIT == 64, \"p\");\n";
    let mut compiler = Command::new("cc")
        .args(["-std=c11", "-fsyntax-only", "-Wall", "-Werror", "-xc", "-"])
        .arg(format!("-I{root}/crates/kmonitor-signal/include"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = compiler.stdin.take().unwrap();
    input.write_all(source.as_bytes()).unwrap();
    drop(input);
    assert!(compiler.wait().unwrap().success());
}
