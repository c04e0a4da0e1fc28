//! Nobody subscribed, nothing listened to: by the state of the sockets.

use std::process::Command;

use kmonitor::{EventMask, Filter, Hub, SourceKind};

use crate::netlink::own_connector_sockets;

/// How many connector sockets of this process are in the multicast group that
/// process events are sent to.
fn listening_sockets() -> usize {
    let sockets = own_connector_sockets();
    sockets
        .iter()
        .filter(|socket| socket.groups & 1 == 1)
        .count()
}

/// Runs apart from the other tests, in a process of its own, because it counts
/// the sockets of its whole process.
#[test]
#[ignore = "needs the proc connector: initial namespaces"]
fn the_kernel_is_listened_to_only_while_somebody_subscribes() {
    const ALONE: &str = "KMONITOR_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let this = "idle::the_kernel_is_listened_to_only_while_somebody_subscribes";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this, "--include-ignored", "--nocapture"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let hub = Hub::builder()
            .only(SourceKind::Connector)
            .open()
            .await
            .unwrap();
        assert_eq!(listening_sockets(), 0, "opened, and nobody subscribed");
        let filter = Filter::host().events(EventMask::EXIT);
        for round in 0..3 {
            let mut events = hub.subscribe(filter.clone()).await.unwrap();
            assert_eq!(listening_sockets(), 1, "round {round}");
            Command::new("true").status().unwrap();
            assert!(events.next().await.is_some());
            drop(events);
            while hub.stats().await.unwrap().listening {
                tokio::task::yield_now().await;
            }
            assert_eq!(
                listening_sockets(),
                0,
                "round {round}: the last one has gone"
            );
        }
    });
}
