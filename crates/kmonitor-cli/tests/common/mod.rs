//! What the end-to-end tests share. No sleeping to let things happen: processes
//! are held by their stdin, and conditions are awaited.
#![allow(
    dead_code,
    reason = "each test file is a program of its own and uses its part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "this is part of tests, although no test itself"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The command under test.
pub(crate) fn kmonitor(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmonitor"));
    command.args(args).stdin(Stdio::null());
    command.env_remove("KMONITOR_LOG");
    command
}

/// A process that lives until it is let go, and then exits with its code. It is
/// a child of the test, and so a stranger to the command under test.
pub(crate) struct Target {
    child: Child,
}

impl Target {
    pub(crate) fn exiting_with(code: u8) -> Self {
        let child = Command::new("sh")
            .args(["-c", &format!("read line; exit {code}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// By a command that waits for the end of its input, which is a pipe.
    pub(crate) fn of(mut command: Command) -> Self {
        let child = command.spawn().unwrap();
        Self { child }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Ends it; it stays a zombie.
    pub(crate) fn release(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Takes its status, which frees its pid.
    pub(crate) fn reap(&mut self) {
        self.child.wait().unwrap();
    }

    /// A pid that was a process's until just now.
    pub(crate) fn gone() -> String {
        let mut target = Self::exiting_with(0);
        target.release();
        target.reap();
        target.pid()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition, by asking again and again; panics after a long while.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts the command, and returns when it holds pidfds of all these processes.
pub(crate) fn start_holding(command: &mut Command, pids: &[&str]) -> Child {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the command holds its processes", || {
        let held = held_pids(child.id());
        pids.iter().all(|pid| held.iter().any(|held| held == pid))
    });
    child
}

/// The processes that a process holds pidfds of.
fn held_pids(process: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fdinfo")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|text| {
            let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
            Some(pid.trim().to_owned())
        })
        .collect()
}

/// The result of a command that needs no further help.
pub(crate) fn run(command: &mut Command) -> Finished {
    Finished::from(command.output().unwrap())
}

pub(crate) fn finish(child: Child) -> Finished {
    Finished::from(child.wait_with_output().unwrap())
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Finished {
    pub(crate) fn assert(&self, code: i32, stdout: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, stdout, "{self:?}");
    }

    /// Each line of stdout as JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// Lines that are JSON, between those that the command printed.
    pub(crate) fn json_among_others(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Starts a trace, and returns when the kernel has it as a listener and all its
/// threads have gone to sleep over that.
pub(crate) fn start_listening(command: &mut Command) -> Child {
    let child = command.spawn().unwrap();
    until("the hub listens", || {
        let tasks = format!("/proc/{}/task", child.id());
        let Ok(tasks) = fs::read_dir(tasks) else {
            return false;
        };
        let mut asleep = 0;
        for task in tasks.flatten() {
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
                return false;
            };
            asleep += usize::from(stat.contains(") S "));
        }
        let netlink = fs::read_to_string(format!("/proc/{}/net/netlink", child.id()));
        asleep == 2 && netlink.is_ok_and(|table| listens(&table, child.id()))
    });
    child
}

/// Whether a process has a netlink socket of the connector that is a member of
/// the group of process events.
pub(crate) fn listens(table: &str, process: u32) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    let links: Vec<_> = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Protocol 11 is the connector, the fourth field the groups as a bit mask.
        let Some(inode) = fields.last() else {
            return false;
        };
        fields.get(1) == Some(&"11")
            && fields.get(3).is_some_and(|groups| groups.ends_with('1'))
            && links
                .iter()
                .any(|link| *link == format!("socket:[{inode}]"))
    })
}

/// A copy of the command where user nobody may execute it.
pub(crate) struct ForNobody {
    directory: tempfile::TempDir,
}

impl ForNobody {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), open.clone()).unwrap();
        let copy = directory.path().join("kmonitor");
        fs::copy(env!("CARGO_BIN_EXE_kmonitor"), &copy).unwrap();
        fs::set_permissions(&copy, open).unwrap();
        Self { directory }
    }

    pub(crate) fn kmonitor(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(self.path())
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("kmonitor")
    }
}

/// The command in namespaces of its own, as `unshare` makes them. Its exit code
/// is that of the shell script, in which `$K` is the command.
pub(crate) fn in_namespaces(unshare: &[&str], script: &str) -> Finished {
    let mut command = Command::new("unshare");
    command
        .args(unshare)
        .args(["sh", "-c", script])
        .env("K", env!("CARGO_BIN_EXE_kmonitor"))
        .stdin(Stdio::null());
    run(&mut command)
}
