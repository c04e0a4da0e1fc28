//! What is refused, and what it says.

use std::process::Command;

use kmonitor::signal::{RegisterError, SignalAdapter, SignalStats};
use kmonitor::source::sim::{SimConfig, SimKernel};
use kmonitor::{EventMask, Hub, Pid, SourceKind};
use kmonitor_tests::{Listener, in_unshare, run_as_nobody};

use super::{ALL, listener, pid, signal};
use crate::LISTENER;
use crate::child::HeldChild;
use crate::elsewhere::elsewhere;
use crate::patience::soon;

#[test]
#[ignore = "needs root, and setpriv"]
fn an_unprivileged_service_tells_its_own_users_processes() {
    elsewhere(
        "signal::refusals::an_unprivileged_service_tells_its_own_users_processes",
        run_as_nobody,
        |_| {},
        || async {
            assert!(!rustix::process::geteuid().is_root());
            let hub = Hub::open().await.unwrap();
            let adapter = SignalAdapter::new(&hub);
            let mut target = HeldChild::shell("exit 0");
            // Not its own: whoever started it, as root.
            let root = Pid::new(rustix::process::getppid().unwrap().as_raw_pid()).unwrap();
            let refused = adapter.register(root, target.pid(), EventMask::EXIT, signal(1));
            let error = refused.await.unwrap_err();
            assert!(
                matches!(error, RegisterError::NotPermitted { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("CAP_KILL"), "{error}");

            // Its own, of a process of root's.
            let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
            let own = Pid::try_from(sleeper.id()).unwrap();
            adapter
                .register(own, root, EventMask::EXIT, signal(1))
                .await
                .unwrap();
            adapter
                .register(own, target.pid(), EventMask::EXIT, signal(1))
                .await
                .unwrap();
            target.make_zombie();
            // Nobody told sleep what to do about it.
            let status = soon("its end", async { sleeper.wait().unwrap() }).await;
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(status.signal(), Some(signal(1).as_raw()));
        },
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, and unshare"]
async fn who_cannot_be_told_is_refused_with_the_reason() {
    let hub = Hub::open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let target = HeldChild::shell("exit 0");
    let register = async |monitor: Pid, target: Pid, events: EventMask| {
        let registered = adapter.register(monitor, target, events, signal(1));
        registered.await.unwrap_err()
    };
    let monitor = listener();
    let me = pid(monitor.pid());
    let error = register(me, target.pid(), EventMask::EXIT | EventMask::UID).await;
    assert!(
        matches!(error, RegisterError::Events(EventMask::UID)),
        "{error}"
    );

    let mut dead = HeldChild::shell("exit 0");
    dead.make_zombie();
    let error = register(dead.pid(), target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchMonitor { .. }),
        "{error}"
    );
    dead.reap();
    let error = register(dead.pid(), target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchMonitor { .. }),
        "{error}"
    );
    let error = register(me, dead.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchTarget { .. }),
        "{error}"
    );

    let inside = in_unshare(&["--pid", "--mount-proc"], &Command::new(LISTENER));
    let inside = Listener::from_command(inside).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", inside.pid());
    let child = std::fs::read_to_string(children).unwrap();
    let child: Pid = child.trim().parse().unwrap();
    let error = register(child, target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::ForeignNamespace { .. }),
        "{error}"
    );
    let thread = Pid::new(own_other_thread()).unwrap();
    let error = register(thread, target.pid(), ALL).await;
    assert!(matches!(error, RegisterError::Monitor { .. }), "{error}");
    assert_eq!(adapter.stats(), SignalStats::default());

    // On pidfds there are exits only.
    let pidfds = Hub::builder().only(SourceKind::Pidfd).open().await.unwrap();
    let adapter = SignalAdapter::new(&pidfds);
    let refused = adapter.register(me, target.pid(), EventMask::FORK, signal(1));
    let error = refused.await.unwrap_err();
    assert!(matches!(error, RegisterError::Subscribe { .. }), "{error}");
    adapter
        .register(me, target.pid(), EventMask::EXIT, signal(1))
        .await
        .unwrap();
    let refused = adapter.register(me, target.pid(), EventMask::EXEC, signal(1));
    assert!(refused.await.is_err());
    assert_eq!(adapter.stats().records, 1);
}

/// A thread of this process other than the first.
fn own_other_thread() -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut tids = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let first = std::process::id().cast_signed();
    tids.find(|tid| *tid != first).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_hub_is_told_to_whoever_registers() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let monitor = listener();
    let me = pid(monitor.pid());
    let target = kernel.spawn().unwrap();
    adapter
        .register(me, target, EventMask::EXIT, signal(1))
        .await
        .unwrap();
    hub.close().await;
    soon("the adapter's end", adapter.closed()).await;
    let error = adapter
        .register(me, target, EventMask::EXIT, signal(1))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::Closed { .. }), "{error}");
    assert!(adapter.deregister(me, target, ALL).await.is_err());
}
