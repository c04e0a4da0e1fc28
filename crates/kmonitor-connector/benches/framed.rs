//! What `NetlinkFramed` costs an event, compared with decoding the same bytes
//! directly: `cargo bench -p kmonitor-connector`.
//!
//! Both begin with what `recvmmsg(2)` leaves behind (128 datagrams in buffers of
//! their own) and end with facts in a vector; neither makes a system call. The
//! crate's rule: more than 200 ns an event between the two, and the layer goes.
#![allow(missing_docs, reason = "a program, not a library")]

use std::cell::Cell;
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BufMut;
use futures::Stream;
use kmonitor_source::{BATCH_FACTS_MAX, Fact};
use netlink_packet_core::NetlinkPayload;
use netlink_proto::NetlinkFramed;
use netlink_proto::sys::{AsyncSocket, SocketAddr};
use netlink_sys::Socket;

use crate::codec::{ConnectorCodec, Payload};
use crate::decode::{Message, decode};

// The product's own modules: the codec is not part of the public interface.
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "only a part is measured"
)]
#[path = "../src/codec.rs"]
mod codec;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "only a part is measured"
)]
#[path = "../src/decode.rs"]
mod decode;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "only a part is measured"
)]
#[path = "../src/sequence.rs"]
mod sequence;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "only a part is measured"
)]
#[path = "../src/wire.rs"]
mod wire;

const DATAGRAMS: usize = 128;
const EVENT_BYTES: usize = 76;
const ROUNDS: u32 = 9;

/// Datagrams as they lie after a read.
struct Slots(Box<[[u8; 128]; DATAGRAMS]>);

impl Slots {
    fn filled() -> Self {
        let mut slots = Box::new([[0; 128]; DATAGRAMS]);
        for (slot, pid) in slots.iter_mut().zip(1000u32..) {
            let mut set = |at: usize, word: u32| {
                slot[at..at + 4].copy_from_slice(&word.to_ne_bytes());
            };
            set(0, EVENT_BYTES as u32);
            set(4, u32::from(wire::NLMSG_DONE));
            set(16, wire::CN_IDX_PROC);
            set(20, wire::CN_VAL_PROC);
            set(32, 40);
            let kinds = [wire::FORK, wire::EXEC, wire::EXIT];
            set(36, kinds[pid as usize % kinds.len()]);
            for at in [52, 56, 60, 64] {
                set(at, pid);
            }
        }
        Self(slots)
    }

    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|slot| &slot[..EVENT_BYTES])
    }
}

/// Hands out the same datagrams, so many times.
struct Filled {
    socket: Socket,
    slots: Slots,
    reads_left: Cell<u32>,
}

impl AsyncSocket for Filled {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(protocol)?,
            slots: Slots::filled(),
            reads_left: Cell::new(0),
        })
    }

    fn poll_send(&self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        _: &[u8],
        _: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, _: &mut B) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        _: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        let Some(left) = self.reads_left.get().checked_sub(1) else {
            return Poll::Pending;
        };
        self.reads_left.set(left);
        for datagram in black_box(&self.slots).datagrams() {
            buffer.put_slice(datagram);
        }
        Poll::Ready(Ok(SocketAddr::new(0, 0)))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        Poll::Pending
    }
}

/// Collects facts as the source does, in batches.
#[derive(Default)]
struct Collected {
    facts: Vec<Fact>,
    count: u64,
}

impl Collected {
    #[inline]
    fn push(&mut self, fact: Fact) {
        self.facts.push(fact);
        self.count += 1;
        if self.facts.len() == BATCH_FACTS_MAX {
            black_box(&self.facts);
            self.facts.clear();
        }
    }
}

fn nanos_per_event(reads: u32, work: impl FnOnce(&mut Collected)) -> f64 {
    let mut collected = Collected::default();
    let start = Instant::now();
    work(&mut collected);
    let nanos = start.elapsed().as_nanos() as f64;
    assert_eq!(collected.count, u64::from(reads) * DATAGRAMS as u64);
    nanos / collected.count as f64
}

fn framed(reads: u32) -> f64 {
    let socket = Filled::new(wire::PROTOCOL).expect("a netlink socket");
    socket.reads_left.set(reads);
    let mut framed: NetlinkFramed<Payload, Filled, ConnectorCodec> = NetlinkFramed::new(socket);
    nanos_per_event(reads, |collected| {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some((message, _))) = Pin::new(&mut framed).poll_next(&mut cx) {
            if let NetlinkPayload::InnerMessage(Payload { message, .. }) = message.payload
                && let Ok(Message::Fact(fact)) = message
            {
                collected.push(fact);
            }
        }
    })
}

fn direct(reads: u32) -> f64 {
    let slots = Slots::filled();
    nanos_per_event(reads, |collected| {
        for _ in 0..reads {
            for datagram in black_box(&slots).datagrams() {
                for message in decode(datagram) {
                    if let Ok(Message::Fact(fact)) = message {
                        collected.push(fact);
                    }
                }
            }
        }
    })
}

fn main() {
    // Without optimisation the numbers mean nothing: then it only has to run.
    let (rounds, reads) = if cfg!(debug_assertions) {
        (1, 10)
    } else {
        (ROUNDS, 10_000)
    };
    let best = |measure: fn(u32) -> f64| {
        (0..rounds)
            .map(|_| measure(reads))
            .fold(f64::INFINITY, f64::min)
    };
    let (framed, direct) = (best(framed), best(direct));
    println!("NetlinkFramed   {framed:6.1} ns an event (best of {rounds})");
    println!("direct          {direct:6.1} ns an event (best of {rounds})");
    println!("difference      {:6.1} ns an event", framed - direct);
}
