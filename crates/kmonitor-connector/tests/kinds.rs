//! Every kind of event, forced on the real kernel.
//!
//! Other processes' events come along at all times, so all is looked at by pid.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use common::{Feed, pid_of};
use kmonitor_event::{Comm, Pid};
use kmonitor_source::{EventSource, FactKind};

/// Starts a Python program.
fn python(program: &str) -> Child {
    Command::new("python3")
        .args(["-c", program])
        .stdout(Stdio::null())
        .spawn()
        .expect("python3 is installed")
}

fn shell(program: &str) -> Child {
    Command::new("sh")
        .args(["-c", program])
        .spawn()
        .expect("sh is installed")
}

/// What was told of a child, from its fork to its end. Its true status is
/// checked against what its exit says, where it had one thread.
async fn told_of(feed: &mut Feed, mut child: Child) -> Vec<FactKind> {
    let pid = pid_of(&child);
    let status = child.wait().expect("the child can be waited for");
    let exit = feed.until_exit(pid).await;
    let FactKind::TaskExited { code, .. } = exit.kind else {
        unreachable!()
    };
    assert_eq!(code, status.into_raw());
    feed.about(pid)
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn fork_exec_and_exit_come_in_order_with_the_code() {
    let mut feed = Feed::listening().await;
    let child = shell("exit 7");
    let pid = pid_of(&child);
    let told = told_of(&mut feed, child).await;
    let parent = Some(Pid::current());
    assert_eq!(told[0], FactKind::Forked { parent, child: pid });
    assert_eq!(told[1], FactKind::Execed { process: pid });
    let last = FactKind::TaskExited {
        process: pid,
        tid: pid.leader(),
        code: 7 << 8,
        parent,
    };
    // An exit that is reaped before it is told names no parent.
    let reaped = FactKind::TaskExited {
        process: pid,
        tid: pid.leader(),
        code: 7 << 8,
        parent: None,
    };
    assert!(told[2] == last || told[2] == reaped, "{told:?}");
    assert_eq!(told.len(), 3);
    assert_eq!(feed.source.stats().malformed, 0);
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn threads_are_created_and_end() {
    let mut feed = Feed::listening().await;
    let child = python("import threading\nt=threading.Thread(target=int)\nt.start()\nt.join()");
    let pid = pid_of(&child);
    let told = told_of(&mut feed, child).await;
    let created = told.iter().find_map(|kind| match kind {
        FactKind::ThreadCreated { process, tid } if *process == pid => Some(*tid),
        _ => None,
    });
    let created = created.expect("the thread's creation");
    assert!(!created.is_leader_of(pid));
    let ended = told.iter().any(|kind| {
        matches!(kind, FactKind::TaskExited { tid, parent: None, code: 0, .. } if *tid == created)
    });
    assert!(ended, "{told:?}");
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn user_group_and_session_changes_are_told() {
    let mut feed = Feed::listening().await;
    let child = python("import os\nos.setsid()\nos.setresgid(7,8,8)\nos.setresuid(5,6,6)");
    let (pid, tid) = (pid_of(&child), pid_of(&child).leader());
    let told = told_of(&mut feed, child).await;
    assert!(told.contains(&FactKind::Sid { process: pid }), "{told:?}");
    let gid = FactKind::Gid {
        process: pid,
        tid,
        real: 7,
        effective: 8,
    };
    let uid = FactKind::Uid {
        process: pid,
        tid,
        real: 5,
        effective: 6,
    };
    assert!(told.contains(&gid) && told.contains(&uid), "{told:?}");
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_new_name_is_told() {
    let mut feed = Feed::listening().await;
    let child = python("open('/proc/self/comm','w').write('\\u0003 renamed')");
    let (pid, tid) = (pid_of(&child), pid_of(&child).leader());
    let told = told_of(&mut feed, child).await;
    let comm = FactKind::Comm {
        process: pid,
        tid,
        comm: Comm::new(b"\x03 renamed"),
    };
    assert!(told.contains(&comm), "{told:?}");
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_fatal_signal_is_told_with_and_without_a_core_dump() {
    let mut feed = Feed::listening().await;
    for (signal, dumps) in [("SEGV", true), ("KILL", false)] {
        let child = shell(&format!("ulimit -c 0; kill -{signal} $$"));
        let pid = pid_of(&child);
        let told = told_of(&mut feed, child).await;
        let dump = told.iter().position(|kind| {
            matches!(kind, FactKind::Coredump { process, tid, .. }
                if *process == pid && tid.is_leader_of(pid))
        });
        assert_eq!(dump.is_some(), dumps, "{signal}: {told:?}");
        assert!(matches!(told.last(), Some(FactKind::TaskExited { .. })));
    }
}

/// Attaching and leaving: `PTRACE_SEIZE` and `PTRACE_DETACH`.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_tracer_comes_and_goes() {
    let mut feed = Feed::listening().await;
    let program = "import ctypes,os,signal
libc=ctypes.CDLL(None,use_errno=True)
libc.ptrace.argtypes=[ctypes.c_long]*4
pid=os.fork()
if pid==0:
    signal.pause()
assert libc.ptrace(0x4206,pid,0,0)==0
os.kill(pid,signal.SIGSTOP)
os.waitpid(pid,0)
assert libc.ptrace(17,pid,0,0)==0
os.kill(pid,signal.SIGKILL)
os.waitpid(pid,0)";
    let child = python(program);
    let tracer = pid_of(&child);
    told_of(&mut feed, child).await;
    let traced = feed.facts.iter().find_map(|fact| match fact.kind {
        FactKind::Ptrace {
            process,
            tracer: Some(by),
            ..
        } if by == tracer => Some(process),
        _ => None,
    });
    let traced = traced.expect("the tracer came");
    let left = feed.facts.iter().any(|fact| {
        matches!(fact.kind, FactKind::Ptrace { process, tracer: None, .. } if process == traced)
    });
    assert!(left);
}
