//! The socket under `netlink-proto`: many datagrams per read, only the kernel's,
//! and losses reported at their place.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut;
use kmonitor_source::{QueueSize, SourceStats};
use netlink_proto::sys::{AsyncSocket, SocketAddr};
use netlink_sys::Socket;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{SendFlags, sendto, sockopt};

use crate::buffer::Buffer;
use crate::decode::Frame;
use crate::overflow::{Overflow, Plan};
use crate::sys;
use crate::wait::Wait;
use crate::wire::{CN_IDX_PROC, Request};

/// After so many reads in a row that brought nothing of use, others get a turn.
const FRUITLESS_READS_MAX: u32 = 64;

/// What a read fetches at most where the last one did not need more.
const WINDOW_MIN: usize = 16;

/// A netlink socket that is read with `recvmmsg(2)`.
pub(crate) struct BatchSocket {
    socket: Socket,
    reading: RefCell<Reading>,
    wait: RefCell<Wait>,
}

struct Reading {
    batch: sys::Batch,
    overflow: Overflow,
    buffer: Buffer,
    stats: SourceStats,
    /// A loss that was reported as `ENOBUFS` and waits to be taken.
    loss: Option<Option<u64>>,
    /// The error that ended reading: `NetlinkFramed` only says that it ended.
    error: Option<io::Error>,
    fruitless: u32,
    /// How many datagrams the next read fetches at most: few until there are many,
    /// because preparing a read costs something per datagram.
    window: usize,
    /// Whether an empty queue is waited on.
    waits: bool,
    /// Whether the last read found nothing.
    empty: bool,
}

impl BatchSocket {
    /// Puts a bound socket under the runtime's care. While many datagrams come, each
    /// may wait for `latency_budget` until it is read. `buffer` is the socket's own.
    pub(crate) fn new(
        socket: Socket,
        buffer: Buffer,
        latency_budget: Duration,
    ) -> io::Result<Self> {
        socket.set_non_blocking(true)?;
        let dropped = sys::queue_state(socket.as_fd()).map_or(0, |state| state.dropped);
        Ok(Self {
            wait: RefCell::new(Wait::new(socket.as_fd(), latency_budget)?),
            socket,
            reading: RefCell::new(Reading {
                batch: sys::Batch::new(),
                overflow: Overflow::new(dropped),
                buffer,
                stats: SourceStats::default(),
                loss: None,
                error: None,
                fruitless: 0,
                window: WINDOW_MIN,
                waits: true,
                empty: false,
            }),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Starts to be in the multicast group: what the kernel sends is queued.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.socket.add_membership(CN_IDX_PROC)
    }

    /// Stops to be in the multicast group: nothing of it is queued any more,
    /// whoever else listens.
    pub(crate) fn leave(&self) -> io::Result<()> {
        self.socket.drop_membership(CN_IDX_PROC)
    }

    /// Sends a request. The kernel acts on it before this returns.
    pub(crate) fn request(&self, request: Request, ack: u32) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let datagram = request.encode(0, ack);
        sendto(self.fd(), &datagram, SendFlags::DONTWAIT, &kernel).map(drop)
    }

    /// Has only those datagrams queued that the program lets pass; all without one.
    pub(crate) fn set_filter(&self, program: Option<&[libc::sock_filter]>) -> io::Result<()> {
        sys::set_filter(self.fd(), program)
    }

    /// Counts losses from now on.
    pub(crate) fn restart_loss_count(&self) {
        let dropped = sys::queue_state(self.fd()).map_or(0, |state| state.dropped);
        let mut reading = self.reading.borrow_mut();
        reading.overflow.restart(dropped);
        reading.loss = None;
    }

    /// Whether the kernel tells how many datagrams it dropped.
    pub(crate) fn counts_losses(&self) -> bool {
        sys::queue_state(self.fd()).is_ok()
    }

    /// Whether an empty queue is waited on (the start), or only found empty.
    pub(crate) fn set_waiting(&self, waits: bool) {
        self.reading.borrow_mut().waits = waits;
    }

    /// Whether the last read found nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.reading.borrow().empty
    }

    /// Ready unless a pause lasts.
    pub(crate) fn poll_due(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait.borrow_mut().poll_due(cx)
    }

    /// How much the kernel queues.
    pub(crate) fn queue_size(&self) -> QueueSize {
        self.reading.borrow().buffer.size()
    }

    /// The loss that `ENOBUFS` stood for, at the place where it stood.
    pub(crate) fn take_loss(&self) -> Option<Option<u64>> {
        self.reading.borrow_mut().loss.take()
    }

    /// Why reading ended.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.reading.borrow_mut().error.take()
    }

    /// What was received, and what of it was passed over here.
    pub(crate) fn stats(&self) -> SourceStats {
        let mut stats = self.reading.borrow().stats;
        stats.pauses = self.wait.borrow().pauses();
        stats
    }

    /// One read, and how many datagrams it brought. Nothing may have been appended,
    /// where all of them were useless; `WouldBlock` where the queue is empty; `ENOBUFS` where a loss belongs.
    fn read<B: BufMut>(&self, buffer: &mut B) -> io::Result<usize> {
        let reading = &mut *self.reading.borrow_mut();
        loop {
            let state = || sys::queue_state(self.fd()).ok();
            let Plan::Read(limit) = reading.overflow.plan(state) else {
                reading.tell_loss(self.fd())?;
                continue;
            };
            let limit = limit.min(reading.window);
            match reading.batch.receive(self.fd(), limit) {
                Ok(count) => {
                    reading.empty = false;
                    reading.overflow.received(count);
                    reading.window = if count == limit {
                        sys::DATAGRAMS_MAX
                    } else {
                        WINDOW_MIN
                    };
                    reading.pass_on(buffer);
                    return Ok(count);
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOBUFS) => {
                        reading.stats.overflows += 1;
                        reading.overflow.reported();
                    }
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN) => {
                        reading.empty = true;
                        if reading.overflow.found_empty() {
                            reading.tell_loss(self.fd())?;
                        }
                        return Err(error);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Reads what is queued, once. Pending where the queue is empty; then the task is
    /// woken when there is more, or after a pause, unless the socket was told not to
    /// wait.
    ///
    /// It reads even where nothing has told of anything: the reactor lags behind by a
    /// turn of the runtime, a pause may last, and pending must mean that the queue was
    /// empty.
    fn poll_fill<B: BufMut>(&self, cx: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        let mut wait = self.wait.borrow_mut();
        let waits = self.reading.borrow().waits;
        loop {
            // First the question, then the read: what comes in between wakes.
            let readable = match wait.poll_readable(cx) {
                Poll::Ready(readable) if waits => Some(readable?),
                _ => None,
            };
            match self.read(buffer) {
                Ok(count) => {
                    wait.received(count);
                    let mut reading = self.reading.borrow_mut();
                    if reading.fruitless < FRUITLESS_READS_MAX {
                        return Poll::Ready(Ok(()));
                    }
                    reading.fruitless = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) if !waits => return Poll::Pending,
                    Some(Errno::AGAIN) => {
                        let stale = readable
                            .map(|mut readable| readable.clear_ready())
                            .is_some();
                        // Who is no longer told to be ready must ask once more.
                        if !stale {
                            ready!(wait.poll_rest(cx, self.fd()));
                        }
                    }
                    Some(Errno::NOBUFS) => return Poll::Ready(Err(error)),
                    _ => {
                        let same = io::Error::from(error.kind());
                        self.reading.borrow_mut().error = Some(error);
                        return Poll::Ready(Err(same));
                    }
                },
            }
        }
    }
}

impl Reading {
    /// Appends what the kernel sent, and counts what it did not.
    fn pass_on<B: BufMut>(&mut self, buffer: &mut B) {
        self.fruitless += 1;
        for datagram in self.batch.datagrams() {
            self.stats.received += 1;
            if datagram.sender_port != 0 {
                self.stats.foreign += 1;
            } else if datagram.truncated || !is_whole_chain(datagram.bytes) {
                self.stats.malformed += 1;
            } else {
                buffer.put_slice(datagram.bytes);
                self.fruitless = 0;
            }
        }
    }

    /// Settles a loss, and reports it by the error that stands for it.
    fn tell_loss(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let dropped = sys::queue_state(socket).ok().map(|state| state.dropped);
        let Some(loss) = self.overflow.settle(dropped) else {
            return Ok(());
        };
        self.stats.dropped += loss.unwrap_or(0);
        self.loss = Some(loss);
        if loss != Some(0) {
            // For the next time: this one is lost.
            self.buffer.grow(socket);
        }
        Err(Errno::NOBUFS.into())
    }
}

/// Whether the length fields lead exactly to the end: only then can other
/// datagrams be put behind this one.
pub(crate) fn is_whole_chain(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(frame) = Frame::first_of(rest) else {
            return false;
        };
        rest = &rest[frame.whole_bytes..];
    }
    datagram.len().is_multiple_of(4) && !datagram.is_empty()
}

impl AsyncSocket for BatchSocket {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        let size = sockopt::socket_recv_buffer_size(&socket)? / 2;
        let buffer = Buffer::new(&socket, size, size)?;
        Self::new(socket, buffer, Duration::ZERO)
    }

    /// A request is acted on within the call, so there is nothing to wait for.
    fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send_to(cx, datagram, &SocketAddr::new(0, 0))
    }

    fn poll_send_to(
        &self,
        _cx: &mut Context<'_>,
        datagram: &[u8],
        to: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let to = SocketAddrNetlink::new(to.port_number(), to.multicast_groups());
        Poll::Ready(Ok(sendto(self.fd(), datagram, SendFlags::DONTWAIT, &to)?))
    }

    fn poll_recv<B: BufMut>(&self, cx: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        self.poll_fill(cx, buffer)
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        // What others send is dropped, so the sender is always the kernel.
        let kernel = SocketAddr::new(0, 0);
        self.poll_fill(cx, buffer).map_ok(|()| kernel)
    }

    fn poll_recv_from_full(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let mut datagrams = Vec::new();
        let sender = ready!(self.poll_recv_from(cx, &mut datagrams))?;
        Poll::Ready(Ok((datagrams, sender)))
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
