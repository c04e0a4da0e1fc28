//! Asking the kernel to send events, and waiting for it to confirm.
//!
//! Only the answer proves that the kernel listened to us: in another pid or user
//! namespace the request is accepted and ignored, and events may flow all the
//! same, because somebody else asked for them.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kmonitor_source::SourceError;
use rustix::io::Errno;
use tokio::time::{Sleep, sleep};

use crate::socket::BatchSocket;
use crate::wire::Request;

/// How long a request that the kernel had no memory for is put off.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Whether the kernel sends us events.
pub(crate) enum Listening {
    /// It does not, and we are not in its multicast group.
    Not,
    /// It was asked to, or is about to be.
    Asked(Handshake),
    /// It confirmed.
    Confirmed,
}

/// A request that was not confirmed yet.
pub(crate) struct Handshake {
    /// The `ack` of the request that was sent last, if one was.
    pub(crate) nonce: Option<u32>,
    /// When to give up.
    pub(crate) deadline: Pin<Box<Sleep>>,
    /// Until when sending is put off.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Handshake {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            nonce: None,
            deadline: Box::pin(sleep(timeout)),
            pause: None,
        }
    }

    /// Sends LISTEN, unless that was done. Ready with the number that its answer
    /// carries.
    pub(crate) fn poll_sent(
        &mut self,
        cx: &mut Context<'_>,
        socket: &BatchSocket,
    ) -> Poll<Result<Option<u32>, ListenError>> {
        loop {
            if let Some(nonce) = self.nonce {
                return Poll::Ready(Ok(Some(nonce.wrapping_add(1))));
            }
            if let Some(pause) = &mut self.pause {
                if self.deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let nonce = random_nonce();
            match socket.request(Request::Listen, nonce) {
                Ok(()) => {
                    tracing::debug!(nonce, "sent LISTEN to the proc connector");
                    self.nonce = Some(nonce);
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => self.repeat(true),
                Err(error) => return Poll::Ready(Err(ListenError::Send(error.into()))),
            }
        }
    }

    /// Sends LISTEN once more; after a pause where the kernel was short of memory.
    pub(crate) fn repeat(&mut self, after_a_pause: bool) {
        self.nonce = None;
        self.pause = after_a_pause.then(|| Box::pin(sleep(SEND_AGAIN_AFTER)));
    }
}

/// A number that no other listener's request is likely to have. Answers go to
/// every listener of the host, and are told apart by it.
pub(crate) fn random_nonce() -> u32 {
    // Seeded by the system's random numbers, and different on each call.
    let random = RandomState::new().build_hasher().finish();
    (random >> 32) as u32
}

/// Why the kernel does not send us events.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// The multicast group may not be joined.
    Join(io::Error),
    /// The request could not be sent.
    Send(io::Error),
    /// The kernel answered with an error.
    Refused(io::Error),
    /// The kernel did not answer.
    NoAnswer(Duration),
    /// The socket cannot be read.
    Receive(SourceError),
}

impl From<ListenError> for SourceError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Join(source) => {
                Self::io("join the proc connector's multicast group", source)
            }
            ListenError::Send(source) => Self::io("send LISTEN to the proc connector", source),
            ListenError::Refused(source) => {
                Self::io("make the proc connector listen to LISTEN", source)
            }
            ListenError::NoAnswer(waited) => Self::NoAnswer {
                request: "LISTEN",
                waited,
            },
            ListenError::Receive(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ() {
        let nonces: std::collections::BTreeSet<u32> = (0..64).map(|_| random_nonce()).collect();
        assert!(nonces.len() > 60);
    }
}
