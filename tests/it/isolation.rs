//! In other namespaces, and without privilege: the true cause is named, watching
//! works, nothing waits for ever, and nobody is taken for somebody else.

use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::poll;
use kmonitor::source::{Reach, Refusal, Scope, StartErrorKind};
use kmonitor::{
    EventKind, EventMask, Filter, Hub, OpenError, Pid, SourceKind, Status, StatusSource,
    SubscribeError,
};
use kmonitor_tests::{HeldPid, Rng, in_unshare, run_as_nobody, spawn_with_pid};

use crate::child::HeldChild;
use crate::elsewhere::{OtherHalf, elsewhere, hear, say};
use crate::patience::{is_pending, next, only_exit, rest, soon};

/// How long the connector waits for the kernel's answer where nothing else shows
/// the cause. Here something does.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that is promised where the connector does not work.
async fn it_falls_back_to_pidfds(cause: StartErrorKind) {
    let start = Instant::now();
    let hub = soon("a hub", Hub::open()).await.unwrap();
    assert!(start.elapsed() < ACK_TIMEOUT, "{:?}", start.elapsed());
    let capabilities = hub.capabilities();
    assert_eq!(capabilities.source.kind, SourceKind::Pidfd);
    assert_eq!(capabilities.source.reach, Reach::Named);
    let [error] = &capabilities.passed_over[..] else {
        panic!("one reason was due: {:?}", capabilities.passed_over);
    };
    assert_eq!(error.source_kind(), SourceKind::Connector);
    assert_eq!(error.kind(), cause, "{error}");

    let only = Hub::builder().only(SourceKind::Connector).open();
    match soon("a refusal", only).await {
        Err(OpenError::Source(error)) => assert_eq!(error.kind(), cause, "{error}"),
        other => panic!("the connector cannot work here: {other:?}"),
    }

    let mut child = HeldChild::shell("exit 7");
    let pid = child.pid();
    let exits = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(exits).await.unwrap();
    let hub_watch = hub.watch(pid).await.unwrap();
    let free_watch = kmonitor::watch(pid);
    child.make_zombie();
    let exit = soon("the hub's watch", hub_watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(7));
    let exit = soon("the free watch", free_watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(7));
    assert_eq!(only_exit(&rest(&mut stream).await), Some(7 << 8));

    let me = Pid::current();
    let tree = Filter::tree(me).events(EventMask::EXIT);
    let host = Filter::host().events(EventMask::EXIT);
    for (filter, wanted) in [(tree, Scope::Tree), (host, Scope::Host)] {
        let error = soon("a refusal", hub.subscribe(filter)).await.unwrap_err();
        let SubscribeError::Refused(refusal) = error else {
            panic!("{error}");
        };
        let kind = SourceKind::Pidfd;
        assert_eq!(refusal, Refusal::Reach { kind, wanted });
    }
}

fn in_namespaces(test: &str, flags: &[&str], cause: StartErrorKind) {
    elsewhere(
        test,
        |command| in_unshare(flags, command),
        |_| {},
        || it_falls_back_to_pidfds(cause),
    );
}

macro_rules! namespaces {
    ($($test:ident: $flags:expr => $cause:ident;)+) => {$(
        #[test]
        #[ignore = "needs root in the initial namespaces, and unshare"]
        fn $test() {
            let test = concat!("isolation::", stringify!($test));
            in_namespaces(test, &$flags, StartErrorKind::$cause);
        }
    )+};
}

namespaces! {
    it_works_in_another_network_namespace: ["--net"] => NetworkNamespace;
    it_works_in_another_user_namespace: ["--user", "--map-root-user"] => UserNamespace;
    it_works_in_another_time_namespace: ["--time", "--monotonic", "100000"] => TimeNamespace;
    it_works_in_another_pid_namespace: ["--pid", "--mount-proc"] => PidNamespace;
    it_works_in_a_rootless_container:
        ["--user", "--map-root-user", "--net", "--pid", "--mount-proc"] => PidNamespace;
}

/// Says that the other half watches, then lets the child end and reaps it.
fn reap_when_watched(other: &mut OtherHalf, child: &mut HeldChild) {
    assert_eq!(other.hear(), "watching");
    child.make_zombie();
    other.say("it is a zombie");
    assert_eq!(other.hear(), "reap it");
    assert_eq!(child.reap().code(), Some(7));
}

/// Since Linux 6.6 the connector serves anybody, and since 6.15 a pidfd tells a
/// stranger the status once the parent has reaped.
#[test]
#[ignore = "needs root in the initial namespaces, and setpriv; Linux 6.15"]
fn nobody_learns_how_roots_child_ended() {
    const PID: &str = "KMONITOR_TEST_PID";
    let mut child = None;
    // Only the outer half has a child.
    if std::env::var_os(PID).is_none() {
        child = Some(HeldChild::shell("exit 7"));
    }
    let pid = child.as_ref().map(|child| child.pid().to_string());
    elsewhere(
        "isolation::nobody_learns_how_roots_child_ended",
        |command| {
            let mut nobody = run_as_nobody(command);
            nobody.env(PID, pid.as_deref().unwrap());
            nobody
        },
        |other| reap_when_watched(other, child.as_mut().unwrap()),
        || async {
            assert!(!rustix::process::geteuid().is_root());
            let pid: Pid = std::env::var(PID).unwrap().parse().unwrap();
            let hub = soon("a hub", Hub::open()).await.unwrap();
            assert_eq!(hub.capabilities().source.kind, SourceKind::Connector);
            assert!(hub.capabilities().passed_over.is_empty());
            let pidfd = Hub::builder().only(SourceKind::Pidfd).open();
            let pidfd = soon("a hub", pidfd).await.unwrap();

            let filter = || Filter::pid(pid).events(EventMask::EXIT);
            let mut stream = hub.subscribe(filter()).await.unwrap();
            let mut pidfd_stream = pidfd.subscribe(filter()).await.unwrap();
            let mut watches = [
                hub.watch(pid).await.unwrap(),
                pidfd.watch(pid).await.unwrap(),
            ];
            let mut free = kmonitor::watch(pid);
            say("watching");
            assert_eq!(hear(), "it is a zombie");
            // All see that it is dead, before its parent has reaped it.
            for watch in &mut watches {
                soon("a death", watch.exited()).await.unwrap();
            }
            soon("a death", free.exited()).await.unwrap();
            say("reap it");
            let exit = soon("the free watch", free.reaped()).await.unwrap();
            assert_eq!(exit.status.code(), Some(7), "{exit}");
            for mut watch in watches {
                let exit = soon("a hub's watch", watch.reaped()).await.unwrap();
                assert_eq!(exit.status.code(), Some(7), "{exit}");
            }
            assert_eq!(only_exit(&rest(&mut stream).await), Some(7 << 8));
            assert_eq!(only_exit(&rest(&mut pidfd_stream).await), Some(7 << 8));
        },
    );
}

/// A process inside has the pid that many processes outside have one after the
/// other, while the kernel reports those to listeners outside.
#[test]
#[ignore = "needs root in the initial namespaces, and unshare"]
fn no_process_of_another_pid_namespace_is_believed() {
    const PID: &str = "KMONITOR_TEST_PID";
    const STRANGERS: u32 = 500;
    let mut held = None;
    if std::env::var_os(PID).is_none() {
        held = Some(HeldPid::spawn_far_away(&mut Rng::from_env()).unwrap());
    }
    let pid = held.as_ref().map(HeldPid::pid);
    let end_strangers = |other: &mut OtherHalf| {
        assert_eq!(other.hear(), "watching");
        let pid = pid.unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let hub = Hub::builder().only(SourceKind::Connector).open();
            let hub = hub.await.unwrap();
            let exits = Filter::host().events(EventMask::EXIT);
            let mut stream = hub.subscribe(exits).await.unwrap();
            held.take().unwrap().finish(3).unwrap();
            for number in 1..STRANGERS {
                spawn_with_pid(pid, number as u8).unwrap();
            }
            // Until the last one was told of: out here they are.
            let mut told = Vec::new();
            while told.len() < STRANGERS as usize {
                let event = next(&mut stream).await;
                match event.kind {
                    EventKind::Exit(status) if event.pid().unwrap().as_raw() == pid => {
                        told.push((event.process.unwrap().incarnation(), status.raw()));
                    }
                    _ => {}
                }
            }
            // The kernel may report two of them the wrong way round.
            told.sort_unstable();
            let mut told = told.iter().map(|(_, raw)| *raw);
            // Of the first, who was there before, it may be unknown.
            assert_eq!(told.next().unwrap().unwrap_or(3 << 8), 3 << 8);
            let codes = (1..STRANGERS).map(|number| Some(i32::from(number as u8) << 8));
            assert!(told.eq(codes), "each owner of the pid its own");
        });
        other.say("they ended");
    };
    elsewhere(
        "isolation::no_process_of_another_pid_namespace_is_believed",
        |command| {
            let mut command: Command = in_unshare(&["--pid", "--mount-proc"], command);
            command.env(PID, pid.unwrap().to_string());
            command
        },
        end_strangers,
        || async {
            let raw: i32 = std::env::var(PID).unwrap().parse().unwrap();
            let pid = Pid::new(raw).unwrap();
            let hub = soon("a hub", Hub::open()).await.unwrap();
            let gone = hub.watch(pid).await.unwrap_err();
            assert!(gone.is_gone(), "it exists outside only: {gone}");
            let gone = kmonitor::watch(pid).await.unwrap_err();
            assert!(gone.is_gone(), "it exists outside only: {gone}");

            let held = HeldPid::spawn(raw).unwrap();
            let exits = Filter::pid(pid).events(EventMask::EXIT);
            let mut stream = hub.subscribe(exits).await.unwrap();
            let mut watch = hub.watch(pid).await.unwrap();
            let mut free = kmonitor::watch(pid);
            say("watching");
            assert_eq!(hear(), "they ended");
            // The hub has had its say about all that came before this.
            assert_eq!(hub.stats().await.unwrap().watches, 1);
            assert!(is_pending(stream.next()));
            assert!(is_pending(watch.exited()));
            assert!(is_pending(free.exited()));
            assert_eq!(held.finish(5).unwrap(), 5 << 8);
            let exit = soon("the watch", watch.settled()).await.unwrap();
            assert_eq!(exit.status.code(), Some(5));
            let exit = soon("the free watch", free).await.unwrap();
            assert_eq!(exit.status.code(), Some(5));
            assert_eq!(only_exit(&rest(&mut stream).await), Some(5 << 8));
        },
    );
}

/// What nobody could know is not made up: the zombie of a parent that does not
/// reap, seen by a stranger on pidfds.
#[test]
#[ignore = "needs root, and setpriv"]
fn a_zombies_status_is_not_made_up_for_a_stranger() {
    const PID: &str = "KMONITOR_TEST_PID";
    let mut child = None;
    if std::env::var_os(PID).is_none() {
        let mut dead = HeldChild::shell("exit 7");
        dead.make_zombie();
        child = Some(dead);
    }
    let pid = child.as_ref().map(|child| child.pid().to_string());
    elsewhere(
        "isolation::a_zombies_status_is_not_made_up_for_a_stranger",
        |command| {
            let mut nobody = run_as_nobody(command);
            nobody.env(PID, pid.as_deref().unwrap());
            nobody
        },
        |other| {
            assert_eq!(other.hear(), "known to be dead");
            assert_eq!(child.as_mut().unwrap().reap().code(), Some(7));
        },
        || async {
            let pid: Pid = std::env::var(PID).unwrap().parse().unwrap();
            let grace = Duration::from_millis(50);
            let hub = Hub::builder().status_grace(grace).open();
            let hub = soon("a hub", hub).await.unwrap();
            let mut watch = hub.watch(pid).await.unwrap();
            let mut free = kmonitor::watch(pid).status_grace(grace);
            for exit in [
                soon("the hub's watch", watch.settled()).await.unwrap(),
                soon("the free watch", &mut free).await.unwrap(),
            ] {
                assert_eq!(exit.status.known(), None, "{exit}");
                assert!(!exit.status.success());
            }
            // Who waits when it is reaped learns the status.
            let (mut hub_reaping, mut free_reaping) = (pin!(watch.reaped()), pin!(free.reaped()));
            assert!(poll!(&mut hub_reaping).is_pending());
            assert!(poll!(&mut free_reaping).is_pending());
            say("known to be dead");
            for exit in [
                soon("the reaping", hub_reaping).await.unwrap(),
                soon("the reaping", free_reaping).await.unwrap(),
            ] {
                let told = Status::from_raw(7 << 8, StatusSource::PidfdInfo);
                assert_eq!(exit.status, told);
            }
        },
    );
}
