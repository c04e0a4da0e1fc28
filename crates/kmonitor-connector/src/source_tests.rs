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

#[tokio::test]
async fn it_may_move_between_threads_and_be_dropped_anywhere() {
    fn is_send<T: Send>(_: &T) {}
    let socket = <BatchSocket as AsyncSocket>::new(wire::PROTOCOL).unwrap();
    let source = ConnectorSource::new(socket, Duration::from_secs(1));
    is_send(&source);
    is_send(&ConnectorSource::open());
    std::thread::spawn(move || drop(source)).join().unwrap();
}
