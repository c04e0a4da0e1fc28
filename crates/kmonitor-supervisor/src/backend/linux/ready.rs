//! Waiting until a child is ready.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Nothing in the system tells that somebody listens, so connecting is tried: so
/// long after the first try, and twice as long each time, up to the greatest. Only
/// until it worked once.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(5);
const CONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// One try.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// What is waited for.
#[derive(Debug)]
pub(super) enum Waiting {
    /// It is ready as it is.
    Nothing,
    Newline(pipe::Receiver),
    Connect(SocketAddr),
    Line(oneshot::Receiver<()>),
    /// It was ready, or can never be.
    Never,
}

impl Waiting {
    /// Returns when it is ready.
    ///
    /// # Cancel safety
    /// To be polled to its end, or dropped for good.
    pub(super) async fn ready(self) {
        let is_ready = match self {
            Self::Nothing => true,
            Self::Newline(receiver) => newline(&receiver).await,
            Self::Connect(address) => {
                connected(address).await;
                true
            }
            // An error: the stream has ended without it.
            Self::Line(seen) => seen.await.is_ok(),
            Self::Never => false,
        };
        if !is_ready {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a newline was written before the descriptor was closed.
async fn newline(receiver: &pipe::Receiver) -> bool {
    let mut bytes = [0; 64];
    loop {
        if receiver.readable().await.is_err() {
            return false;
        }
        match receiver.try_read(&mut bytes) {
            Ok(0) => return false,
            Ok(length) if bytes.iter().take(length).any(|byte| *byte == b'\n') => return true,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return false,
            _ => {}
        }
    }
}

async fn connected(address: SocketAddr) {
    let mut pause = CONNECT_PAUSE_MIN;
    while !accepts(address).await {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CONNECT_PAUSE_MAX);
    }
}

/// Whether somebody accepts connections there now.
pub(super) async fn accepts(address: SocketAddr) -> bool {
    let tried = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await;
    let Ok(Ok(stream)) = tried else { return false };
    // A socket that nobody listens on can be connected to itself, where the system
    // chose the very port as the connection's own.
    stream.local_addr().ok() != stream.peer_addr().ok()
}
