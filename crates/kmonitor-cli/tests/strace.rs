//! A real build, traced by `kmonitor` and, inside of that, by strace, which stops every
//! process at every step and so cannot miss one: both must have seen the same.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{kmonitor, run};
use serde_json::Value;

const UNITS: usize = 24;

/// What one process did, by exec count and end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Life {
    execs: usize,
    /// As strace writes it: "exited with 3", "killed by SIGKILL".
    end: String,
}

type Lives = BTreeMap<i64, Life>;

/// A library of many units, and recipes that fail in different ways and go on.
fn write_build(dir: &Path) {
    let mut objects = String::new();
    for unit in 0..UNITS {
        fs::write(
            dir.join(format!("u{unit}.c")),
            format!("int u{unit}(void) {{ return {unit}; }}\n"),
        )
        .unwrap();
        objects.push_str(&format!(" u{unit}.o"));
    }
    let makefile = format!(
        "all: lib.a failing\n\
         %.o: %.c\n\tgcc -c -o $@ $<\n\
         lib.a:{objects}\n\tar rcs $@ $^\n\
         failing:\n\
         \t-exit 3\n\
         \t-kill -KILL $$$$\n\
         \t-sh -c '(exit 4) & (exit 5) | cat; kill -TERM $$$$'\n\
         \t-sh -c 'no-such-program; exec no-such-program'\n"
    );
    fs::write(dir.join("Makefile"), makefile).unwrap();
}

fn signal_name(number: i64) -> &'static str {
    match number {
        9 => "SIGKILL",
        15 => "SIGTERM",
        _ => "another signal",
    }
}

/// What the trace says of all processes of the tree.
fn told(events: &[Value]) -> Lives {
    let mut lives = Lives::new();
    for event in events {
        let life = lives.entry(event["pid"].as_i64().unwrap()).or_default();
        match event["type"].as_str().unwrap() {
            "exec" => life.execs += 1,
            "exit" => {
                assert!(life.end.is_empty(), "a second exit: {event}");
                life.end = match (&event["status"]["code"], &event["status"]["signal"]) {
                    (Value::Number(code), _) => format!("exited with {code}"),
                    (_, Value::Number(signal)) => {
                        format!("killed by {}", signal_name(signal.as_i64().unwrap()))
                    }
                    _ => panic!("no status: {event}"),
                };
            }
            "fork" => {
                let child = event["child"].as_i64().unwrap();
                assert!(
                    lives.insert(child, Life::default()).is_none(),
                    "a second birth: {event}"
                );
            }
            other => panic!("{other} was not asked for: {event}"),
        }
    }
    lives
}

/// What strace wrote: a pid and what it did, a line each.
fn seen(log: &str) -> Lives {
    let mut lives = Lives::new();
    for line in log.lines() {
        let (pid, what) = line.split_once(' ').unwrap();
        let life = lives.entry(pid.parse().unwrap()).or_default();
        let what = what.trim();
        if let Some(end) = what.strip_prefix("+++ ") {
            life.end = end.trim_end_matches(" +++").to_owned();
        } else if what.contains("exec") && what.ends_with("= 0") {
            life.execs += 1;
        }
    }
    lives
}

#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn a_build_is_told_as_strace_saw_it() {
    let dir = tempfile::tempdir().unwrap();
    write_build(dir.path());
    let log = dir.path().join("strace.log");
    let of_strace = ["strace", "-f", "-e", "trace=execve"];
    let mut command = kmonitor(&["trace", "--json", "--"]);
    command.args(of_strace).arg("-o").arg(&log);
    command.args(["make", "-s", "-j4", "-C"]).arg(dir.path());
    let finished = run(&mut command);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains(", 0 lost "), "{finished:?}");

    let mut told = told(&finished.json());
    let seen = seen(&fs::read_to_string(&log).unwrap());
    // A unit each: gcc, cc1, as; and what the recipes run.
    assert!(seen.len() > 3 * UNITS, "{}", seen.len());
    for (pid, life) in &seen {
        assert_eq!(told.remove(pid).as_ref(), Some(life), "{pid}");
    }
    for end in [
        "exited with 3",
        "exited with 4",
        "exited with 5",
        "exited with 127",
        "killed by SIGKILL",
        "killed by SIGTERM",
    ] {
        assert!(seen.values().any(|life| life.end == end), "nobody {end}");
    }
    // What is left is strace, and the children with which it tries what it may do.
    let of_strace = told.values().filter(|life| life.execs > 0).count();
    assert_eq!(of_strace, 1, "{told:?}");
}
