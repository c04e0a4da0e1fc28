//! A program that is its tree. Signals are the whole process's, so each test is a
//! process of its own: run again, with its name in the environment.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::spec::Readiness;
use kmonitor_supervisor::{Service, Signal, Supervisor};
use rustix::process::{Pid, kill_process};

const ROLE: &str = "KMONITOR_TEST_TREE";

/// The program that is signalled: it says what it hears, and how it ended.
async fn tree(role: &str) {
    let program = match role {
        "deaf" => Program::new().ignores(Signal::TERM),
        "starting" => Program::new().never_ready(),
        _ => Program::new(),
    };
    let sim = Sim::new().program("app/a", program);
    let a = match role {
        "starting" => Service::command("a", "a").ready(Readiness::Exec, Duration::from_secs(1000)),
        _ => Service::command("a", "a"),
    };
    let builder = || Supervisor::builder("app").child(a.clone());
    let tree = builder().begin_on(Arc::new(sim)).unwrap();
    if role != "starting" {
        tree.ready().await.unwrap();
    }
    let handle = tree.handle();
    let (_, mut events) = handle.subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            println!("event {event}");
        }
    });
    let run = tree.run_with_signals(|handle| {
        println!("reload");
        drop(handle.reload(&builder().child(Service::command("b", "b"))));
    });
    tokio::pin!(run);
    // The handlers are there once it has been polled.
    assert!(futures::poll!(&mut run).is_pending());
    println!("listening");
    let report = run.await.unwrap();
    println!("end {} killed {}", report.end, report.children[0].killed);
}

#[test]
fn program() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(tree(&role));
}

struct Under {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Under {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["program", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut under = Self { child, lines };
        under.until("listening");
        under
    }

    fn until(&mut self, wanted: &str) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if line.contains(wanted) {
                return;
            }
            line.clear();
        }
        panic!("{wanted:?} never came");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn ends(mut self, how: &str) {
        self.until(how);
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn term_shuts_down_in_order() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let under = Under::start("plain");
        under.signal(signal);
        under.ends("end was shut down killed false");
    }
}

#[test]
fn term_shuts_down_what_is_being_started() {
    let mut under = Under::start("starting");
    under.until("app/a started");
    under.signal(rustix::process::Signal::TERM);
    under.ends("end was shut down killed false");
}

#[test]
fn a_second_term_skips_the_grace() {
    let began = std::time::Instant::now();
    let mut under = Under::start("deaf");
    under.signal(rustix::process::Signal::TERM);
    under.until("app/a is stopped with SIGTERM");
    under.signal(rustix::process::Signal::TERM);
    under.ends("end was shut down killed true");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the grace was skipped"
    );
}

#[test]
fn hup_reloads() {
    let mut under = Under::start("plain");
    under.signal(rustix::process::Signal::HUP);
    under.until("reload");
    under.until("app/b ready");
    under.signal(rustix::process::Signal::TERM);
    under.ends("end was shut down");
}
