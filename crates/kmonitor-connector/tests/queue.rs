//! The kernel's queue to us: empty where nothing is wanted, overflowing, and
//! written to by others. Each test looks at its own socket from outside, through
//! `/proc/net/netlink`, so one runs at a time.

mod common;

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::task::Poll;

use common::{Feed, lost_count, own_socket, pid_of};
use kmonitor_connector::ConnectorSource;
use kmonitor_event::Pid;
use kmonitor_source::{EventSource, FactKind, KernelInterest, LossReport};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, sendto, socket};
use tokio::sync::Mutex;

static ONE_SOCKET: Mutex<()> = Mutex::const_new(());

/// Runs `forks` children of one shell, one after the other.
fn storm(forks: u32) {
    let program = "i=0; while [ $i -lt $1 ]; do (:); i=$((i+1)); done";
    let status = Command::new("sh")
        .args(["-c", program, "storm", &forks.to_string()])
        .status()
        .expect("sh is installed");
    assert!(status.success());
}

/// Another socket of the connector's protocol, from which datagrams can be sent.
fn sender() -> OwnedFd {
    let protocol = Some(rustix::net::netlink::CONNECTOR);
    let sender = socket(AddressFamily::NETLINK, SocketType::DGRAM, protocol);
    let sender = sender.expect("a netlink socket");
    bind(&sender, &SocketAddrNetlink::new(0, 0)).expect("any port");
    sender
}

/// A child that came and went.
fn marker() -> Pid {
    let mut child = Command::new("true").spawn().expect("true is installed");
    child.wait().expect("the child can be waited for");
    pid_of(&child)
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn without_interest_it_is_in_no_group_and_nothing_comes() {
    let _one = ONE_SOCKET.lock().await;
    let mut feed = Feed {
        source: ConnectorSource::open().await.expect("the connector opens"),
        facts: Vec::new(),
    };
    assert_eq!(own_socket().groups, 0, "opened, it is in no group");
    let opened = feed.source.stats().received;

    for _ in 0..3 {
        feed.want(&common::everything()).await;
        assert_eq!(own_socket().groups, 1);
        let pid = marker();
        feed.until_exit(pid).await;

        feed.want(&KernelInterest::new()).await;
        assert_eq!(own_socket().groups, 0, "no interest, no group");
        let before = feed.source.stats().received;
        let other = own_socket();
        assert!(before > opened);
        marker();
        let batch = poll_fn(|cx| Poll::Ready(feed.source.poll_batch(cx, &mut feed.facts))).await;
        assert!(batch.is_pending());
        assert_eq!(feed.source.stats().received, before);
        assert_eq!(own_socket(), other);
    }
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn an_overflow_is_told_once_at_its_place_with_the_kernels_count() {
    let _one = ONE_SOCKET.lock().await;
    for bytes in [1, 64 << 10] {
        let builder = ConnectorSource::builder()
            .receive_buffer_bytes(bytes)
            .receive_buffer_bytes_max(bytes);
        let mut feed = Feed::listening_with(builder).await;
        assert_eq!(feed.source.capabilities().loss, LossReport::Exact);
        let before = feed.source.stats();
        let dropped_before = own_socket().drops;

        marker();
        storm(400);
        let dropped = own_socket().drops - dropped_before;
        assert!(dropped > 100, "no overflow: {dropped}");
        let lost = feed
            .until(|kind| matches!(kind, FactKind::Lost { .. }))
            .await;
        let FactKind::Lost { count: Some(count) } = lost.kind else {
            panic!("not counted: {lost:?}");
        };
        // Others' events may be dropped between our look and the source's.
        assert!(count >= dropped, "{count} < {dropped}");
        let at = feed.facts.iter().position(|fact| *fact == lost).unwrap();
        assert!(at > 0, "what was queued comes before the loss");
        let later = &feed.facts[at + 1..];
        assert!(later.iter().all(|fact| fact.time > feed.facts[at - 1].time));

        let mut told = feed.told_lost();
        feed.facts.clear();
        // With the smallest buffer a marker may be lost in its turn.
        loop {
            let pid = marker();
            let fact = feed
                .until(|kind| lost_count(kind) > 0 || common::subject(kind) == Some(pid))
                .await;
            told += feed.told_lost();
            feed.facts.clear();
            if common::subject(&fact.kind) == Some(pid) {
                break;
            }
        }
        let stats = feed.source.stats();
        assert_eq!(stats.dropped - before.dropped, told);
        assert!(stats.overflows > before.overflows);
    }
}

/// Reading while a storm overflows the queue again and again: every drop that the
/// kernel counted is told.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn what_was_lost_adds_up_to_what_the_kernel_dropped() {
    let _one = ONE_SOCKET.lock().await;
    let builder = ConnectorSource::builder()
        .receive_buffer_bytes(8 << 10)
        .receive_buffer_bytes_max(8 << 10);
    let mut feed = Feed::listening_with(builder).await;
    let (dropped_before, mut told) = (own_socket().drops, 0);
    for _ in 0..40 {
        storm(30);
        let pid = marker();
        // The marker itself may be lost.
        feed.until(|kind| lost_count(kind) > 0 || common::subject(kind) == Some(pid))
            .await;
        told += feed.told_lost();
        feed.facts.clear();
    }
    feed.source.close(&mut feed.facts).expect("IGNORE is taken");
    told += feed.told_lost();
    let stats = feed.source.stats();
    assert!(stats.overflows > 5, "{stats:?}");
    assert_eq!(told, stats.dropped);
    assert_eq!(stats.unsent, 0, "what overflowed is no gap in the numbers");
    assert_eq!(told, own_socket().drops - dropped_before);
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn closing_tells_what_was_queued_and_then_nothing() {
    let _one = ONE_SOCKET.lock().await;
    let mut feed = Feed::listening().await;
    let pids: Vec<Pid> = (0..20).map(|_| marker()).collect();
    feed.source.close(&mut feed.facts).expect("IGNORE is taken");
    for pid in pids {
        // fork, exec and exit; the last one's exit may come after waitpid().
        assert!(feed.about(pid).len() >= 2);
    }
    assert_eq!(own_socket().groups, 0);
    let told = feed.facts.len();
    marker();
    feed.source
        .close(&mut feed.facts)
        .expect("once more is no harm");
    assert_eq!(feed.facts.len(), told);
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn what_other_processes_send_is_counted_and_dropped() {
    let _one = ONE_SOCKET.lock().await;
    let mut feed = Feed::listening().await;
    let port = own_socket().port;

    // The exit of process 1, as the kernel would tell it.
    let mut forged = [0u8; 76];
    let mut set = |at: usize, word: u32| {
        forged[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    };
    set(0, 76);
    set(4, 3);
    set(16, 1);
    set(20, 1);
    set(32, 40);
    set(36, 0x8000_0000);
    set(52, 1);
    set(56, 1);
    let mut endless = forged;
    endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    let datagrams: [&[u8]; 5] = [&forged, &endless, &[0; 3], &[0xff; 76], &[1; 4000]];

    let sender = sender();
    let to = SocketAddrNetlink::new(port, 0);
    for datagram in datagrams {
        sendto(&sender, datagram, SendFlags::DONTWAIT, &to).unwrap();
    }

    drop(sender);
    let pid = marker();
    feed.until_exit(pid).await;
    let stats = feed.source.stats();
    assert_eq!(stats.foreign, 5, "{stats:?}");
    assert_eq!(stats.malformed, 0, "{stats:?}");
    let init = Pid::new(1).unwrap();
    assert!(
        !feed
            .about(init)
            .iter()
            .any(|kind| matches!(kind, FactKind::TaskExited { .. }))
    );
}

/// What is useless is passed over in turns, and hides nothing behind it.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_flood_by_another_process_hides_nothing() {
    const FLOOD: u64 = 12_000;
    let _one = ONE_SOCKET.lock().await;
    let builder = ConnectorSource::builder().receive_buffer_bytes(64 << 20);
    let mut feed = Feed::listening_with(builder).await;
    let to = SocketAddrNetlink::new(own_socket().port, 0);
    let sender = sender();
    for _ in 0..FLOOD {
        sendto(&sender, &[0xff; 76], SendFlags::DONTWAIT, &to).unwrap();
    }
    drop(sender);
    let pid = marker();
    feed.until_exit(pid).await;
    let stats = feed.source.stats();
    assert_eq!((stats.foreign, stats.overflows), (FLOOD, 0));
    assert_eq!(feed.told_lost(), 0);
}

/// Pending means that the queue is empty, not that the task has used up its turn.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn a_task_without_budget_is_still_told_what_is_queued() {
    let _one = ONE_SOCKET.lock().await;
    let mut feed = Feed::listening().await;
    // The runtime has seen the socket, and knows it to be readable again.
    let pid = marker();
    feed.until_exit(pid).await;
    marker();
    tokio::task::yield_now().await;
    let told = poll_fn(|cx| {
        while tokio::task::coop::has_budget_remaining() {
            let mut consumed = std::pin::pin!(tokio::task::coop::consume_budget());
            let _budget = consumed.as_mut().poll(cx);
        }
        Poll::Ready(feed.source.poll_batch(cx, &mut feed.facts))
    })
    .await;
    assert!(told.is_ready());
}

/// Each loss makes room, up to the limit: the same storm is then read without one.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn after_a_loss_the_queue_has_more_room() {
    let _one = ONE_SOCKET.lock().await;
    let builder = ConnectorSource::builder()
        .receive_buffer_bytes(64 << 10)
        .receive_buffer_bytes_max(4 << 20);
    let mut feed = Feed::listening_with(builder).await;
    let first = feed.source.capabilities().queue.expect("a queue");
    assert!(first.events < 200 && first.events_max > 10_000);
    assert!(!first.curtailed);
    let (mut room, mut losses) = (first.events, 0);
    loop {
        storm(600);
        let pid = marker();
        feed.until(|kind| lost_count(kind) > 0 || common::subject(kind) == Some(pid))
            .await;
        if feed.told_lost() == 0 {
            break;
        }
        // To the end of what was queued.
        let facts = &mut feed.facts;
        while poll_fn(|cx| Poll::Ready(feed.source.poll_batch(cx, facts)))
            .await
            .is_ready()
        {}
        feed.facts.clear();
        let grown = feed.source.capabilities().queue.expect("a queue").events;
        assert!(grown > room, "{room} and then {grown}");
        (room, losses) = (grown, losses + 1);
    }
    assert!((1..8).contains(&losses), "{losses}");
    assert!(room <= first.events_max);
}
