//! Ends that take their time because somebody traces.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kmonitor::{Hub, Pid, SourceKind};

use crate::patience::{is_pending, soon};

/// A leader that lingers in its own exit while another thread decides the status: to a
/// look it is the only thread, not yet exiting by its flags, and its report carries a
/// code that `waitpid` never says.
///
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

/// A thread whose tracer has not waited for it stays in the process when all have exited,
/// and all have been reported: until then the process is not dead, for `waitpid` either.
///
/// Prints the pid of such a process. At a line of input it exits with 5, and 0 is printed
/// when all of its threads are zombies; at another one the tracer waits for the thread; at
/// the last one it is reaped, and its status printed.
const TRACED: &str = r#"
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
begin, begins = os.pipe()
pid = os.fork()
if pid == 0:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    os.read(begin, 1)
    os._exit(5)
def tasks(): return list(map(int, os.listdir(f"/proc/{pid}/task")))
while len(tasks()) < 2: time.sleep(0.001)
[thread] = [tid for tid in tasks() if tid != pid]
# PTRACE_SEIZE.
assert libc.ptrace(0x4206, thread, 0, 0) == 0
print(pid, flush=True)
sys.stdin.readline()
os.write(begins, b"x")
def state(tid): return open(f"/proc/{pid}/task/{tid}/stat").read().rsplit(")")[1].split()[0]
while {state(tid) for tid in tasks()} != {"Z"}: time.sleep(0.001)
print(0, flush=True)
sys.stdin.readline()
# __WALL.
assert os.waitpid(thread, 0x40000000)[0] == thread
sys.stdin.readline()
print(os.waitpid(pid, 0)[1], flush=True)
"#;

struct Lingering {
    python: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Lingering {
    fn start(program: &str) -> Self {
        let mut python = Command::new("python3")
            .args(["-c", program])
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
        let mut lingering = Lingering::start(LINGERING);
        let pid = Pid::new(lingering.number()).unwrap();
        let watch = hub.watch(pid).await.unwrap();
        lingering.go_on();
        let exit = soon("its exit", watch).await.unwrap();
        let truth = lingering.reap();
        assert_ne!(truth, 7 << 8, "this tested nothing");
        assert_eq!(exit.status.raw(), Some(truth), "{source:?}: {exit}");
    }
}

/// Its end was told by nobody, and then as a loss.
#[tokio::test]
#[ignore = "needs root, the proc connector and python3"]
async fn who_has_exited_and_is_traced_ends_when_the_tracer_has_waited() {
    for source in [SourceKind::Connector, SourceKind::Pidfd] {
        let hub = Hub::builder().only(source).open().await.unwrap();
        let mut traced = Lingering::start(TRACED);
        let pid = Pid::new(traced.number()).unwrap();
        let mut watch = hub.watch(pid).await.unwrap();
        traced.go_on();
        assert_eq!(traced.number(), 0);
        // All that was reported of it has been read.
        hub.stats().await.unwrap();
        assert!(is_pending(watch.exited()), "it is not dead");
        traced.go_on();
        let exit = soon("its exit", watch).await.unwrap();
        assert_eq!(traced.reap(), 5 << 8);
        assert_eq!(exit.status.code(), Some(5), "{source:?}: {exit}");
        assert!(!exit.inferred, "{source:?}: {exit}");
        assert_eq!(hub.stats().await.unwrap().losses_uncounted, 0);
    }
}
