//! Opening the proc connector, and why it may not open.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use kmonitor_source::{SourceError, SourceKind, StartError, StartErrorKind};
use netlink_sys::Socket;
use rustix::io::Errno;

use crate::ConnectorSource;
use crate::buffer::Buffer;
use crate::listen::ListenError;
use crate::namespaces::Namespaces;
use crate::socket::BatchSocket;
use crate::wire;

/// At 50 000 events a second, which is all that a storm of forks makes on one
/// processor, these hold what comes in 1.6 s and in 6.4 s.
const RECEIVE_BUFFER_BYTES_DEFAULT: usize = 32 << 20;
const RECEIVE_BUFFER_BYTES_MAX_DEFAULT: usize = 128 << 20;
const ACK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const LATENCY_BUDGET_DEFAULT: Duration = Duration::from_millis(2);

/// Settings for opening a [`ConnectorSource`].
///
/// ```no_run
/// use std::time::Duration;
/// use kmonitor_connector::ConnectorSource;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kmonitor_source::StartError> {
/// let source = ConnectorSource::builder()
///     .receive_buffer_bytes(64 << 20)
///     .ack_timeout(Duration::from_millis(200))
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ConnectorBuilder {
    receive_buffer_bytes: usize,
    receive_buffer_bytes_max: usize,
    ack_timeout: Duration,
    latency_budget: Duration,
}

impl ConnectorBuilder {
    pub(crate) fn new() -> Self {
        Self {
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES_DEFAULT,
            receive_buffer_bytes_max: RECEIVE_BUFFER_BYTES_MAX_DEFAULT,
            ack_timeout: ACK_TIMEOUT_DEFAULT,
            latency_budget: LATENCY_BUDGET_DEFAULT,
        }
    }

    /// How many bytes to ask for as the kernel's queue to us (default: 32 MiB).
    ///
    /// The kernel doubles the number and then counts about 830 bytes an event, so
    /// 32 MiB hold some 80 000 events. The memory is taken only as it fills.
    ///
    /// Without `CAP_NET_ADMIN` it gives at most `net.core.rmem_max`, usually 212 992
    /// bytes, which hold about 512 events: 10 ms of a storm of forks. What was given
    /// stands in [`Capabilities::queue`](kmonitor_source::Capabilities::queue). See
    /// `SO_RCVBUF` and `SO_RCVBUFFORCE` in `socket(7)`.
    pub fn receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes = bytes;
        self
    }

    /// How many bytes the queue may grow to (default: 128 MiB, some 320 000 events).
    ///
    /// After each loss the buffer is doubled, up to this, where that is allowed
    /// (`CAP_NET_ADMIN`). At its limit, and full, it takes twice this of the kernel's
    /// memory. It never shrinks. Less than
    /// [`receive_buffer_bytes`](Self::receive_buffer_bytes): it does not grow.
    pub fn receive_buffer_bytes_max(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes_max = bytes;
        self
    }

    /// How long to wait for the kernel to confirm that it listens (default: 1 s).
    ///
    /// A kernel that confirms does so at once; the time counts only where it does
    /// not answer at all.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.ack_timeout = timeout;
        self
    }

    /// How long an event may wait to be read while many come (default: 2 ms).
    ///
    /// As long as they are few, each is read at once. From some 4 000 wake-ups a
    /// second on (16 in twice this budget) the reader is no longer woken by each
    /// event: it pauses for this long, reads all that has gathered, and goes on so
    /// until a pause gathers less than four. Zero: never pause.
    pub fn latency_budget(mut self, budget: Duration) -> Self {
        self.latency_budget = budget;
        self
    }

    /// Opens the proc connector, and proves that it works here: it makes the
    /// kernel listen, awaits the answer, and ends that again.
    ///
    /// # Errors
    /// It does not work here; [`StartError::kind`] says why.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened, and leaves nothing behind.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    ///
    /// # Minimum kernel version
    /// Linux 2.6.15; unprivileged since 6.6.
    pub async fn open(self) -> Result<ConnectorSource, StartError> {
        let mut socket = Socket::new(wire::PROTOCOL).map_err(no_socket)?;
        // The answer is the proof. /proc only names the cause, and before asking
        // rather than after: the kernel ignores requests from other pid and user
        // namespaces (cn_proc_mcast_ctl()), so there a second of waiting could
        // end in nothing else. Where /proc cannot tell, the wait decides.
        let namespaces = Namespaces::current();
        if let Namespaces::Other(kind) = namespaces {
            return Err(wrong_namespace(kind, None));
        }
        let (bytes, max) = (self.receive_buffer_bytes, self.receive_buffer_bytes_max);
        let buffer = Buffer::new(&socket, bytes, max).map_err(unexpected)?;
        socket.bind_auto().map_err(may_not_listen)?;
        let socket = BatchSocket::new(socket, buffer, self.latency_budget).map_err(unexpected)?;

        let mut source = ConnectorSource::new(socket, self.ack_timeout);
        let listened = poll_fn(|cx| source.poll_listen(cx)).await;
        listened.map_err(|error| cause(error, namespaces))?;
        source.stop().map_err(unusable)?;
        Ok(source)
    }
}

fn start_error(kind: StartErrorKind, message: impl Into<String>, cause: io::Error) -> StartError {
    StartError::new(SourceKind::Connector, kind, message, Some(cause))
}

fn no_socket(error: io::Error) -> StartError {
    match Errno::from_io_error(&error) {
        Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => start_error(
            StartErrorKind::Unsupported,
            "this kernel has no connector; it needs CONFIG_CONNECTOR=y and CONFIG_PROC_EVENTS=y",
            error,
        ),
        Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => start_error(
            StartErrorKind::Blocked,
            "a seccomp filter or a security module forbids netlink sockets; \
             allow socket(AF_NETLINK) in the container's or the service's profile",
            error,
        ),
        _ => start_error(StartErrorKind::Io, "cannot make a netlink socket", error),
    }
}

fn wrong_namespace(kind: StartErrorKind, error: Option<io::Error>) -> StartError {
    let message = match kind {
        StartErrorKind::PidNamespace => {
            "not in the initial pid namespace, the only one it serves; \
             run outside of the container, or with the host's pid namespace"
        }
        StartErrorKind::UserNamespace => {
            "not in the initial user namespace, the only one it serves; \
             run outside of the (rootless) container"
        }
        StartErrorKind::TimeNamespace => {
            "not in the initial time namespace, whose clock its reports are stamped with; \
             run outside of it"
        }
        _ => {
            "not in the initial network namespace, the only one it serves; \
             run with the host's network"
        }
    };
    StartError::new(SourceKind::Connector, kind, message, error)
}

fn may_not_listen(error: io::Error) -> StartError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => start_error(
            StartErrorKind::Denied,
            "not allowed to listen; before Linux 6.6 it needs CAP_NET_ADMIN (run as root)",
            error,
        ),
        _ => unexpected(error),
    }
}

fn unexpected(error: io::Error) -> StartError {
    let message = "the netlink socket cannot be set up";
    start_error(StartErrorKind::Io, message, error)
}

fn unusable(error: SourceError) -> StartError {
    match error {
        SourceError::Io { action, source } => {
            start_error(StartErrorKind::Io, format!("failed to {action}"), source)
        }
        error => start_error(
            StartErrorKind::Io,
            error.to_string(),
            io::Error::other(error),
        ),
    }
}

fn cause(error: ListenError, namespaces: Namespaces) -> StartError {
    match error {
        ListenError::Send(error) if Errno::from_io_error(&error) == Some(Errno::CONNREFUSED) => {
            wrong_namespace(StartErrorKind::NetworkNamespace, Some(error))
        }
        ListenError::Send(error) | ListenError::Join(error) | ListenError::Refused(error) => {
            may_not_listen(error)
        }
        ListenError::NoAnswer(waited) => {
            let (kind, reason) = match namespaces {
                // Nothing else makes a kernel silent to a listener that it serves.
                Namespaces::Initial => (
                    StartErrorKind::Unsupported,
                    "this kernel was built without CONFIG_PROC_EVENTS=y",
                ),
                Namespaces::Other(_) | Namespaces::Unknown => (
                    StartErrorKind::NoAnswer,
                    "this is not the initial pid and user namespace, \
                     or the kernel was built without CONFIG_PROC_EVENTS=y",
                ),
            };
            let message = format!("the kernel did not confirm LISTEN within {waited:?}: {reason}");
            StartError::new(SourceKind::Connector, kind, message, None)
        }
        ListenError::Receive(error) => unusable(error),
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
