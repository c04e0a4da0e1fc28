//! The examples that supervise, run as a user runs them.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also in a function it calls"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use common::{PATIENCE, Running, until};
use rustix::process::{Pid, Signal, kill_process};

fn start(program: &str, args: &[&str]) -> Running {
    Running::start(Command::new(program).args(args))
}

/// Tells it to end: its status, and what it said that was not read yet.
fn end(example: Running, signal: Signal) -> (ExitStatus, Vec<String>) {
    example.signal(signal);
    example.end()
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

/// What the page says.
fn page(web: SocketAddr) -> String {
    let mut answer = String::new();
    let Ok(mut stream) = TcpStream::connect(web) else {
        return answer;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    // Cut short by a server that is being killed: then it did not answer.
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// The pid in the last word of a line that tells of a start.
fn pid_in(line: &str) -> Pid {
    let (_, rest) = line.split_once("pid ").expect(line);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Pid::from_raw(digits.parse().expect(line)).expect(line)
}

/// The cgroup that a process is in, below all roots it could be mounted at.
fn cgroup_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.unwrap();
    assert!(own.contains("kmonitor-"), "{own}");
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(|root| Path::new(root).join(own))
        .into()
}

#[test]
#[ignore = "needs root, a writable cgroup v2, nginx and redis-server"]
fn a_site_answers_is_restarted_reloaded_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (web, db) = (free_address(), free_address());
    let ports = [web.port().to_string(), db.port().to_string()];
    let args = [text(dir.path()), &ports[0], &ports[1]];
    let site = start(env!("CARGO_BIN_EXE_supervised_site"), &args);
    site.line_with("answers");
    // Nobody waited for it here: ready means that it answers.
    assert!(page(web).ends_with("up"));
    TcpStream::connect(db).unwrap();

    // The web server is killed: it alone is restarted.
    let file = dir.path().join("nginx.pid");
    let master = || {
        fs::read_to_string(&file)
            .unwrap()
            .trim()
            .parse::<i32>()
            .unwrap()
    };
    let first = master();
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    site.line_with("site/web killed by signal 9");
    let second = pid_in(&site.line_with("site/web started, pid "));
    site.line_with("site/web ready");
    assert_eq!(second.as_raw_nonzero().get(), master());
    assert_ne!(second.as_raw_nonzero().get(), first);
    assert!(page(web).ends_with("up"));

    // The database is killed: the web server is restarted with it, after it.
    let of_db = living_with(&format!("127.0.0.1:{}", db.port()));
    assert_eq!(of_db.len(), 1);
    kill_process(Pid::from_raw(of_db[0]).unwrap(), Signal::KILL).unwrap();
    site.line_with("site/db killed by signal 9");
    site.line_with("site/web is stopped with SIGQUIT");
    let database = pid_in(&site.line_with("site/db started, pid "));
    site.line_with("site/db ready");
    let third = pid_in(&site.line_with("site/web started, pid "));
    site.line_with("site/web ready");
    assert_ne!(database.as_raw_nonzero().get(), of_db[0]);
    assert_ne!(third, second);

    // Reloaded by its own signal: another page of the same master.
    let configuration = dir.path().join("nginx.conf");
    let written = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, written.replace("\"up\"", "\"reloaded\"")).unwrap();
    kill_process(third, Signal::HUP).unwrap();
    until("the new page", || page(web).ends_with("reloaded"));
    assert_eq!(third.as_raw_nonzero().get(), master());

    let cgroups = [third, database].map(|pid| cgroup_of(pid.as_raw_nonzero().get()));
    assert!(
        cgroups
            .iter()
            .all(|dirs| dirs.iter().any(|dir| dir.is_dir()))
    );
    let (status, lines) = end(site, Signal::INT);
    assert!(status.success());
    // In reverse order: the database when the web server is gone.
    let order: Vec<&str> = lines
        .iter()
        .filter(|line| line.contains("is stopped with") || line.contains("is gone"))
        .map(|line| line.split(" (").next().unwrap())
        .collect();
    let expected = [
        "site/web is stopped with SIGQUIT",
        "site/web is gone",
        "site/db is stopped with SIGTERM",
        "site/db is gone",
    ];
    assert_eq!(order, expected, "{lines:?}");
    assert!(lines.iter().any(|line| line == "nothing is left"));
    // No process, no cgroup, no socket.
    assert_eq!(living_with(text(dir.path())), [0; 0]);
    assert_eq!(living_with(&format!("127.0.0.1:{}", db.port())), [0; 0]);
    for dir in cgroups.iter().flatten() {
        assert!(!dir.exists() && !dir.parent().unwrap().exists(), "{dir:?}");
    }
    for address in [web, db] {
        assert!(TcpStream::connect(address).is_err());
        TcpListener::bind(address).unwrap();
    }
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
    let adopting = start(env!("CARGO_BIN_EXE_adopt_pid_file"), &args);
    adopting.line_with("Adopted");
    let pid = Pid::from_raw(daemon.id() as i32).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    daemon.wait().unwrap();
    adopting.line_with("exited with status 7");
    until("it was started again", || mark.exists());
    assert!(end(adopting, Signal::TERM).0.success());
}

#[test]
#[ignore = "needs root, or Linux 6.15"]
fn that_a_daemon_cannot_be_replaced_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut daemon = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(&file, format!("{}\n", daemon.id())).unwrap();
    let program = env!("CARGO_BIN_EXE_adopt_pid_file");
    let adopting = start(program, &[text(&file), "false"]);
    adopting.line_with("Adopted");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let (status, lines) = adopting.end();
    assert_eq!(status.code(), Some(1), "{lines:?}");
}

#[test]
fn that_a_node_gave_up_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let (desired, state) = (dir.path().join("desired"), dir.path().join("state"));
    fs::write(&desired, "one false\n").unwrap();
    let program = env!("CARGO_BIN_EXE_node_agent");
    let (status, lines) = start(program, &[text(&desired), text(&state)]).end();
    assert_eq!(status.code(), Some(1), "{lines:?}");
}

#[test]
#[ignore = "needs root, or Linux 6.15"]
fn a_node_follows_its_file_and_survives_its_agent() {
    let dir = tempfile::tempdir().unwrap();
    let (desired, state) = (dir.path().join("desired"), dir.path().join("state"));
    let agent = || {
        start(
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
    assert!(!end(first, Signal::KILL).0.success());
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
    assert!(end(second, Signal::TERM).0.success());
    assert_eq!(living_with("100001"), [0; 0]);
}
