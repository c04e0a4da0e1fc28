//! Who is told, and of whom, where pids are used again and processes end meanwhile.

use std::process::{Command, Stdio};

use kmonitor::signal::{RegisterError, SignalAdapter};
use kmonitor::{EventMask, Pid};
use kmonitor_tests::{HeldPid, Puppets, Rng, run_as_nobody, spawn_with_pid};

use super::{ALL, Fence, connector, listener, pid, signal, told, up_to};
use crate::PUPPET;
use crate::child::HeldChild;
use crate::patience::until;
use crate::reused::successor;

/// By pid, the successor would be ended by the signal. The adapter, which has this
/// thread too, learns of the events and of the death at the same time.
#[tokio::test(flavor = "current_thread")]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn who_gets_a_dead_monitors_pid_gets_no_signal() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut puppets = Puppets::start(PUPPET).unwrap();
    for _ in 0..50 {
        let monitor = listener();
        let number = monitor.pid();
        let target = puppets.spawn().unwrap();
        let registered = adapter.register(pid(number), pid(target), ALL, signal(1));
        registered.await.unwrap();
        let before = adapter.stats();
        monitor.kill().unwrap();
        let new = successor(number);
        for _ in 0..3 {
            puppets.exec(target).unwrap();
        }
        puppets.kill(target, 15).unwrap();
        // An answer of the hub's: it has queued all of that.
        futures::executor::block_on(hub.stats()).unwrap();
        until("nobody is told any more", async || {
            let stats = adapter.stats();
            stats.records == 0 && stats.monitors == 0
        })
        .await;
        assert_eq!(adapter.stats().sent, before.sent);
        assert_eq!(new.finish(7).unwrap(), 7 << 8, "it was ended by a signal");
        puppets.reap(target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn who_gets_a_dead_targets_pid_is_not_monitored() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut rng = Rng::from_env();
    for _ in 0..50 {
        let old = HeldPid::spawn_far_away(&mut rng).unwrap();
        let number = old.pid();
        adapter
            .register(me, pid(number), ALL, signal(1))
            .await
            .unwrap();
        let fence = Fence::new(&adapter, me).await;
        old.finish(3).unwrap();
        let new = successor(number);
        new.finish(9).unwrap();
        spawn_with_pid(number, 5)
            .or_else(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .unwrap();
        let exit = told(signal(1), number, EventMask::EXIT);
        assert_eq!(up_to(&mut monitor, fence.fall()), [exit]);
    }
}

/// A process that dies between any two steps of a registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_target_that_ends_meanwhile_is_told_once_or_refused() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut due = Vec::new();
    for round in 0..300 {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let target = Pid::try_from(child.id()).unwrap();
        let killed = std::thread::spawn(move || {
            for _ in 0..(round % 10) * 2000 {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
            if round % 2 == 0 {
                child.wait().unwrap();
            }
            child
        });
        let registered = adapter
            .register(me, target, EventMask::EXIT, signal(1))
            .await;
        killed.join().unwrap().wait().unwrap();
        match registered {
            Ok(()) => due.push(told(signal(1), target.as_raw(), EventMask::EXIT)),
            Err(RegisterError::NoSuchTarget { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let came = monitor.take(due.len()).unwrap();
    let mut sorted = (came.clone(), due.clone());
    // Registrations follow each other, but a status may take its time.
    sorted.0.sort_by_key(|it| it.pid);
    sorted.1.sort_by_key(|it| it.pid);
    assert_eq!(sorted.0, sorted.1);
    let fence = Fence::new(&adapter, me).await;
    assert_eq!(up_to(&mut monitor, fence.fall()), []);
    until("no record is left", async || adapter.stats().records == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, the proc connector, and setpriv"]
async fn the_uid_is_that_of_the_subject() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    // One of another user, and one that becomes another user's.
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped());
    let mut nobody = run_as_nobody(&cat).stdin(Stdio::piped()).spawn().unwrap();
    let theirs = Pid::try_from(nobody.id()).unwrap();
    until("it is nobody's", async || {
        let status = std::fs::read_to_string(format!("/proc/{theirs}/status")).unwrap();
        status.contains("Uid:\t65534\t") && status.starts_with("Name:\tcat\n")
    })
    .await;
    adapter
        .register(me, theirs, EventMask::EXIT, signal(1))
        .await
        .unwrap();
    let script = "exec setpriv --reuid 65534 --clear-groups sh -c 'exit 0'";
    let mut changing = HeldChild::shell(script);
    let both = EventMask::EXEC | EventMask::EXIT;
    adapter
        .register(me, changing.pid(), both, signal(1))
        .await
        .unwrap();

    drop(nobody.stdin.take());
    nobody.wait().unwrap();
    let [exit] = monitor.take(1).unwrap()[..] else {
        panic!("its exit was due");
    };
    assert_eq!((exit.pid, exit.uid), (theirs.as_raw(), 65534));
    changing.make_zombie();
    let uids: Vec<_> = monitor
        .take(3)
        .unwrap()
        .iter()
        .map(|it| (it.int, it.uid))
        .collect();
    assert_eq!(uids, [(0x20, 0), (0x20, 65534), (0x40, 65534)]);
}
