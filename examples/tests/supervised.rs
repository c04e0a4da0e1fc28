//! The examples that supervise, run as a user runs them.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also in a function it calls"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test may have seen enough.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect(text);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Living processes with the word in their command line.
fn living_with(word: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid as u32 != std::process::id() && String::from_utf8_lossy(&line).contains(word)
    })
    .collect()
}

#[test]
#[ignore = "needs nginx and redis-server"]
fn a_site_answers_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (web, db) = (free_address(), free_address());
    let ports = [web.port().to_string(), db.port().to_string()];
    let args = [text(dir.path()), &ports[0], &ports[1]];
    let site = Running::start(env!("CARGO_BIN_EXE_supervised_site"), &args);
    site.line_with("answers");
    TcpStream::connect(web).unwrap();
    TcpStream::connect(db).unwrap();
    assert!(site.end(Signal::INT).success());
    assert_eq!(living_with(text(dir.path())), [0; 0]);
    assert!(TcpStream::connect(web).is_err() && TcpStream::connect(db).is_err());
}

#[test]
#[ignore = "needs root, or Linux 6.15"]
fn a_daemon_is_adopted_and_then_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (file, mark) = (dir.path().join("pid"), dir.path().join("mark"));
    let mut daemon = Command::new("sh")
        .args(["-c", "trap 'exit 7' USR1; while :; do sleep 0.01; done"])
        .spawn()
        .unwrap();
    fs::write(&file, format!("{}\n", daemon.id())).unwrap();
    let script = format!("touch {}; exec sleep 1000", text(&mark));
    let args = [text(&file), "sh", "-c", &script];
    let adopting = Running::start(env!("CARGO_BIN_EXE_adopt_pid_file"), &args);
    adopting.line_with("Adopted");
    let pid = Pid::from_raw(daemon.id() as i32).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    daemon.wait().unwrap();
    adopting.line_with("exited with status 7");
    eventually(|| mark.exists());
    adopting.end(Signal::TERM);
}

#[test]
#[ignore = "needs root, or Linux 6.15"]
fn a_node_follows_its_file_and_survives_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let (desired, state) = (dir.path().join("desired"), dir.path().join("state"));
    let agent = || {
        Running::start(
            env!("CARGO_BIN_EXE_node_agent"),
            &[text(&desired), text(&state)],
        )
    };
    let write = |content: &str| {
        let aside = dir.path().join("new");
        fs::write(&aside, content).unwrap();
        fs::rename(aside, &desired).unwrap();
    };
    write("one sleep 100001\ntwo sleep 100002\n");
    let first = agent();
    first.line_with("runs what it should");
    let (one, two) = (living_with("100001"), living_with("100002"));
    assert_eq!((one.len(), two.len()), (1, 1));
    // One stays, one goes, one comes.
    write("one sleep 100001\nthree sleep 100003\n");
    first.line_with("applied");
    assert_eq!(
        (living_with("100001"), living_with("100002")),
        (one.clone(), vec![])
    );
    let three = living_with("100003");
    assert_eq!(three.len(), 1);
    // The agent dies; meanwhile the file changes.
    assert!(!first.end(Signal::KILL).success());
    write("one sleep 100001\n");
    let second = agent();
    let line = second.line_with("node/one");
    assert!(line.contains("Recovered"), "{line}");
    second.line_with("stopping node/three");
    second.line_with("runs what it should");
    assert_eq!(
        (living_with("100001"), living_with("100003")),
        (one, vec![])
    );
    // From the first change that it applies on it also hears signals.
    write("one sleep 100001\n# the same\n");
    second.line_with("applied");
    assert!(second.end(Signal::TERM).success());
    assert_eq!(living_with("100001"), [0; 0]);
}
