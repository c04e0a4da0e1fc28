//! Numbers and addresses that name no process, or a strange one: a clear error
//! or the documented meaning, the same for the free watch, the hub's watch and a
//! subscription. And datagrams that only pretend to come from the kernel.

use std::fmt::Debug;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use kmonitor::pidfd::Pidfd;
use kmonitor::source::{IntoTarget, ProbeError, TargetError};
use kmonitor::{
    EventMask, Filter, Hub, ParsePidError, Pid, ProcessRef, SourceKind, SubscribeError, Tid,
    WatchError,
};
use kmonitor_tests::{Rng, in_unshare};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use crate::child::HeldChild;
use crate::elsewhere::elsewhere;
use crate::netlink::{CONNECTOR, own_connector_sockets};
use crate::patience::{is_pending, only_exit, rest, soon, until};
use crate::world::Source;

async fn hub_on(source: Source) -> Hub {
    Hub::builder().only(source.kind()).open().await.unwrap()
}

/// The errors of a free watch and of a hub's watch, which must be alike.
async fn watch_errors(hub: &Hub, target: impl IntoTarget + Copy + Debug) -> WatchError {
    let free = soon("an error", kmonitor::watch(target)).await;
    let free = free.expect_err("it names no process");
    let of_hub = soon("an error", hub.watch(target)).await;
    let of_hub = of_hub.expect_err("it names no process");
    assert_eq!(free.to_string(), of_hub.to_string(), "{target:?}");
    assert_eq!(free.is_gone(), of_hub.is_gone(), "{target:?}");
    of_hub
}

fn is_parse_error(error: &WatchError, expected: &ParsePidError) -> bool {
    matches!(error, WatchError::Target(TargetError::Parse(found)) if found == expected)
}

macro_rules! on_both {
    ($($body:ident;)+) => {$(
        mod $body {
            use super::Source;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs the proc connector: initial namespaces"]
            async fn connector() {
                super::$body(Source::Connector).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn pidfd() {
                super::$body(Source::Pidfd).await;
            }
        }
    )+};
}

on_both! {
    what_is_no_number_of_a_process_is_refused;
    a_pid_that_nobody_has_is_gone;
    a_threads_number_names_its_process_in_the_error;
    oneself_can_be_watched_and_does_not_end;
    a_kernel_thread_is_a_process_that_does_not_end;
    an_inode_that_does_not_match_is_gone;
    one_bad_name_refuses_the_whole_subscription;
    no_events_at_all_are_refused;
    a_closed_hub_says_so;
}

async fn what_is_no_number_of_a_process_is_refused(source: Source) {
    let hub = hub_on(source).await;
    for raw in [0, -1, -7, i32::MIN] {
        let error = watch_errors(&hub, raw).await;
        let expected = ParsePidError::NotPositive(raw.into());
        assert!(is_parse_error(&error, &expected), "{raw}: {error}");
    }
    let error = watch_errors(&hub, u32::MAX).await;
    let expected = ParsePidError::TooLarge(u32::MAX.into());
    assert!(is_parse_error(&error, &expected), "{error}");
    for text in [
        "",
        "x",
        "1x",
        "12:",
        "12:0",
        "12:-1",
        "12:x",
        ":5",
        "1:2:3",
        "99999999999",
    ] {
        let error = watch_errors(&hub, text).await;
        let parse = matches!(error, WatchError::Target(TargetError::Parse(_)));
        assert!(parse, "{text:?}: {error}");
        assert!(text.parse::<ProcessRef>().is_err(), "{text:?}");
    }
}

async fn a_pid_that_nobody_has_is_gone(source: Source) {
    let hub = hub_on(source).await;
    // Beyond any pid_max.
    for raw in [i32::MAX, 1 << 23] {
        let error = watch_errors(&hub, raw).await;
        assert!(error.is_gone(), "{raw}: {error}");
        let filter = Filter::pid(Pid::new(raw).unwrap()).events(EventMask::EXIT);
        let error = hub.subscribe(filter).await.unwrap_err();
        assert!(error.is_gone(), "{raw}: {error}");
    }
}

async fn a_threads_number_names_its_process_in_the_error(source: Source) {
    let hub = hub_on(source).await;
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(rustix::thread::gettid().as_raw_pid()).unwrap();
        // An error: the other end is gone, which is what is waited for.
        let _ = ended.recv();
    });
    let raw = told.recv().unwrap();
    let expected = |error: &ProbeError| {
        matches!(error, ProbeError::Thread { tid, process }
            if *tid == Tid::new(raw).unwrap() && *process == Some(Pid::current()))
    };
    let error = watch_errors(&hub, raw).await;
    let WatchError::Probe(probe) = &error else {
        panic!("{error}");
    };
    assert!(expected(probe), "{error}");
    assert!(!error.is_gone(), "it exists");
    let filter = Filter::pid(Pid::new(raw).unwrap()).events(EventMask::EXIT);
    match hub.subscribe(filter).await {
        Err(SubscribeError::Process(error)) => assert!(expected(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    drop(end);
    thread.join().unwrap();
}

/// Asks for the ends of a process that lives as long as the test.
async fn does_not_end(source: Source, pid: Pid) {
    let hub = hub_on(source).await;
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    let mut free = kmonitor::watch(pid);
    // What others do is told to others.
    let mut child = HeldChild::shell("exit 3");
    let childs = hub.watch(child.pid()).await.unwrap();
    child.reap();
    let exit = soon("the child's exit", childs).await.unwrap();
    assert_eq!(exit.status.code(), Some(3));
    assert!(is_pending(stream.next()));
    assert!(is_pending(watch.exited()));
    assert!(is_pending(watch.settled()));
    assert!(is_pending(free.exited()));
    assert!(is_pending(&mut free));
}

async fn oneself_can_be_watched_and_does_not_end(source: Source) {
    does_not_end(source, Pid::current()).await;
}

/// Pid 2 is kthreadd, unless this is a pid namespace of its own.
async fn a_kernel_thread_is_a_process_that_does_not_end(source: Source) {
    let kthreadd = Pid::new(2).unwrap();
    let comm = std::fs::read_to_string("/proc/2/comm").unwrap();
    assert_eq!(comm.trim_end(), "kthreadd", "the initial pid namespace");
    does_not_end(source, kthreadd).await;
}

async fn an_inode_that_does_not_match_is_gone(source: Source) {
    let hub = hub_on(source).await;
    let child = HeldChild::shell("exit 0");
    let pid = child.pid();
    let inode = Pidfd::open(pid).unwrap().inode().unwrap();
    let wrong = ProcessRef {
        pid,
        inode: NonZeroU64::new(inode.get() + 1),
    };
    let error = watch_errors(&hub, wrong).await;
    assert!(error.is_gone(), "{error}");
    let reused = matches!(error, WatchError::Probe(ProbeError::Reused { .. }));
    assert!(reused, "{error}");
    let filter = Filter::pid(wrong).events(EventMask::EXIT);
    let error = hub.subscribe(filter).await.unwrap_err();
    assert!(error.is_gone(), "{error}");
    let text = format!("{pid}:{inode}");
    assert!(hub.watch(text.as_str()).await.is_ok(), "the right one");
}

async fn one_bad_name_refuses_the_whole_subscription(source: Source) {
    let hub = hub_on(source).await;
    let child = HeldChild::shell("exit 0");
    let nobody = Pid::new(i32::MAX).unwrap();
    let filter = Filter::pids([child.pid(), nobody]).events(EventMask::EXIT);
    let error = hub.subscribe(filter).await.unwrap_err();
    assert!(error.is_gone(), "{error}");
    until("nothing is left of it", async || {
        let stats = hub.stats().await.unwrap();
        (stats.subscriptions, stats.tracked, stats.listening) == (0, 0, false)
    })
    .await;
}

async fn no_events_at_all_are_refused(source: Source) {
    let hub = hub_on(source).await;
    let filter = Filter::pid(Pid::current()).events(EventMask::empty());
    let error = hub.subscribe(filter).await.unwrap_err();
    assert!(matches!(error, SubscribeError::NoEvents), "{error}");
    let filter = Filter::pid(Pid::current()).events(EventMask::EXIT);
    let stream = hub.subscribe(filter).await.unwrap();
    let error = stream.set_mask(EventMask::empty()).await.unwrap_err();
    assert!(matches!(error, SubscribeError::NoEvents), "{error}");
}

async fn a_closed_hub_says_so(source: Source) {
    let hub = hub_on(source).await;
    let mut child = HeldChild::shell("exit 7");
    let pid = child.pid();
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter.clone()).await.unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    let other_handle = hub.clone();
    soon("the closing", hub.close()).await;

    assert_eq!(soon("the end", stream.next()).await, None);
    let error = soon("an error", watch.exited()).await.unwrap_err();
    assert!(matches!(error, WatchError::HubClosed { .. }), "{error}");
    assert!(!error.is_gone(), "nobody knows");
    let error = soon("an error", watch.reaped()).await.unwrap_err();
    assert!(matches!(error, WatchError::HubClosed { .. }), "{error}");

    let hub = other_handle;
    let error = hub.subscribe(filter).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Closed { .. }), "{error}");
    let error = hub.watch(pid).await.unwrap_err();
    assert!(matches!(error, WatchError::HubClosed { .. }), "{error}");
    let error = stream.add(pid).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Closed { .. }), "{error}");
    assert!(hub.stats().await.is_err());
    soon("closing again", hub.close()).await;

    let free = kmonitor::watch(pid);
    child.make_zombie();
    let exit = soon("a free watch needs no hub", free).await.unwrap();
    assert_eq!(exit.status.code(), Some(7));
}

/// A pid means a process of one's own namespace, whoever has it outside; a pidfd
/// from outside has no pid here.
#[test]
#[ignore = "needs root in the initial namespaces, and unshare"]
fn a_process_of_another_pid_namespace_is_not_found() {
    const PIDFD: &str = "KMONITOR_TEST_PIDFD";
    const PID: &str = "KMONITOR_TEST_PID";
    let child = std::env::var_os(PIDFD)
        .is_none()
        .then(|| HeldChild::shell("exit 0"));
    elsewhere(
        "bad_input::a_process_of_another_pid_namespace_is_not_found",
        |command| {
            let pid = child.as_ref().unwrap().pid();
            let pidfd = OwnedFd::from(Pidfd::open(pid).unwrap());
            fcntl_setfd(&pidfd, FdFlags::empty()).unwrap();
            let mut command = in_unshare(&["--pid", "--mount-proc"], command);
            command
                .env(PID, pid.to_string())
                .env(PIDFD, pidfd.as_raw_fd().to_string());
            // Inherited, and closed with this process.
            let _inherited = pidfd.into_raw_fd();
            command
        },
        |_| {},
        || async {
            let hub = soon("a hub", Hub::open()).await.unwrap();
            let pid: i32 = std::env::var(PID).unwrap().parse().unwrap();
            let error = watch_errors(&hub, pid).await;
            assert!(error.is_gone(), "{error}");
            let raw: i32 = std::env::var(PIDFD).unwrap().parse().unwrap();
            // SAFETY: inherited for this, and nobody else in this process uses it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
            let copy = pidfd.try_clone().unwrap();
            for error in [
                kmonitor::watch(pidfd).await.unwrap_err(),
                hub.watch(copy).await.unwrap_err(),
            ] {
                assert!(!error.is_gone(), "it lives, elsewhere: {error}");
                let source = std::error::Error::source(&error).unwrap().to_string();
                assert!(source.contains("pid namespace"), "{error}: {source}");
            }
        },
    );
}

#[tokio::test]
async fn a_descriptor_that_is_no_pidfd_is_told_so() {
    let hub = hub_on(Source::Pidfd).await;
    let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for error in [
        kmonitor::watch(file()).await.unwrap_err(),
        hub.watch(file()).await.unwrap_err(),
    ] {
        assert!(matches!(error, WatchError::NotAPidfd), "{error}");
    }
}

/// A connector message as the kernel would send it (`linux/cn_proc.h`).
fn forged_exit(pid: Pid) -> Vec<u8> {
    let pid = pid.as_raw() as u32;
    let words: [u32; 19] = [
        // nlmsghdr: length, type NLMSG_DONE and no flags, sequence, port.
        76,
        3,
        0,
        0, //
        // cn_msg: index, value, sequence, ack, length and no flags.
        1,
        1,
        0,
        0,
        40, //
        // proc_event: what, cpu, time, pid, tgid, code, signal, parents.
        0x8000_0000,
        0,
        1,
        0,
        pid,
        pid,
        9,
        17,
        1,
        1,
    ];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, and the proc connector: initial namespaces"]
async fn datagrams_that_are_not_the_kernels_change_nothing() {
    let mut rng = Rng::from_env();
    let before = own_connector_sockets();
    let hub = hub_on(Source::Connector).await;
    assert_eq!(hub.capabilities().source.kind, SourceKind::Connector);
    let mut child = HeldChild::shell("exit 7");
    let pid = child.pid();
    let filter = Filter::pid(pid).events(EventMask::all());
    let mut stream = hub.subscribe(filter).await.unwrap();
    let mut everything = hub.subscribe(Filter::host()).await.unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    // Those of other tests' hubs may be among them: they do not mind either.
    let sockets = own_connector_sockets();
    let ports: Vec<u32> = sockets
        .iter()
        .filter(|socket| !before.contains(socket))
        .map(|socket| socket.port)
        .collect();
    assert!(!ports.is_empty(), "the hub has a socket: {sockets:?}");

    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(rustix::net::Protocol::from_raw(
            NonZeroU32::new(CONNECTOR).unwrap(),
        )),
    )
    .unwrap();
    let forged = forged_exit(pid);
    let mut arrived = 0_u32;
    for round in 0..3000 {
        let mut datagram = forged.clone();
        match round % 4 {
            // As it is.
            0 => {}
            // Cut short.
            1 => datagram.truncate(rng.below(76) as usize),
            // Any byte changed.
            2 => datagram[rng.below(76) as usize] = rng.next_u64() as u8,
            // Anything, of any length.
            _ => {
                datagram.resize(rng.below(9000) as usize, 0);
                datagram.fill_with(|| rng.next_u64() as u8);
            }
        }
        for port in &ports {
            let to = SocketAddrNetlink::new(*port, 0);
            // A full queue is the sender's trouble, and so is an empty datagram.
            arrived += u32::from(sendto(&socket, &datagram, SendFlags::DONTWAIT, &to).is_ok());
        }
        if round % 16 == 0 {
            hub.stats().await.unwrap();
        }
    }
    assert!(arrived > 1000, "only {arrived} arrived");
    until("they were passed over", async || {
        hub.stats().await.unwrap().source.foreign > 1000
    })
    .await;
    assert!(is_pending(watch.exited()), "it lives");
    assert!(is_pending(stream.next()), "it has done nothing");
    child.make_zombie();
    let exit = soon("the watch", watch.settled()).await.unwrap();
    assert_eq!(exit.status.code(), Some(7));
    assert_eq!(only_exit(&rest(&mut stream).await), Some(7 << 8));
    loop {
        let event = crate::patience::next(&mut everything).await;
        if event.pid() == Some(pid) && crate::patience::exit_status(&event).is_some() {
            break;
        }
    }
}
