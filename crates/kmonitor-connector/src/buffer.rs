//! How much the kernel keeps for us, and how that grows after a loss.
//!
//! `SO_RCVBUF` is doubled by the kernel (`sock_setsockopt()`, `net/core/sock.c`),
//! and each of the connector's datagrams counts with all the memory that it takes,
//! some 830 bytes, not with its 76. The memory is taken only as it fills.

use std::io;
use std::os::fd::AsFd;

use kmonitor_source::QueueSize;
use rustix::io::Errno;
use rustix::net::sockopt;

/// What a queued event takes of the buffer: 832 bytes on 6.18, 256 events of the
/// 212 992 bytes that are usual.
const EVENT_MEMORY_BYTES: usize = 832;

/// The receive buffer of one socket.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// What was asked for last, before doubling.
    asked: usize,
    /// What it may grow to.
    max: usize,
    /// Whether the kernel gives what is asked for, whatever `net.core.rmem_max`.
    forced: bool,
    /// What the kernel gave, after doubling.
    granted: usize,
}

impl Buffer {
    /// Asks for a buffer of `bytes`, which may grow to `max`.
    pub(crate) fn new(socket: impl AsFd, bytes: usize, max: usize) -> io::Result<Self> {
        // What exceeds an int the system call could not even say.
        let bytes = bytes.min(i32::MAX as usize);
        let forced = match sockopt::set_socket_recv_buffer_size_force(&socket, bytes) {
            Ok(()) => true,
            Err(Errno::PERM | Errno::ACCESS | Errno::NOPROTOOPT) => {
                sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        let granted = sockopt::socket_recv_buffer_size(&socket)?;
        Ok(Self {
            asked: bytes,
            max: max.clamp(bytes, i32::MAX as usize),
            forced,
            granted,
        })
    }

    /// Asks for twice as much, after a loss. Whether there is more now.
    pub(crate) fn grow(&mut self, socket: impl AsFd) -> bool {
        let wanted = self.asked.max(1).saturating_mul(2).min(self.max);
        // Unprivileged it was given all that there is in the first place.
        if !self.forced || wanted <= self.asked {
            return false;
        }
        let set = sockopt::set_socket_recv_buffer_size_force(&socket, wanted);
        let granted = set.and_then(|()| sockopt::socket_recv_buffer_size(&socket));
        match granted {
            Ok(granted) => {
                tracing::info!(bytes = granted, "the proc connector's queue has grown");
                (self.asked, self.granted) = (wanted, granted);
                true
            }
            Err(error) => {
                // Privilege was given up meanwhile.
                tracing::debug!(%error, "the proc connector's queue cannot grow");
                self.forced = false;
                false
            }
        }
    }

    /// What there is room for.
    pub(crate) fn size(&self) -> QueueSize {
        // The kernel queues on until what is queued exceeds the buffer.
        let events = |bytes: usize| bytes / EVENT_MEMORY_BYTES + 1;
        let events_max = if self.forced {
            self.granted.max(self.max.saturating_mul(2))
        } else {
            self.granted
        };
        QueueSize::new(
            events(self.granted),
            events(events_max),
            self.granted / 2 < self.asked,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> std::os::fd::OwnedFd {
        let (family, kind) = (
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::DGRAM,
        );
        rustix::net::socket(family, kind, None).unwrap()
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN"]
    fn it_doubles_up_to_its_limit_and_no_further() {
        let socket = socket();
        let mut buffer = Buffer::new(&socket, 1 << 20, 3 << 20).unwrap();
        assert_eq!(buffer.granted, 2 << 20);
        assert_eq!(buffer.size().events, (2 << 20) / 832 + 1);
        assert_eq!(buffer.size().events_max, (6 << 20) / 832 + 1);
        assert!(!buffer.size().curtailed);
        assert!(buffer.grow(&socket));
        assert_eq!(buffer.granted, 4 << 20);
        assert!(buffer.grow(&socket));
        assert_eq!(sockopt::socket_recv_buffer_size(&socket).unwrap(), 6 << 20);
        assert!(!buffer.grow(&socket));
        assert_eq!(buffer.size().events, buffer.size().events_max);
    }

    #[test]
    fn who_may_not_force_it_is_told_what_he_got() {
        let socket = socket();
        let mut buffer = Buffer {
            asked: 8 << 20,
            max: 64 << 20,
            forced: false,
            granted: 212_992,
        };
        let size = buffer.size();
        assert_eq!((size.events, size.events_max), (257, 257));
        assert!(size.curtailed);
        assert!(!buffer.grow(&socket));
    }

    #[test]
    fn the_smallest_is_what_the_kernel_has_as_such() {
        let socket = socket();
        let buffer = Buffer::new(&socket, 0, 0).unwrap();
        assert!(buffer.granted > 0 && !buffer.size().curtailed);
        assert!(Buffer::new(&socket, usize::MAX, 0).is_ok());
    }
}
