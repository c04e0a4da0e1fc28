//! A leader that lingers in its own exit while another thread decides the status: to a
//! look it is the only thread, not yet exiting by its flags, and its report carries a
//! code that `waitpid` never says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kmonitor::{Hub, Pid, SourceKind};

use crate::patience::soon;

/// Prints the pid of a process whose leader is held within `SYS_exit(7)` by its tracer,
/// and whose other thread has gone by `SYS_exit(9)` since. Lets it go at a line of input;
/// at another one reaps it, and prints the status that `waitpid` gives.
const LINGERING: &str = r#"
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
SYS_exit = 60 if os.uname().machine == "x86_64" else 93
begin, begins = os.pipe()
end, ends = os.pipe()
pid = os.fork()
if pid == 0:
    def other():
        os.read(end, 1)
        libc.syscall(SYS_exit, 9)
    threading.Thread(target=other).start()
    os.read(begin, 1)
    libc.syscall(SYS_exit, 7)
def tasks(): return len(os.listdir(f"/proc/{pid}/task"))
while tasks() < 2: time.sleep(0.001)
# PTRACE_SEIZE with PTRACE_O_TRACEEXIT.
assert libc.ptrace(0x4206, pid, 0, 0x40) == 0
os.write(begins, b"x")
assert os.waitpid(pid, 0)[1] >> 8 == 5 | 6 << 8
os.write(ends, b"x")
while tasks() > 1: time.sleep(0.001)
print(pid, flush=True)
sys.stdin.readline()
# PTRACE_DETACH.
assert libc.ptrace(17, pid, 0, 0) == 0
sys.stdin.readline()
print(os.waitpid(pid, 0)[1], flush=True)
"#;

struct Lingering {
    python: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Lingering {
    fn start() -> Self {
        let mut python = Command::new("python3")
            .args(["-c", LINGERING])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: python.stdin.take().unwrap(),
            output: BufReader::new(python.stdout.take().unwrap()),
            python,
        }
    }

    fn number(&mut self) -> i32 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Goes one step on.
    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// Has it reaped. The true status.
    fn reap(mut self) -> i32 {
        self.go_on();
        let status = self.number();
        assert!(self.python.wait().unwrap().success());
        status
    }
}

#[tokio::test]
#[ignore = "needs root, the proc connector and python3"]
async fn who_lingers_in_its_exit_does_not_decide() {
    for source in [SourceKind::Connector, SourceKind::Pidfd] {
        let hub = Hub::builder().only(source).open().await.unwrap();
        let mut lingering = Lingering::start();
        let pid = Pid::new(lingering.number()).unwrap();
        let watch = hub.watch(pid).await.unwrap();
        lingering.go_on();
        let exit = soon("its exit", watch).await.unwrap();
        let truth = lingering.reap();
        assert_ne!(truth, 7 << 8, "this tested nothing");
        assert_eq!(exit.status.raw(), Some(truth), "{source:?}: {exit}");
    }
}
