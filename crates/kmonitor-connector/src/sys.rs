//! What no safe crate offers: `recvmmsg(2)`, `getsockopt(SO_MEMINFO)`, filters on
//! sockets, and giving descriptors to tokio. Nothing is decided here.

use std::array;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the current runtime's reactor watch a non-blocking descriptor for something
/// to read.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always names the same descriptor, and closes it
    // only when it is dropped, which the `AsyncFd` that owns it does after it has
    // taken it out of the runtime. Nobody swaps it out.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}

/// How many datagrams one call can fetch.
pub(crate) const DATAGRAMS_MAX: usize = 128;
/// How much of a datagram is fetched. The connector's have 76 bytes.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 128;

/// Buffers for the datagrams of one call, made once and used again and again.
pub(crate) struct Batch {
    bytes: Box<[[u8; DATAGRAM_BYTES_MAX]; DATAGRAMS_MAX]>,
    names: Box<[libc::sockaddr_nl; DATAGRAMS_MAX]>,
    headers: Headers,
    count: usize,
}

/// What tells the kernel where to put the datagrams. The pointers are written
/// anew for each call, and followed by nobody after it.
struct Headers {
    messages: Box<[libc::mmsghdr; DATAGRAMS_MAX]>,
    buffers: Box<[libc::iovec; DATAGRAMS_MAX]>,
}

// SAFETY: the pointers in it mean nothing between calls, and during one the
// `Batch` that they point into is borrowed by one thread.
unsafe impl Send for Headers {}

/// One datagram of a batch.
pub(crate) struct Datagram<'a> {
    /// Its content, or as much of it as there was room for.
    pub(crate) bytes: &'a [u8],
    /// Who sent it; 0 is the kernel.
    pub(crate) sender_port: u32,
    /// Whether it is longer than there was room for.
    pub(crate) truncated: bool,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Box::new([[0; DATAGRAM_BYTES_MAX]; DATAGRAMS_MAX]),
            names: Box::new(array::from_fn(|_| zeroed_name())),
            headers: Headers {
                messages: Box::new(array::from_fn(|_| zeroed_header())),
                buffers: Box::new(array::from_fn(|_| libc::iovec {
                    iov_base: ptr::null_mut(),
                    iov_len: 0,
                })),
            },
            count: 0,
        }
    }

    /// The datagrams of the last call.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let heads = self.headers.messages.iter().zip(self.names.iter());
        let filled = self.bytes.iter().zip(heads).take(self.count);
        filled.map(|(bytes, (message, name))| Datagram {
            bytes: &bytes[..(message.msg_len as usize).min(DATAGRAM_BYTES_MAX)],
            sender_port: name.nl_pid,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Fetches the datagrams that are queued, at most `limit`, without waiting.
    /// Returns how many there were, at least one.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let limit = limit.clamp(1, DATAGRAMS_MAX);
        self.count = 0;

        let Headers { messages, buffers } = &mut self.headers;
        let slots = self.bytes.iter_mut().zip(self.names.iter_mut());
        let slots = slots.zip(buffers.iter_mut()).zip(messages.iter_mut());
        for (((bytes, name), buffer), message) in slots.take(limit) {
            buffer.iov_base = bytes.as_mut_ptr().cast();
            buffer.iov_len = DATAGRAM_BYTES_MAX;
            message.msg_hdr.msg_name = ptr::from_mut(name).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            message.msg_hdr.msg_iov = buffer;
            message.msg_hdr.msg_iovlen = 1;
        }

        // SAFETY: the first `limit` headers point to one writable buffer and one
        // writable name each, of the lengths they say, no two to the same; `self`
        // owns them all and is borrowed until the call has returned.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                limit as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return Err(io::Error::last_os_error());
        };
        self.count = received.min(limit);
        Ok(self.count)
    }
}

fn zeroed_name() -> libc::sockaddr_nl {
    // SAFETY: a C struct of integers, for which all bits zero is a value.
    unsafe { mem::zeroed() }
}

fn zeroed_header() -> libc::mmsghdr {
    // SAFETY: a C struct of integers and raw pointers, for which all bits zero
    // is a value.
    unsafe { mem::zeroed() }
}

/// Makes the kernel queue only those datagrams that a classic BPF program lets pass,
/// or all of them again. Replaces what was there, atomically.
pub(crate) fn set_filter(
    socket: BorrowedFd<'_>,
    program: Option<&[libc::sock_filter]>,
) -> io::Result<()> {
    let Some(program) = program else {
        return match set_option(socket, libc::SO_DETACH_FILTER, &0i32) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        };
    };
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The kernel only reads what this points to, and copies it.
    let filter = program.as_ptr().cast_mut();
    set_option(
        socket,
        libc::SO_ATTACH_FILTER,
        &libc::sock_fprog { len, filter },
    )
}

fn set_option<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for the length that the call is told. Where it is
    // a program's description, that points to as many instructions as it says, whose
    // borrow outlives this call; the kernel keeps no pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The state of a socket's receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueState {
    /// How much memory the queued datagrams take, in bytes of the kernel's own
    /// accounting (`SK_MEMINFO_RMEM_ALLOC`).
    pub(crate) queued_bytes: u32,
    /// How many datagrams the kernel has dropped since the socket was made,
    /// modulo 2³² (`SK_MEMINFO_DROPS`).
    pub(crate) dropped: u32,
}

/// Asks for the state of the receive queue. Since Linux 4.12.
pub(crate) fn queue_state(socket: BorrowedFd<'_>) -> io::Result<QueueState> {
    let mut values = [0u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is writable for the `length` bytes that the call is told,
    // and `length` is writable; both are alive until it returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of_val(&values) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(QueueState {
        queued_bytes: values[libc::SK_MEMINFO_RMEM_ALLOC as usize],
        dropped: values[libc::SK_MEMINFO_DROPS as usize],
    })
}
