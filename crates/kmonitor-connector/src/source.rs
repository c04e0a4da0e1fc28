//! The proc connector as an event source.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::Stream;
use kmonitor_event::{EventMask, Timestamp};
use kmonitor_source::{
    BATCH_FACTS_MAX, Capabilities, EventSource, Fact, FactKind, KernelInterest, LossReport, Reach,
    SourceError, SourceKind, SourceStats, StartError,
};
use netlink_packet_core::NetlinkPayload;
use netlink_proto::NetlinkFramed;
use rustix::io::Errno;

use crate::builder::ConnectorBuilder;
use crate::codec::{ConnectorCodec, Payload};
use crate::decode::{Ack, DecodeError, Message};
use crate::filter::{Filter, forgets_its_listeners};
use crate::listen::{Handshake, ListenError, Listening, random_nonce};
use crate::sequence::{Gap, Sequence};
use crate::socket::BatchSocket;
use crate::wire::Request;

/// After so many messages in a row that are no facts, others get a turn.
const USELESS_MESSAGES_MAX: usize = 8 * BATCH_FACTS_MAX;
/// How often a request is tried again at once where the kernel had no memory.
const IGNORE_TRIES_MAX: usize = 8;
/// Reads that empty the queue after the group was left: nothing more is queued
/// then, and no buffer holds more than so many messages.
const LAST_MESSAGES_MAX: usize = 8 << 20;

/// The kernel's proc connector: every process of the host, without a system call
/// per event.
///
/// Opened, it does not listen: the kernel sends nothing and it costs nothing
/// until [`poll_interest`](EventSource::poll_interest) asks for something. Then a
/// filter in the kernel (`SO_ATTACH_FILTER`) holds back what was not asked for: while
/// no more processes are named than [`Narrowing::Processes`](kmonitor_source::Narrowing::Processes) says, all of other
/// processes; with more of them, or with the whole host, all of kinds that nobody
/// wants, unless forks, execs and exits are wanted: then nothing, because hardly anything
/// else happens. What is held back costs no wake-up and no room in the queue, and is not
/// counted as lost. [`EventSource::capabilities`] says what the kernel took.
///
/// A loss is reported as [`FactKind::Lost`] at its place between the facts that
/// were queued before it and those that came after, with the number of messages
/// that the kernel says it dropped, of all that the filter let pass. The sum of
/// these numbers is exact; where two losses follow in a moment, drops of the second
/// may be counted with the first, and the second told with as many less, even 0.
///
/// While all events of the host pass, those that the kernel had no memory to send are
/// missing by their numbers, and told in the same way before the next of the same
/// processor (`SourceStats::unsent`).
///
/// # Minimum kernel version
/// Linux 2.6.15 with `CONFIG_PROC_EVENTS`, in the initial network, pid and user
/// namespaces. Before 6.6 it needs `CAP_NET_ADMIN`; before 4.12 losses are
/// noticed but not counted.
///
/// # Examples
/// ```no_run
/// use std::future::poll_fn;
/// use kmonitor_connector::ConnectorSource;
/// use kmonitor_event::EventMask;
/// use kmonitor_source::{EventSource, KernelInterest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut source = ConnectorSource::open().await?;
/// let mut interest = KernelInterest::new();
/// interest.set_host(EventMask::EXIT);
/// poll_fn(|cx| source.poll_interest(cx, &interest)).await?;
///
/// let mut facts = Vec::new();
/// poll_fn(|cx| source.poll_batch(cx, &mut facts)).await?;
/// println!("{facts:?}");
/// source.close(&mut facts)?;
/// # Ok(())
/// # }
/// ```
pub struct ConnectorSource {
    framed: NetlinkFramed<Payload, BatchSocket, ConnectorCodec>,
    sequence: Sequence,
    /// What a gap in the numbers was told before.
    after_gap: Option<Result<Message, DecodeError>>,
    listening: Listening,
    filter: Filter,
    /// Facts that came between LISTEN and its answer.
    early: Vec<Fact>,
    capabilities: Capabilities,
    malformed: u64,
    unsent: u64,
    ack_timeout: Duration,
}

/// What the stream of messages brought.
enum Incoming {
    Fact(Fact),
    Ack(Ack),
    Useless,
}

impl ConnectorSource {
    /// Opens the proc connector with the defaults of [`ConnectorBuilder`], and
    /// proves that it works here.
    ///
    /// # Errors
    /// It does not work here; [`StartError::kind`] says why.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened, and leaves nothing behind.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn open() -> Result<Self, StartError> {
        Self::builder().open().await
    }

    /// Settings for opening it.
    pub fn builder() -> ConnectorBuilder {
        ConnectorBuilder::new()
    }

    pub(crate) fn new(socket: BatchSocket, ack_timeout: Duration) -> Self {
        let loss = if socket.counts_losses() {
            LossReport::Exact
        } else {
            LossReport::Noticed
        };
        let kind = SourceKind::Connector;
        let release = rustix::system::uname();
        let silenced = forgets_its_listeners(&release.release().to_string_lossy());
        if silenced {
            tracing::info!(
                "no filter in the kernel: on this release it would silence the connector"
            );
        }
        let filter = Filter::new(!silenced);
        let mut capabilities = Capabilities::new(kind, EventMask::all(), Reach::Host, loss);
        capabilities.narrowing = filter.narrowing();
        capabilities.queue = Some(socket.queue_size());
        Self {
            // Where drops are not counted (before 4.12) numbers may come out of order, too
            // (before 4.10).
            sequence: Sequence::new(loss == LossReport::Exact),
            framed: NetlinkFramed::new(socket),
            after_gap: None,
            listening: Listening::Not,
            filter,
            early: Vec::new(),
            capabilities,
            malformed: 0,
            unsent: 0,
            ack_timeout,
        }
    }

    /// Brings the kernel to send events; ready when it has confirmed that.
    pub(crate) fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ListenError>> {
        if let Listening::Confirmed = self.listening {
            return Poll::Ready(Ok(()));
        }
        if let Listening::Not = self.listening {
            self.restart_loss_count();
            if let Err(error) = self.socket().join() {
                return Poll::Ready(Err(ListenError::Join(error)));
            }
            self.listening = Listening::Asked(Handshake::new(self.ack_timeout));
        }
        let result = ready!(self.poll_confirmed(cx));
        match &result {
            Ok(()) => {
                tracing::debug!("the proc connector confirmed LISTEN");
                self.listening = Listening::Confirmed;
            }
            Err(_) => {
                if let Err(error) = self.stop() {
                    tracing::debug!(%error, "going back from a failed LISTEN failed");
                }
            }
        }
        Poll::Ready(result)
    }

    /// Sends LISTEN, and reads until its answer comes.
    fn poll_confirmed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ListenError>> {
        for _ in 0..USELESS_MESSAGES_MAX {
            let Listening::Asked(handshake) = &mut self.listening else {
                return Poll::Ready(Ok(()));
            };
            let Some(expected) = ready!(handshake.poll_sent(cx, self.framed.get_ref()))? else {
                return Poll::Ready(Err(ListenError::NoAnswer(self.ack_timeout)));
            };
            let Poll::Ready(incoming) = self.poll_incoming(cx) else {
                return self.poll_deadline(cx);
            };
            match incoming.map_err(ListenError::Receive)? {
                Incoming::Ack(ack) if ack.ack == expected => return Poll::Ready(granted(ack)),
                Incoming::Fact(fact) => self.keep_early(fact),
                Incoming::Ack(_) | Incoming::Useless => {}
            }
        }
        // Others get a turn, and a stream of events without end cannot hide that
        // no answer comes.
        cx.waker().wake_by_ref();
        self.poll_deadline(cx)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ListenError>> {
        if let Listening::Asked(handshake) = &mut self.listening {
            ready!(handshake.deadline.as_mut().poll(cx));
        }
        Poll::Ready(Err(ListenError::NoAnswer(self.ack_timeout)))
    }

    /// Keeps a fact that came before the answer to LISTEN. Nothing was promised
    /// yet, so where there are too many the stream simply begins later; and so it
    /// does after a loss, which may have hit the answer: LISTEN is then repeated.
    fn keep_early(&mut self, fact: Fact) {
        if !matches!(fact.kind, FactKind::Lost { .. }) {
            if self.early.len() == BATCH_FACTS_MAX {
                self.early.clear();
            }
            self.early.push(fact);
            return;
        }
        self.early.clear();
        // IGNORE first: before Linux 6.6 each LISTEN counts as one more listener.
        let ignored = self.send_ignore();
        if let Listening::Asked(handshake) = &mut self.listening {
            handshake.repeat(ignored.is_err());
        }
        self.restart_loss_count();
    }

    fn restart_loss_count(&mut self) {
        self.socket().restart_loss_count();
        self.sequence.restart();
    }

    /// Stops the kernel from sending events, and drops what is queued.
    pub(crate) fn stop(&mut self) -> Result<(), SourceError> {
        if let Listening::Not = self.listening {
            return Ok(());
        }
        self.ignore()?;
        self.early.clear();
        self.drain(|_| {});
        Ok(())
    }

    /// Stops the kernel from sending events.
    fn ignore(&mut self) -> Result<(), SourceError> {
        match &self.listening {
            Listening::Not => return Ok(()),
            Listening::Confirmed => self.send_ignore()?,
            Listening::Asked(handshake) if handshake.nonce.is_none() => {}
            Listening::Asked(_) => {
                // Who was not confirmed goes back to the start in any case.
                if let Err(error) = self.send_ignore() {
                    tracing::debug!(%error, "IGNORE after an unconfirmed LISTEN failed");
                }
            }
        }
        tracing::debug!("the proc connector is no longer listened to");
        self.listening = Listening::Not;
        let left = self.socket().leave();
        left.map_err(|error| SourceError::io("leave the proc connector's multicast group", error))
    }

    fn send_ignore(&self) -> Result<(), SourceError> {
        let mut result = Ok(());
        for _ in 0..IGNORE_TRIES_MAX {
            result = self.socket().request(Request::Ignore, random_nonce());
            if !matches!(result, Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR)) {
                break;
            }
        }
        result.map_err(|error| SourceError::io("send IGNORE to the proc connector", error.into()))
    }

    /// Takes all facts that are queued, without waiting for more.
    fn drain(&mut self, mut take: impl FnMut(Fact)) {
        self.socket().set_waiting(false);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..LAST_MESSAGES_MAX {
            match self.poll_incoming(&mut cx) {
                Poll::Ready(Ok(Incoming::Fact(fact))) => take(fact),
                Poll::Ready(Ok(Incoming::Ack(_) | Incoming::Useless)) => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the rest of the proc connector's queue is unreadable");
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.socket().set_waiting(true);
    }

    /// The next message.
    #[inline]
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, SourceError>> {
        if let Some(message) = self.after_gap.take() {
            return Poll::Ready(Ok(self.sort(message)));
        }
        let Poll::Ready(next) = Pin::new(&mut self.framed).poll_next(cx) else {
            if self.socket().is_empty() {
                self.sequence.found_empty();
            }
            return Poll::Pending;
        };
        let Some((message, _)) = next else {
            let error = self.socket().take_error();
            let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            let error = SourceError::io("read from the proc connector", error);
            return Poll::Ready(Err(error));
        };
        Poll::Ready(Ok(match message.payload {
            NetlinkPayload::InnerMessage(Payload { message, number }) => {
                match number.and_then(|number| self.sequence.gap_before(number)) {
                    None => self.sort(message),
                    Some(Gap { count, after_ns }) => {
                        self.after_gap = Some(message);
                        self.unsent += u64::from(count);
                        tracing::warn!(count, "the kernel did not send all of its events");
                        let after = Timestamp::from_nanos(after_ns);
                        lost(Some(u64::from(count)), after)
                    }
                }
            }
            _ => match self.socket().take_loss() {
                Some(count) => {
                    tracing::warn!(count, "the proc connector's queue overflowed");
                    self.capabilities.queue = Some(self.socket().queue_size());
                    self.sequence.restart();
                    lost(count, Timestamp::now())
                }
                None => Incoming::Useless,
            },
        }))
    }

    #[inline]
    fn sort(&mut self, message: Result<Message, DecodeError>) -> Incoming {
        match message {
            Ok(Message::Fact(fact)) => Incoming::Fact(fact),
            Ok(Message::Ack(ack)) => Incoming::Ack(ack),
            Err(_) => {
                self.malformed += 1;
                Incoming::Useless
            }
        }
    }

    fn socket(&self) -> &BatchSocket {
        self.framed.get_ref()
    }
}

fn lost(count: Option<u64>, time: Timestamp) -> Incoming {
    Incoming::Fact(Fact::new(time, FactKind::Lost { count }))
}

fn granted(ack: Ack) -> Result<(), ListenError> {
    match i32::try_from(ack.error) {
        Ok(0) => Ok(()),
        error => Err(ListenError::Refused(io::Error::from_raw_os_error(
            error.unwrap_or(i32::MAX),
        ))),
    }
}

impl EventSource for ConnectorSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        if interest.is_empty() {
            return Poll::Ready(self.stop());
        }
        // Before the kernel listens, and before this is ready: what passes from now
        // on is enough.
        let socket = self.framed.get_ref();
        let followed = self
            .filter
            .follow(interest, |program| socket.set_filter(program));
        self.capabilities.narrowing = self.filter.narrowing();
        self.sequence.all_passes(self.filter.passes_all());
        if let Err(error) = followed {
            let action = "widen the filter of the proc connector";
            return Poll::Ready(Err(SourceError::io(action, error)));
        }
        self.poll_listen(cx).map_err(SourceError::from)
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        if let Listening::Asked(_) = self.listening {
            // The answer to LISTEN is poll_interest's to read.
            return Poll::Pending;
        }
        if !self.early.is_empty() {
            facts.append(&mut self.early);
            return Poll::Ready(Ok(()));
        }
        let full = facts.len() + BATCH_FACTS_MAX;
        let empty = facts.len();
        let mut useless = 0;
        while facts.len() < full && useless < USELESS_MESSAGES_MAX {
            match self.poll_incoming(cx) {
                Poll::Ready(Ok(Incoming::Fact(fact))) => facts.push(fact),
                Poll::Ready(Ok(Incoming::Ack(_) | Incoming::Useless)) => useless += 1,
                // Reading fails again the next time, when nothing waits to be told.
                Poll::Ready(Err(_)) if facts.len() > empty => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if facts.len() > empty => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        if facts.len() > empty {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket().poll_due(cx)
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        facts.append(&mut self.early);
        let result = self.ignore();
        self.drain(|fact| facts.push(fact));
        result
    }

    fn stats(&self) -> SourceStats {
        let mut stats = self.socket().stats();
        stats.malformed += self.malformed;
        stats.unsent = self.unsent;
        stats
    }
}

impl Drop for ConnectorSource {
    fn drop(&mut self) {
        if let Listening::Not = self.listening {
            // The kernel frees what it keeps for a listener only when that is
            // closed as a member of the group (cn_release(), since Linux 6.6).
            let _joined = self.socket().join();
        } else {
            // Without IGNORE the kernel would count us as a listener for ever.
            let _ignored = self.send_ignore();
        }
    }
}

impl fmt::Debug for ConnectorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorSource")
            .field("listening", &matches!(self.listening, Listening::Confirmed))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
