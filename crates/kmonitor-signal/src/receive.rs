//! The receiving side: monitor signals as a stream.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use kmonitor_event::{EventMask, Pid};
use tokio::io::unix::AsyncFd;

use crate::registry::SEVEN;
use crate::{Signal, procfs, sys};

/// `struct signalfd_siginfo` (`signalfd(2)`) and where its fields lie.
const RECORD_BYTES: usize = 128;
const CODE_AT: usize = 8;
const PID_AT: usize = 12;
const UID_AT: usize = 16;
const INT_AT: usize = 44;

/// How many signals one read takes at most.
const RECORDS_PER_READ: usize = 64;

/// An event that this process was told of by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MonitorSignal {
    /// Whom it concerns: of a fork or a new thread the new one, which in case
    /// of a thread is its tid. It may have ended since.
    pub pid: Pid,
    /// The real uid of that one.
    pub uid: u32,
    /// The event: a single bit.
    pub event: EventMask,
    /// The signal that told of it.
    pub signal: Signal,
}

/// Why signals cannot be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// No signal was named.
    #[error("no signal to receive was named")]
    NoSignals,
    /// A thread would be ended, or interrupted, by the signal instead of this
    /// stream getting it.
    #[error(
        "{signal} is not blocked in thread {tid}; call `kmonitor_signal::block` first thing in \
         `main`, before any thread (also the runtime's) is started"
    )]
    NotBlocked {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: Signal,
    },
    /// A system call failed.
    #[error("failed to {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Blocks signals in the calling thread, and in all threads that it starts from
/// now on, so that they stay queued until somebody reads them.
///
/// Call it first thing in `main`, before a runtime starts its threads. Programs
/// started by `std::process::Command` do not inherit this.
///
/// # Errors
/// The system refused.
pub fn block(signals: impl IntoIterator<Item = Signal>) -> io::Result<()> {
    let signals: Vec<_> = signals.into_iter().collect();
    sys::block(&signals)
}

/// The signals by which this process is told of others' events, as a stream.
///
/// Built on `signalfd(2)`: each queued signal arrives, in order, with its pid,
/// uid and event. A signal handler that only notes that there was a signal, as
/// `signal-hook-tokio` and `tokio::signal` have, cannot do that: of 200 that were
/// queued, such a one reported 1.
///
/// The signals must be blocked in *every* thread, or the kernel gives them to one
/// that does not block them, which by default ends the process. So
/// [`block`] them in `main` before anything else:
///
/// ```
/// use kmonitor_event::{EventMask, Pid};
/// use kmonitor_hub::Hub;
/// use kmonitor_signal::{MonitorSignals, Signal, SignalAdapter, block};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let signal = Signal::realtime(1)?;
///     block([signal])?;
///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
///     runtime.block_on(async {
///         let mut signals = MonitorSignals::new([signal])?;
///         let mut child = std::process::Command::new("sleep").arg("0.1").spawn()?;
///         let target = Pid::try_from(child.id())?;
///
///         let hub = Hub::open().await?;
///         let adapter = SignalAdapter::new(&hub);
///         adapter.register(Pid::current(), target, EventMask::EXIT, signal).await?;
///
///         let told = signals.next().await?;
///         assert_eq!((told.pid, told.event), (target, EventMask::EXIT));
///         child.wait()?;
///         Ok(())
///     })
/// }
/// ```
///
/// Dropping it leaves the signals blocked.
///
/// # Minimum kernel version
/// 2.6.27 (`signalfd4`).
#[derive(Debug)]
pub struct MonitorSignals {
    fd: AsyncFd<OwnedFd>,
    taken: VecDeque<MonitorSignal>,
    strangers: u64,
}

impl MonitorSignals {
    /// Receives these signals from now on. Blocks them in the calling thread.
    ///
    /// # Errors
    /// One of them is not blocked in another thread of this process; none was
    /// named; or the system refused.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn new(signals: impl IntoIterator<Item = Signal>) -> Result<Self, ReceiveError> {
        let io = |action| move |source| ReceiveError::Io { action, source };
        let signals: Vec<_> = signals.into_iter().collect();
        if signals.is_empty() {
            return Err(ReceiveError::NoSignals);
        }
        sys::block(&signals).map_err(io("block the signals"))?;
        for (tid, status) in procfs::own_threads().map_err(io("read /proc/self/task"))? {
            let open = |signal: &&Signal| status.blocked & (1 << (signal.as_raw() - 1)) == 0;
            if let Some(signal) = signals.iter().find(open) {
                return Err(ReceiveError::NotBlocked {
                    tid,
                    signal: *signal,
                });
            }
        }
        let fd = sys::signalfd(&signals).map_err(io("open a signalfd"))?;
        let fd = sys::register(fd).map_err(io("register the signalfd with the runtime"))?;
        Ok(Self {
            fd,
            taken: VecDeque::new(),
            strangers: 0,
        })
    }

    /// The next one.
    ///
    /// # Errors
    /// The runtime shuts down, or the system refused.
    ///
    /// # Cancel safety
    /// Dropping the future loses no signal.
    pub async fn next(&mut self) -> io::Result<MonitorSignal> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// How many of the signals that came were none of kmonitor's: sent by `kill`,
    /// say, or arrived without a siginfo because the queue was full.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<MonitorSignal>> {
        loop {
            if let Some(signal) = self.taken.pop_front() {
                return Poll::Ready(Ok(signal));
            }
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let mut bytes = [0_u8; RECORD_BYTES * RECORDS_PER_READ];
            let read = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut bytes[..])?));
            let length = match read {
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => continue,
            };
            let read = bytes.get(..length).unwrap_or_default();
            for record in read.chunks_exact(RECORD_BYTES) {
                match decode(record) {
                    Some(signal) => self.taken.push_back(signal),
                    None => self.strangers += 1,
                }
            }
        }
    }
}

/// Ends, with the error, only where the system refuses to give more.
impl Stream for MonitorSignals {
    type Item = io::Result<MonitorSignal>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx).map(Some)
    }
}

fn decode(record: &[u8]) -> Option<MonitorSignal> {
    let word = |at: usize| {
        let bytes = record.get(at..at + 4)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let event = EventMask::from_bits_retain(word(INT_AT)?.cast_unsigned());
    if word(CODE_AT)? != libc::SI_QUEUE || !SEVEN.contains(event) || event.bits().count_ones() != 1
    {
        return None;
    }
    Some(MonitorSignal {
        pid: Pid::new(word(PID_AT)?)?,
        uid: word(UID_AT)?.cast_unsigned(),
        event,
        signal: Signal::new(word(0)?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(signal: i32, code: i32, pid: i32, int: i32) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        for (at, word) in [
            (0, signal),
            (CODE_AT, code),
            (PID_AT, pid),
            (UID_AT, 7),
            (INT_AT, int),
        ] {
            record[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        record
    }

    #[test]
    fn only_queued_signals_with_one_known_bit_are_ours() {
        let ours = decode(&record(34, libc::SI_QUEUE, 5, 0x40)).unwrap();
        assert_eq!((ours.pid.as_raw(), ours.uid), (5, 7));
        assert_eq!((ours.event, ours.signal.as_raw()), (EventMask::EXIT, 34));
        for stranger in [
            record(34, libc::SI_USER, 5, 0x40),
            record(34, libc::SI_QUEUE, 0, 0x40),
            record(34, libc::SI_QUEUE, 5, 0x41),
            record(34, libc::SI_QUEUE, 5, 0),
            record(34, libc::SI_QUEUE, 5, 0x80),
            record(34, libc::SI_QUEUE, 5, -1),
            record(0, libc::SI_QUEUE, 5, 0x40),
        ] {
            assert_eq!(decode(&stranger), None);
        }
        assert_eq!(decode(&[1; 20]), None);
    }
}
