//! `kmonitor trace`, end to end on this kernel.
//!
//! Most need the proc connector, which serves the initial namespaces only.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use common::{Finished, Target, finish, in_namespaces, kmonitor, run, start_listening};
use serde_json::Value;

fn trace(args: &[&str]) -> Finished {
    run(&mut kmonitor(&[&["trace"], args].concat()))
}

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .collect()
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_command_is_traced_with_all_it_starts() {
    let script = "sh -c 'exit 3'; (exit 4); sh -c 'kill -9 $$'; exit 7";
    let finished = trace(&["--json", "--", "sh", "-c", script]);
    assert_eq!(finished.code, Some(7), "{finished:?}");
    let events = finished.json();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], at, "numbered without gaps");
    }
    let root = &events[0];
    assert_eq!(root["type"], "exec", "{root}");

    let forks = of_type(&events, "fork");
    assert_eq!(forks.len(), 3, "{finished:?}");
    assert!(forks.iter().all(|fork| fork["pid"] == root["pid"]));
    assert_eq!(of_type(&events, "exec").len(), 3);
    let mut statuses: Vec<_> = of_type(&events, "exit")
        .iter()
        .map(|exit| exit["status"].to_string())
        .collect();
    statuses.sort_unstable();
    let expected = [
        r#"{"code":3}"#,
        r#"{"code":4}"#,
        r#"{"code":7}"#,
        r#"{"core":false,"signal":9}"#,
    ];
    assert_eq!(statuses, expected);
    assert!(
        finished.stderr.contains("4 processes, 3 execs, 4 exits"),
        "{finished:?}"
    );
    assert!(finished.stderr.contains(", 0 lost "), "{finished:?}");
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn what_runs_is_told_while_it_runs() {
    // `read` keeps it running until its stdin is closed, after its exec was printed.
    let mut command = kmonitor(&["trace", "--json", "--", "sh", "-c", "read 'a b'; exit 5"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let exec: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(exec["comm"], "sh");
    assert_eq!(exec["args"][2], "read 'a b'; exit 5");
    assert!(exec["exe"].as_str().unwrap().starts_with('/'));
    drop(child.stdin.take());
    line.clear();
    stdout.read_to_string(&mut line).unwrap();
    assert!(line.contains(r#""status":{"code":5}"#), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn text_has_a_line_for_each_event() {
    let finished = trace(&["--", "sh", "-c", "sh -c 'exit 3'; exit 4"]);
    assert_eq!(finished.code, Some(4));
    let words: Vec<Vec<&str>> = finished
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let kinds: Vec<_> = words.iter().map(|words| words[2]).collect();
    assert_eq!(
        kinds,
        ["exec", "fork", "exec", "exit", "exit"],
        "{finished:?}"
    );
    assert!(finished.stdout.contains("exited with status 3"));
    assert!(!finished.stdout.contains('\x1b') && !finished.stderr.contains('\x1b'));
    let child = words[1].last().unwrap();
    assert_eq!(words[2][1], *child);
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn the_whole_tree_is_followed_or_the_command_only() {
    // The grandchild outlives the command, and waits on a pipe that we hold.
    let script = "exec 3<&0; sh -c 'read x; exit 9' <&3 & exit 2";
    let mut command = kmonitor(&["trace", "--json", "--events", "exit", "--"]);
    command.args(["sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(r#""status":{"code":2}"#), "{line}");
    assert!(
        child.try_wait().unwrap().is_none(),
        "a descendant still runs"
    );
    drop(child.stdin.take());
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(r#""status":{"code":9}"#), "{line}");
    assert_eq!(finish(child).code, Some(2));

    let mut command = kmonitor(&["trace", "--until-exit", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let held = child.stdin.take();
    let mut told = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    while !told.contains("1 process of the command still runs") {
        assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
    }
    assert_eq!(child.wait().unwrap().code(), Some(2));
    drop(held);
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_command_that_cannot_run_is_126_or_127() {
    let finished = trace(&["--", "kmonitor-no-such-command"]);
    finished.assert(127, "");
    assert!(
        finished.stderr.contains("command not found"),
        "{finished:?}"
    );
    let finished = trace(&["--", "/etc/passwd"]);
    finished.assert(126, "");
    assert!(
        finished.stderr.contains("cannot be executed"),
        "{finished:?}"
    );
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_killed_command_is_128_and_the_signal() {
    let finished = trace(&["-q", "--events", "abort", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(finished.code, Some(137), "{finished:?}");
    assert!(
        finished.stdout.contains("killed by signal 9"),
        "{finished:?}"
    );
    assert_eq!(finished.stderr, "");
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn threads_are_told_when_asked_for() {
    // The command under test has threads of its own, and ends by itself.
    let inner = ["--", env!("CARGO_BIN_EXE_kmonitor"), "doctor"];
    let finished = trace(&[&["--json", "--threads"], &inner[..]].concat());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let finished = trace(&[
        "--json",
        "--threads",
        "--",
        env!("CARGO_BIN_EXE_kmonitor"),
        "trace",
        "-q",
        "--",
        "true",
    ]);
    let events: Vec<Value> = finished.json_among_others();
    assert!(
        !of_type(&events, "thread_create").is_empty(),
        "{finished:?}"
    );
    assert!(!of_type(&events, "thread_exit").is_empty(), "{finished:?}");
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn named_processes_are_traced_until_they_have_ended() {
    let mut targets = [3, 4].map(Target::exiting_with);
    let pids = targets.each_ref().map(Target::pid).join(",");
    let mut command = kmonitor(&["trace", "--json", "--pid", &pids]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = start_listening(&mut command);
    for target in &mut targets {
        target.release();
        target.reap();
    }
    let finished = finish(child);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let events = finished.json();
    let codes: Vec<_> = events.iter().map(|e| &e["status"]["code"]).collect();
    assert_eq!(events.len(), 2, "{finished:?}");
    assert!(codes.contains(&&Value::from(3)) && codes.contains(&&Value::from(4)));
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_closed_pipe_is_a_quiet_end_with_the_commands_status() {
    let script = format!(
        "{} trace -- sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sh -c :; done; exit 6' | head -1; \
         echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_kmonitor")
    );
    let finished = run(Command::new("bash").args(["-c", &script]));
    assert!(finished.stdout.ends_with("\n6\n"), "{finished:?}");
    assert_eq!(finished.stdout.lines().count(), 2, "{finished:?}");
    assert_eq!(finished.stderr, "");

    let script = format!(
        "{} trace | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_kmonitor")
    );
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The trace notices at its next line, so there must be one.
    while child.try_wait().unwrap().is_none() {
        Command::new("true").status().unwrap();
    }
    let finished = finish(child);
    assert!(finished.stdout.ends_with("\n0\n"), "{finished:?}");
    assert_eq!(finished.stderr, "");
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_signal_ends_a_trace_of_the_host_with_a_summary() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = kmonitor(&["trace", "--events", "exec,exit"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = start_listening(&mut command);
        let pid = child.id().to_string();
        let killed = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(killed.unwrap().success());
        let finished = finish(child);
        assert_eq!(finished.code, Some(code), "{finished:?}");
        assert!(finished.stderr.contains(" lost in "), "{finished:?}");
    }
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn the_first_interrupt_lets_the_tree_end_and_the_second_does_not() {
    for second in [false, true] {
        let mut command = kmonitor(&["trace", "--json", "--", "sh", "-c", "read x; exit 8"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let pid = child.id().to_string();
        let interrupt = || {
            let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
            assert!(sent.unwrap().success());
        };
        interrupt();
        // Taken one by one: a second of the same kind would merge into the first.
        common::until("the signal was taken", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
            pending.is_some_and(|set| set.trim().chars().all(|digit| digit == '0'))
        });
        if second {
            // Handlers run before the loop sees them: ask until it has ended.
            common::until("the trace ended", || {
                interrupt();
                child.try_wait().unwrap().is_some()
            });
            let finished = finish(child);
            assert_eq!(finished.code, Some(130), "{finished:?}");
            assert!(finished.stderr.contains("still runs"), "{finished:?}");
        } else {
            drop(child.stdin.take());
            assert_eq!(finish(child).code, Some(8));
        }
    }
}

#[test]
fn bad_words_are_errors_of_usage() {
    let cases: [(&[&str], &str); 6] = [
        (
            &["--events", "exit,explode"],
            "unknown event \"explode\"; known are: thread_create",
        ),
        (&["--events", "none"], "no events"),
        (&["--pid", "-5"], "ids are positive"),
        (&["--pid", "x"], "expected a number"),
        (&["--tree"], "--pid"),
        (&["--pid", "1", "--", "true"], "cannot be used with"),
    ];
    for (args, message) in cases {
        let finished = trace(args);
        finished.assert(2, "");
        assert!(finished.stderr.contains(message), "{args:?}: {finished:?}");
    }
}

#[test]
fn a_process_that_is_gone_is_named() {
    let pid = Target::gone();
    let finished = trace(&["--events", "exit", "--pid", &pid]);
    finished.assert(1, "");
    assert!(
        finished
            .stderr
            .contains(&format!("process {pid} does not exist")),
        "{finished:?}"
    );
}

#[test]
fn exits_of_named_processes_need_no_connector() {
    let mut target = Target::exiting_with(3);
    let pid = target.pid();
    let args = [
        "trace", "--json", "--source", "pidfd", "--events", "exit", "--pid", &pid,
    ];
    let child = common::start_holding(&mut kmonitor(&args), &[&pid]);
    target.release();
    target.reap();
    let finished = finish(child);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let [exit] = finished.json().try_into().unwrap();
    assert_eq!(exit["status"]["code"], 3);

    let finished = trace(&["--source", "pidfd", "--", "true"]);
    finished.assert(1, "");
    assert!(
        finished.stderr.contains("the pidfd source cannot see"),
        "{finished:?}"
    );
}

#[test]
#[ignore = "needs root, to make namespaces"]
fn in_namespaces_the_reason_is_given_and_nothing_runs() {
    for (unshare, word) in [
        (&["-n"][..], "network namespace"),
        (&["-Ur"], "user namespace"),
        (&["-pf", "--mount-proc"], "pid namespace"),
    ] {
        let finished = in_namespaces(unshare, "exec \"$K\" trace -- echo ran");
        finished.assert(1, "");
        let reason = "trace needs the proc connector, which does not work here: ";
        assert!(finished.stderr.contains(reason), "{finished:?}");
        assert!(finished.stderr.contains(word), "{finished:?}");
        // What does work is offered.
        let finished = in_namespaces(unshare, "sleep 9 & \"$K\" trace --pid $!; kill $!");
        assert!(finished.stderr.contains("--events exit"), "{finished:?}");
    }
}
