//! What the kernel does not show from outside: whether IGNORE was taken. Since
//! Linux 6.6 it keeps a socket that sent IGNORE from getting events even where
//! that is in the multicast group.

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::process::Command;

use kmonitor_event::Pid;
use netlink_proto::sys::AsyncSocket;
use netlink_sys::Socket;

use super::*;
use crate::filter::{Kinds, Selection, compile};
use crate::{sys, wire};

async fn listening() -> ConnectorSource {
    let mut source = ConnectorSource::open().await.unwrap();
    poll_fn(|cx| source.poll_listen(cx)).await.unwrap();
    source
}

fn queued_bytes(socket: impl AsFd) -> u32 {
    sys::queue_state(socket.as_fd()).unwrap().queued_bytes
}

/// Lets a child come and go, and waits until a listener was told.
async fn something_happens(listener: &mut ConnectorSource) {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = Pid::try_from(child.id()).unwrap();
    child.wait().unwrap();
    let mut facts = Vec::new();
    let exited =
        |fact: &Fact| matches!(fact.kind, FactKind::TaskExited { process, .. } if process == pid);
    while !facts.iter().any(exited) {
        poll_fn(|cx| listener.poll_batch(cx, &mut facts))
            .await
            .unwrap();
    }
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces, and Linux 6.6"]
async fn the_kernel_takes_ignore_when_interest_ends() {
    let mut listener = listening().await;
    let mut bound = Socket::new(wire::PROTOCOL).unwrap();
    bound.bind_auto().unwrap();
    bound.add_membership(wire::CN_IDX_PROC).unwrap();

    let opened = ConnectorSource::open().await.unwrap();
    opened.socket().join().unwrap();
    let mut stopped = listening().await;
    stopped.stop().unwrap();
    stopped.socket().join().unwrap();

    something_happens(&mut listener).await;
    assert!(queued_bytes(&bound) > 0, "events flow to who is just bound");
    assert_eq!(queued_bytes(opened.socket().socket_ref()), 0);
    assert_eq!(queued_bytes(stopped.socket().socket_ref()), 0);
}

#[tokio::test]
#[ignore = "needs root in the initial namespaces, and Linux 6.6"]
async fn dropping_a_listener_tells_the_kernel_so() {
    let mut listener = listening().await;
    let dropped = listening().await;
    // Keeps the socket, and its place in the group, beyond the source's end.
    let socket = rustix::io::dup(dropped.socket().socket_ref()).unwrap();
    something_happens(&mut listener).await;
    assert!(queued_bytes(&socket) > 0);
    drop(dropped);
    let queued = queued_bytes(&socket);
    something_happens(&mut listener).await;
    assert_eq!(queued_bytes(&socket), queued);
}

/// Without a repeated LISTEN the answer that an overflow ate would end in a
/// timeout.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn an_answer_that_is_lost_is_asked_for_again() {
    let mut storm = Command::new("sh")
        .args(["-c", "while :; do (:); done"])
        .spawn()
        .unwrap();
    let mut listener = listening().await;
    for _ in 0..30 {
        let builder = ConnectorSource::builder()
            .receive_buffer_bytes(1)
            .receive_buffer_bytes_max(1);
        let mut source = builder.open().await.unwrap();
        poll_fn(|cx| source.poll_listen(cx)).await.unwrap();
        // Reads a little, and may lose much.
        let mut facts = Vec::new();
        poll_fn(|cx| source.poll_batch(cx, &mut facts))
            .await
            .unwrap();
        assert!(!facts.is_empty());
    }
    something_happens(&mut listener).await;
    storm.kill().unwrap();
    storm.wait().unwrap();
}

/// Listens to the whole host, and has read all that was queued.
async fn everything() -> ConnectorSource {
    let mut source = ConnectorSource::open().await.unwrap();
    let mut interest = KernelInterest::new();
    interest.set_host(EventMask::all());
    poll_fn(|cx| source.poll_interest(cx, &interest))
        .await
        .unwrap();
    let mut facts = Vec::new();
    let mut poll = |cx: &mut Context<'_>| Poll::Ready(source.poll_batch(cx, &mut facts));
    while poll_fn(&mut poll).await.is_ready() {}
    source
}

/// What is told until some processes have ended.
async fn facts_until_exits(source: &mut ConnectorSource, pids: &[Pid]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let (mut seen, mut left) = (0, pids.to_vec());
    while !left.is_empty() {
        poll_fn(|cx| {
            ready!(source.poll_due(cx));
            source.poll_batch(cx, &mut facts)
        })
        .await
        .unwrap();
        for fact in &facts[seen..] {
            if let FactKind::TaskExited { process, .. } = fact.kind {
                left.retain(|pid| *pid != process);
            }
        }
        seen = facts.len();
    }
    facts
}

/// Runs so many children of one shell, on the first processor.
fn on_one_processor(forks: u32) -> Pid {
    let program = format!("i=0; while [ $i -lt {forks} ]; do (:); i=$((i+1)); done");
    let mut shell = Command::new("taskset")
        .args(["--cpu-list", "0", "sh", "-c", &program])
        .spawn()
        .unwrap();
    let pid = Pid::try_from(shell.id()).unwrap();
    assert!(shell.wait().unwrap().success());
    pid
}

/// Now and then the kernel has no memory for a message. A filter of which the source does
/// not know stands in for that.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn what_the_kernel_did_not_send_is_told_as_lost() {
    let (mut witness, mut ours) = (everything().await, everything().await);
    let no_exits = Selection {
        host: Kinds::ALL.without(Kinds::only(wire::EXIT)),
        ..Selection::default()
    };
    let program = compile(&no_exits);
    ours.socket().set_filter(Some(&program)).unwrap();
    on_one_processor(100);
    ours.socket().set_filter(None).unwrap();
    let last = [on_one_processor(0)];

    let facts = facts_until_exits(&mut ours, &last).await;
    let lost = facts.iter().map(|fact| match fact.kind {
        FactKind::Lost { count } => count.unwrap(),
        _ => 0,
    });
    let lost: u64 = lost.sum();
    let all = facts_until_exits(&mut witness, &last).await;
    let exits = all
        .iter()
        .filter(|fact| matches!(fact.kind, FactKind::TaskExited { .. }));
    // The shell itself, too. Those of other processors show when they are heard of again.
    assert!(lost > 100 && lost <= exits.count() as u64, "{lost}");
    let stats = ours.stats();
    assert_eq!((stats.unsent, stats.dropped), (lost, 0), "{stats:?}");
    assert_eq!(witness.stats().unsent, 0);
}

/// Who moves between processors, and many at once on each, is numbered without a gap; so
/// are the answers to those who come and go.
#[tokio::test]
#[ignore = "needs root in the initial namespaces"]
async fn numbers_have_no_gaps_where_nothing_is_lost() {
    let mut ours = everything().await;
    let program = "i=0; while [ $i -lt 3000 ]; do (:); i=$((i+1)); done";
    let shells = [(); 3].map(|()| Command::new("sh").args(["-c", program]).spawn().unwrap());
    let pids = shells.each_ref().map(|it| Pid::try_from(it.id()).unwrap());
    for _ in 0..20 {
        drop(listening().await);
    }
    facts_until_exits(&mut ours, &pids).await;
    for mut shell in shells {
        assert!(shell.wait().unwrap().success());
    }
    let stats = ours.stats();
    assert!(stats.received > 18_000 && stats.dropped == 0, "{stats:?}");
    assert_eq!(stats.unsent, 0);
    assert!(ours.sequence.is_followed());
}

#[tokio::test]
async fn it_may_move_between_threads_and_be_dropped_anywhere() {
    fn is_send<T: Send>(_: &T) {}
    let socket = <BatchSocket as AsyncSocket>::new(wire::PROTOCOL).unwrap();
    let source = ConnectorSource::new(socket, Duration::from_secs(1));
    is_send(&source);
    is_send(&ConnectorSource::open());
    std::thread::spawn(move || drop(source)).join().unwrap();
}
