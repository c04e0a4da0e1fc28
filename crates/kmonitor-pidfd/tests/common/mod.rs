//! Processes that end when and how a test says, and callers of fewer rights.
//!
//! Nothing here waits for a time to pass: pipes say when to go on, and `waitid`
//! without reaping says when a process is a zombie.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::future::Future;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kmonitor_event::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// Longer than any step takes; running into it is a failure.
pub const LONG: Duration = Duration::from_secs(30);

/// A child that waits for our word.
pub struct Held(pub Child);

impl Held {
    /// A shell that runs `script` once it is let go. With other credentials if
    /// `uid` says so, and then it has them when this returns.
    pub fn shell(script: &str, uid: Option<u32>) -> Self {
        let line = format!("echo; read word; {script}");
        let mut command = match uid {
            None => Command::new("sh"),
            Some(uid) => {
                let mut command = Command::new("setpriv");
                let uid = uid.to_string();
                command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "sh"]);
                command
            }
        };
        Self::spawn(command.args(["-c", &line]))
    }

    /// A Python program that prints one line when it is ready.
    pub fn python(program: &str) -> Self {
        Self::spawn(Command::new("python3").args(["-c", program]))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Self(child)
    }

    pub fn pid(&self) -> Pid {
        Pid::try_from(self.0.id()).unwrap()
    }

    /// Lets it end.
    pub fn let_go(&mut self) {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    /// Lets it end, and returns when it is a zombie.
    pub fn make_zombie(&mut self) {
        self.let_go();
        self.await_zombie();
    }

    /// Returns when it is a zombie.
    pub fn await_zombie(&self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).unwrap().unwrap();
    }

    /// The oracle: what the parent is told.
    pub fn reap(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A test that failed leaves it behind otherwise. Reaped already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody else's child: the child of a program that does what we say.
pub struct Foreign {
    parent: Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    pid: Pid,
}

const KEEPER: &str = r#"
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "go":
        child.stdin.write(b"go\n")
        child.stdin.flush()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        print("zombie", flush=True)
    else:
        print(os.waitpid(child.pid, 0)[1], flush=True)
"#;

impl Foreign {
    /// A shell that runs `script` once it is let go.
    pub fn shell(script: &str) -> Self {
        Self::spawn(&["sh", "-c", &format!("echo; read word; {script}")])
    }

    /// A Python program that prints one line when it is ready.
    pub fn python(program: &str) -> Self {
        Self::spawn(&["python3", "-c", program])
    }

    fn spawn(command: &[&str]) -> Self {
        Self::from_keeper(Command::new("python3").args(["-c", KEEPER]).args(command))
    }

    /// A Python program that has a child of its own, and keeps to the protocol of
    /// `KEEPER`.
    pub fn keeper(program: &str) -> Self {
        Self::from_keeper(Command::new("python3").args(["-c", program]))
    }

    fn from_keeper(command: &mut Command) -> Self {
        use std::io::BufRead;
        let mut parent = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = parent.stdout.take().unwrap();
        let mut answers = std::io::BufReader::new(output).lines();
        let pid = answers.next().unwrap().unwrap().parse().unwrap();
        Self {
            parent,
            answers,
            pid,
        }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    fn tell(&mut self, word: &str) -> String {
        writeln!(self.parent.stdin.as_mut().unwrap(), "{word}").unwrap();
        self.answers.next().unwrap().unwrap()
    }

    /// Lets it end, and returns when it is a zombie.
    pub fn make_zombie(&mut self) {
        self.tell("go");
    }

    /// Has it reaped; the oracle: what its parent was told.
    pub fn reap(&mut self) -> i32 {
        self.tell("reap").parse().unwrap()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// A process whose first thread exits by itself with 7, and whose second ends it
/// all with 5 once it is let go.
pub const LEADER_FIRST: &str = r#"
import ctypes, os, platform, sys, threading
def second():
    sys.stdin.read(1)
    os._exit(5)
threading.Thread(target=second).start()
print(flush=True)
ctypes.CDLL(None).syscall({"aarch64": 93, "riscv64": 93}.get(platform.machine(), 60), 7)
"#;

/// Field 3 of a process's stat.
pub fn state_of(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.chars().next().unwrap()
}

/// Returns when a condition holds that nothing wakes us for.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

/// Runs a future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(LONG, future).await.unwrap() })
}

/// Runs `call` on a thread with another user's rights. The kernel keeps
/// credentials by thread; only the C library makes them one for a process.
pub fn as_user<T: Send>(uid: u32, call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let gid = rustix::process::Gid::from_raw(uid);
                let uid = rustix::process::Uid::from_raw(uid);
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                call()
            })
            .join()
            .unwrap()
    })
}

/// Nobody in particular.
pub const NOBODY: u32 = 65_534;

/// Runs `call` on a thread to which the kernel answers `errno` instead of
/// opening pidfds.
pub fn with_pidfd_open_answering<T: Send>(errno: i32, call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                forbid_pidfd_open(errno);
                call()
            })
            .join()
            .unwrap()
    })
}

/// A seccomp filter for the calling thread, and what it starts from now on.
fn forbid_pidfd_open(errno: i32) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut filter = [
        // The number of the system call is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::SYS_pidfd_open as u32,
            )
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to as many valid instructions as it says, and the
    // kernel copies them before it returns.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
