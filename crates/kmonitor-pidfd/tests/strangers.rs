//! What one user learns of another user's processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::IntoFuture;
use std::time::Duration;

use common::{Foreign, Held, LEADER_FIRST, NOBODY, as_user, block_on, state_of, until};
use kmonitor_event::{Status, StatusSource, UnknownReason};
use kmonitor_pidfd::{LinuxProbe, Pidfd, Readiness, watch};
use kmonitor_source::{ProcessProbe, ProcessState};

/// Whether `status` is known by this number, from this source.
#[track_caller]
fn assert_known(status: Status, raw: i32, expected: StatusSource) {
    assert_eq!(status.raw(), Some(raw), "{status:?}");
    assert!(
        matches!(status, Status::Known { source, .. } if source == expected),
        "{status:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_stranger_learns_the_status_at_the_reaping() {
    for (script, raw) in [("exit 7", 0x700), ("exit 0", 0), ("kill -9 $$", 9)] {
        let mut child = Foreign::shell(script);
        let pid = child.pid();
        as_user(NOBODY, || {
            let mut watch = watch(pid);
            block_on(async {
                child.make_zombie();
                let exit = watch.exited().await.unwrap();
                // A zero is not made up of what is hidden.
                assert_eq!(exit.status, Status::Pending, "{script}");
                assert_eq!(child.reap(), raw);
                let exit = watch.await.unwrap();
                assert_known(exit.status, raw, StatusSource::PidfdInfo);
            });
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_stranger_waits_for_the_status_no_longer_than_the_grace() {
    let mut child = Foreign::shell("exit 7");
    child.make_zombie();
    let pid = child.pid();
    as_user(NOBODY, || {
        let not_reaped = Status::Unknown(UnknownReason::NotReaped);
        for grace in [Duration::ZERO, Duration::from_millis(20)] {
            let mut watch = watch(pid).status_grace(grace);
            block_on(async {
                let start = std::time::Instant::now();
                assert_eq!((&mut watch).await.unwrap().status, not_reaped);
                assert!(start.elapsed() >= grace);
                assert_eq!((&mut watch).await.unwrap().status, not_reaped);
                assert_eq!(watch.exited().await.unwrap().status, Status::Pending);
            });
        }
        // The answer gets better when it is reaped after all.
        let mut watch = watch(pid).status_grace(Duration::ZERO);
        block_on(async {
            assert_eq!((&mut watch).await.unwrap().status, not_reaped);
            assert_eq!(child.reap(), 0x700);
            assert_eq!(watch.reaped().await.unwrap().status.code(), Some(7));
            assert_eq!(watch.await.unwrap().status.code(), Some(7));
        });
    });
}

#[test]
#[ignore = "needs root"]
fn root_reads_the_status_of_anybodys_zombie() {
    // Not our child: the zombie's parent is a shell that never reaps.
    for (code, raw) in [(0, 0), (7, 0x700)] {
        let script = format!(
            "import os, sys
child = os.fork()
if child == 0:
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
    os._exit({code})
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(child, flush=True)
sys.stdin.read(1)
"
        );
        let (pid, _parent) = grandchild(&script);
        let exit = block_on(watch(pid).into_future()).unwrap();
        assert_known(exit.status, raw, StatusSource::ZombieStat);
        let state = LinuxProbe::new().state(pid, None).unwrap();
        assert_eq!(state, ProcessState::Zombie(exit.status));
        as_user(NOBODY, || {
            let state = LinuxProbe::new().state(pid, None).unwrap();
            assert_eq!(state, ProcessState::Zombie(Status::Pending));
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_user_reads_the_status_of_its_own_zombies_that_are_no_children() {
    for (code, raw) in [(0, 0), (7, 0x700)] {
        // The child ends when the shell has become `cat`, which never waits for it.
        let script = format!(
            "(while ! grep -q cat /proc/$$/comm; do :; done; exit {code}) & echo $!; exec cat"
        );
        let nobody = NOBODY.to_string();
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"])
            .args(["sh", "-c", &script]);
        let (pid, _parent) = grandchild_of(command);
        as_user(NOBODY, || {
            let exit = block_on(watch(pid).into_future()).unwrap();
            assert_known(exit.status, raw, StatusSource::ZombieStat);
        });
        as_user(1000, || {
            let watch = watch(pid).status_grace(Duration::ZERO);
            let exit = block_on(watch.into_future()).unwrap();
            assert_eq!(exit.status, Status::Unknown(UnknownReason::NotReaped));
        });
    }
}

#[test]
#[ignore = "needs root"]
fn the_first_threads_own_code_is_not_the_status_for_a_stranger_either() {
    let mut child = Foreign::python(LEADER_FIRST);
    let pid = child.pid();
    until("the first thread is dead", || state_of(pid) == 'Z');
    as_user(NOBODY, || {
        let pidfd = Pidfd::open(pid).unwrap();
        assert_eq!(pidfd.readiness().unwrap(), Readiness::Alive);
        let mut watch = watch(pid);
        block_on(async {
            child.make_zombie();
            assert_eq!(watch.exited().await.unwrap().status, Status::Pending);
            assert_eq!(child.reap(), 0x500);
            assert_eq!(watch.await.unwrap().status.code(), Some(5));
        });
    });
}

/// What `PIDFD_GET_INFO` says of this process is wrong (7) up to Linux 6.18 at
/// least; without the preference for the zombie's own status it would be told.
#[test]
#[ignore = "needs root"]
fn the_status_of_the_zombie_is_preferred_to_what_is_kept_with_the_pidfd() {
    // The first thread is stopped by a tracer in the middle of its exit(7), while
    // the second does exit_group(5): then the first is the last to finish.
    let program = r#"
import ctypes, os, platform, select, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
EXIT = {"aarch64": 93, "riscv64": 93}.get(platform.machine(), 60)
WALL, SEIZE, TRACEEXIT = 0x40000000, 0x4206, 0x40
first, go_first = os.pipe()
second, go_second = os.pipe()
child = os.fork()
if child == 0:
    def end_all():
        os.read(second, 1)
        os._exit(5)
    threading.Thread(target=end_all).start()
    os.read(first, 1)
    libc.syscall(EXIT, 7)
pidfd = os.pidfd_open(child)
assert libc.ptrace(SEIZE, child, None, ctypes.c_void_p(TRACEEXIT)) == 0
print(child, flush=True)
sys.stdin.readline()
os.write(go_first, b"x")
os.waitpid(child, WALL)
os.write(go_second, b"x")
select.select([pidfd], [], [])
print("zombie", flush=True)
sys.stdin.readline()
print(os.waitpid(child, 0)[1], flush=True)
sys.stdin.read()
"#;
    let mut child = Foreign::keeper(program);
    let mut watch = watch(child.pid());
    let pidfd = Pidfd::open(child.pid()).unwrap();
    block_on(async {
        child.make_zombie();
        let exit = watch.exited().await.unwrap();
        assert_known(exit.status, 0x500, StatusSource::ZombieStat);
        assert_eq!(child.reap(), 0x500);
        println!("kept with the pidfd: {:?}", pidfd.exit_info());
        assert_eq!(watch.reaped().await.unwrap().status, exit.status);
    });
}

#[test]
#[ignore = "needs root"]
fn a_stranger_is_not_allowed_to_signal() {
    let child = Held::shell("exit 0", None);
    let pid = child.pid();
    as_user(NOBODY, || {
        let pidfd = Pidfd::open(pid).unwrap();
        let error = pidfd.send_signal(libc::SIGTERM).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
}

/// Runs a Python program that prints a pid; that pid, and the program.
fn grandchild(script: &str) -> (kmonitor_event::Pid, Parent) {
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]);
    grandchild_of(command)
}

fn grandchild_of(mut command: std::process::Command) -> (kmonitor_event::Pid, Parent) {
    use std::io::BufRead;
    use std::process::Stdio;
    let mut parent = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(parent.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid = line.trim().parse().unwrap();
    (pid, Parent(parent))
}

/// Ends with its input.
struct Parent(std::process::Child);

impl Drop for Parent {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
