//! `watch` on the real kernel, against the parent's own `waitpid`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Held, LEADER_FIRST, block_on, state_of, until};
use kmonitor_event::{Pid, Status, StatusSource};
use kmonitor_pidfd::{Mechanism, Pidfd, watch};
use kmonitor_source::{ProbeError, WatchError};

#[test]
fn the_status_is_that_of_waitpid() {
    for script in ["exit 0", "exit 7", "exit 255", "kill -9 $$", "kill -15 $$"] {
        let mut child = Held::shell(script, None);
        let watch = watch(child.pid());
        assert_eq!(watch.mechanism(), Some(Mechanism::Pidfd));
        child.let_go();
        let exit = block_on(watch.into_future()).unwrap();
        assert_eq!(exit.status.known(), Some(child.reap()), "{script}");
        assert_eq!(exit.process.pid(), child.pid());
        assert!(!exit.inferred);
    }
}

#[test]
fn a_child_stays_to_be_waited_for() {
    let mut child = Held::shell("exit 4", None);
    let watch = watch(&child.0);
    child.let_go();
    let exit = block_on(watch.into_future()).unwrap();
    let Status::Known { source, .. } = exit.status else {
        panic!("{:?}", exit.status);
    };
    assert_eq!(source, StatusSource::Waited);
    assert_eq!(child.reap().code(), Some(4));
}

#[test]
fn a_zombie_is_dead_at_once_and_reaped_later() {
    let mut child = Held::shell("exit 6", None);
    child.make_zombie();
    let mut watch = watch(child.pid());
    block_on(async {
        let exit = watch.exited().await.unwrap();
        assert_eq!(exit.status.code(), Some(6));
        {
            let mut reaped = pin!(watch.reaped());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(reaped.as_mut().poll(&mut cx).is_pending());
            child.reap();
            assert_eq!(reaped.await.unwrap().status.code(), Some(6));
        }
        // What was seen stays.
        assert_eq!(watch.exited().await.unwrap(), exit);
        assert_eq!((&mut watch).await.unwrap().status, exit.status);
    });
}

#[test]
fn the_end_of_the_first_thread_is_not_the_end() {
    let mut child = Held::python(LEADER_FIRST);
    until("the first thread is dead", || state_of(child.pid()) == 'Z');
    let mut watch = watch(child.pid());
    block_on(async {
        let early = std::future::poll_fn(|cx| {
            let pending = pin!(watch.exited()).poll(cx).is_pending();
            Poll::Ready(pending)
        });
        assert!(early.await, "the second thread lives");
        child.let_go();
        assert_eq!(watch.exited().await.unwrap().status.code(), Some(5));
        assert_eq!(child.reap().code(), Some(5));
        assert_eq!(watch.reaped().await.unwrap().status.code(), Some(5));
    });
}

#[test]
fn a_process_that_is_gone_is_an_error_each_time() {
    let mut child = Held::shell("exit 0", None);
    child.make_zombie();
    let pid = child.pid();
    child.reap();
    let mut watch = watch(pid);
    assert_eq!(watch.process(), None);
    assert_eq!(watch.mechanism(), None);
    block_on(async {
        assert!(watch.exited().await.unwrap_err().is_gone());
        assert!(watch.reaped().await.unwrap_err().is_gone());
        let error = watch.await.unwrap_err();
        assert!(error.is_gone());
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
    });
}

#[test]
fn a_thread_is_not_a_process_and_the_error_names_its_process() {
    let (name_tid, tids) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        name_tid
            .send(rustix::thread::gettid().as_raw_nonzero().get())
            .unwrap();
        let _ = ended.recv();
    });
    let tid = tids.recv().unwrap();
    let error = block_on(watch(tid).into_future()).unwrap_err();
    drop(end);
    thread.join().unwrap();
    let WatchError::Probe(ProbeError::Thread { process, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*process, Some(Pid::current()));
    assert!(!error.is_gone());
}

#[test]
fn what_names_no_process_is_told_apart() {
    let error = |watch: kmonitor_pidfd::Watch| block_on(watch.into_future()).unwrap_err();
    assert!(matches!(error(watch(0)), WatchError::Target(_)));
    assert!(matches!(error(watch("1:x")), WatchError::Target(_)));
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(
        error(watch(std::os::fd::OwnedFd::from(null))),
        WatchError::NotAPidfd
    ));
}

#[test]
fn an_inode_that_does_not_match_is_another_process() {
    let child = Held::shell("exit 0", None);
    let inode = Pidfd::open(child.pid()).unwrap().inode().unwrap();
    let right = watch(format!("{}:{inode}", child.pid()).as_str());
    assert_eq!(right.process().unwrap().inode(), Some(inode));
    let error =
        block_on(watch(format!("{}:{}", child.pid(), u64::from(inode) + 1).as_str()).into_future())
            .unwrap_err();
    assert!(error.is_gone());
    assert!(
        matches!(error, WatchError::Probe(ProbeError::Reused { .. })),
        "{error:?}"
    );
}

#[test]
fn a_pidfd_of_the_callers_is_watched() {
    let mut child = Held::shell("exit 9", None);
    let fd = Pidfd::open(child.pid()).unwrap();
    let watch = watch(std::os::fd::OwnedFd::from(fd));
    assert_eq!(watch.process().unwrap().pid(), child.pid());
    child.let_go();
    let exit = block_on(watch.into_future()).unwrap();
    assert_eq!(exit.status.code(), Some(9));
    child.reap();
}

#[test]
fn a_pidfd_of_a_reaped_process_still_tells_the_status() {
    let mut child = Held::shell("exit 8", None);
    let fd = Pidfd::open(child.pid()).unwrap();
    child.make_zombie();
    child.reap();
    let error = block_on(watch(std::os::fd::OwnedFd::from(fd)).into_future()).unwrap_err();
    assert!(error.is_gone());
    let WatchError::PidfdReaped { status } = error else {
        panic!("{error:?}");
    };
    assert_eq!(status.code(), Some(8));
}

#[test]
fn a_watch_is_pinned_to_its_process_when_made_not_when_polled() {
    let mut child = Held::shell("exit 3", None);
    let watch = watch(child.pid());
    child.make_zombie();
    child.reap();
    // Without the descriptor held since, this would be an error: gone.
    let exit = block_on(watch.into_future()).unwrap();
    assert_eq!(exit.status.code(), Some(3));
}

#[test]
fn a_child_that_is_reaped_by_itself_is_told_too() {
    // Its parent ignores SIGCHLD: it is never a zombie. The pid comes by stdout.
    let program = "import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(read, 1)
    os._exit(11)
print(pid, flush=True)
sys.stdin.readline()
os.write(write, b'x')
sys.stdin.read()
";
    let mut parent = Command::new("python3")
        .args(["-c", program])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(parent.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let mut watch = watch(line.trim());
    let mut input = parent.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"go\n").unwrap();
    block_on(async {
        let exit = watch.reaped().await.unwrap();
        assert_eq!(exit.status.code(), Some(11));
        assert_eq!(watch.await.unwrap(), exit);
    });
    drop(input);
    parent.wait().unwrap();
}

#[test]
fn cancelled_futures_lose_nothing() {
    let mut child = Held::shell("exit 2", None);
    let mut watch = watch(child.pid());
    block_on(async {
        for _ in 0..5 {
            let turn = tokio::time::timeout(Duration::from_millis(1), &mut watch).await;
            assert!(turn.is_err());
        }
        child.make_zombie();
        let exit = tokio::select! {
            exit = &mut watch => exit.unwrap(),
        };
        assert_eq!(exit.status.code(), Some(2));
    });
    child.reap();
}

#[test]
fn without_a_runtime_it_is_an_error_and_not_a_panic() {
    let child = Held::shell("exit 0", None);
    let mut future = pin!(watch(child.pid()).into_future());
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = future.as_mut().poll(&mut cx) else {
        panic!("no error");
    };
    assert!(!error.is_gone());
}

#[test]
fn a_zombie_needs_no_runtime() {
    let mut child = Held::shell("exit 1", None);
    child.make_zombie();
    let mut future = pin!(watch(child.pid()).into_future());
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(exit)) = future.as_mut().poll(&mut cx) else {
        panic!("not ready");
    };
    assert_eq!(exit.status.code(), Some(1));
}

#[test]
fn two_watches_of_one_process_have_two_keys() {
    let child = Held::shell("exit 0", None);
    let first = watch(child.pid()).process().unwrap();
    let second = watch(child.pid()).process().unwrap();
    assert_ne!(first, second);
    assert_eq!(first.inode(), second.inode());
    assert!(first.incarnation() >= 1 << 63);
}
