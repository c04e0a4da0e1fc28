//! `kmonitor notify`, end to end on this kernel.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use common::{Finished, Target, finish, kmonitor, run};

/// A program that runs already, and says so when it gets its signal.
struct Service {
    child: Child,
}

impl Service {
    fn start() -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "trap 'echo told; exit 0' USR1; echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 6])
            .unwrap();
        Self { child }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// What it said after it was ready, once it has ended.
    fn said(mut self) -> String {
        let mut said = String::new();
        let output = self.child.stdout.as_mut().unwrap();
        output.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the command; it has registered all when this returns.
fn start(args: &[&str], targets: usize) -> (Child, Vec<String>) {
    let mut command = kmonitor(&[&["notify", "--json"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = Vec::new();
    // Read by bytes, so that what follows is left for others.
    let mut output = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    for _ in 0..targets {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "{lines:?}");
        lines.push(line);
    }
    (child, lines)
}

fn reason(finished: &Finished) -> String {
    let [line] = finished.json().try_into().unwrap();
    assert_eq!(line["type"], "finished");
    line["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_running_service_is_told_of_a_strangers_end() {
    let service = Service::start();
    let mut target = Target::exiting_with(3);
    let (monitor, pid) = (service.pid(), target.pid());
    let args = ["--monitor", &monitor, "--target", &pid, "--signal", "USR1"];
    let (child, lines) = start(&args, 1);
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["type"], "registered");
    assert_eq!(
        (&line["monitor"], &line["target"]),
        (&monitor.into(), &pid.into())
    );
    assert_eq!(
        (&line["events"], &line["signal"]),
        (&"exit".into(), &"SIGUSR1".into())
    );
    assert_eq!(line["signal_number"], 10);
    target.release();
    let finished = finish(child);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(reason(&finished), "targets_ended");
    assert_eq!(finished.json()[0]["sent"], 1);
    assert_eq!(service.said(), "told\n");
}

#[test]
fn it_goes_on_until_the_last_target_ends() {
    // Told of the first only when all is over: it ends of it.
    let service = Service::start();
    let mut targets = [Target::exiting_with(0), Target::exiting_with(0)];
    let both = format!("{},{}", targets[0].pid(), targets[1].pid());
    let monitor = service.pid();
    let args = ["-m", &monitor, "-p", &both, "-e", "abort", "-s", "USR1"];
    let (mut child, _) = start(&args, 2);
    targets[0].release();
    targets[0].reap();
    assert!(child.try_wait().unwrap().is_none(), "one of them lives");
    targets[1].kill();
    let finished = finish(child);
    assert_eq!(
        (finished.code, reason(&finished).as_str()),
        (Some(0), "targets_ended")
    );
    assert_eq!(finished.json()[0]["sent"], 1, "a normal end is no abort");
    assert_eq!(service.said(), "told\n");
}

#[test]
fn a_monitor_that_does_not_expect_the_signal_is_left_alone() {
    let mut innocent = Target::exiting_with(5);
    let target = Target::exiting_with(0);
    let (monitor, pid) = (innocent.pid(), target.pid());
    let args = ["notify", "-m", &monitor, "-p", &pid];
    let finished = run(&mut kmonitor(&args));
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("--force"), "{}", finished.stderr);

    // The end of the monitor is the end of the command.
    let (child, _) = start(&["-m", &monitor, "-p", &pid, "--force"], 1);
    innocent.release();
    let finished = finish(child);
    assert_eq!(
        (finished.code, reason(&finished).as_str()),
        (Some(3), "monitor_ended")
    );
}

#[test]
fn who_is_gone_is_said() {
    let service = Service::start();
    let (monitor, gone) = (service.pid(), Target::gone());
    for (monitor, target) in [(&monitor, &gone), (&gone, &monitor)] {
        let args = ["notify", "-m", monitor, "-p", target, "-s", "USR1"];
        let finished = run(&mut kmonitor(&args));
        assert_eq!(finished.code, Some(1));
        assert!(
            finished.stderr.contains(gone.as_str()),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn sigterm_ends_it_and_nobody_is_told() {
    let service = Service::start();
    let mut target = Target::exiting_with(0);
    let (monitor, pid) = (service.pid(), target.pid());
    let (child, _) = start(&["-m", &monitor, "-p", &pid, "-s", "USR1"], 1);
    let command = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(command, rustix::process::Signal::TERM).unwrap();
    let finished = finish(child);
    assert_eq!(
        (finished.code, reason(&finished).as_str()),
        (Some(143), "interrupted")
    );
    target.release();
    target.reap();
    // The end of its input ends it as well.
    let mut service = service;
    drop(service.child.stdin.take());
    assert_eq!(service.said(), "");
}

#[test]
fn what_cannot_be_told_is_refused() {
    let service = Service::start();
    let monitor = service.pid();
    for signal in ["KILL", "19", "0", "65", "33", "RTMIN-1"] {
        let args = ["notify", "-m", &monitor, "-p", "1", "-s", signal];
        assert_eq!(run(&mut kmonitor(&args)).code, Some(2), "{signal}");
    }
    assert_eq!(
        run(&mut kmonitor(&["notify", "-m", &monitor])).code,
        Some(2)
    );
    let args = [
        "notify", "-m", &monitor, "-p", "1", "-s", "USR1", "-e", "uid",
    ];
    assert_eq!(run(&mut kmonitor(&args)).code, Some(1));
}
