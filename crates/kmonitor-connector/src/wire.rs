//! Layout and numbers of the proc connector's messages, and the requests to it.
//!
//! From `linux/netlink.h`, `linux/connector.h` and `linux/cn_proc.h`. Everything
//! is in host byte order and 4-aligned only: bytes are copied out, never cast.

/// `NETLINK_CONNECTOR`.
pub(crate) const PROTOCOL: isize = 11;
/// `CN_IDX_PROC`: the connector's number and its multicast group.
pub(crate) const CN_IDX_PROC: u32 = 1;
/// `CN_VAL_PROC`.
pub(crate) const CN_VAL_PROC: u32 = 1;

/// `struct nlmsghdr`.
pub(crate) const NLMSG_HEADER_BYTES: usize = 16;
/// `struct cn_msg` without its payload.
pub(crate) const CN_HEADER_BYTES: usize = 20;
/// `struct proc_event` up to `event_data`: what, cpu, timestamp.
pub(crate) const EVENT_HEADER_BYTES: usize = 16;

/// `NLMSG_NOOP`.
pub(crate) const NLMSG_NOOP: u16 = 1;
/// `NLMSG_DONE`: the type of every connector message, in both directions.
pub(crate) const NLMSG_DONE: u16 = 3;

/// `PROC_EVENT_NONE`: the answer to a request.
pub(crate) const NONE: u32 = 0;
/// `PROC_EVENT_FORK`.
pub(crate) const FORK: u32 = 0x1;
/// `PROC_EVENT_EXEC`.
pub(crate) const EXEC: u32 = 0x2;
/// `PROC_EVENT_UID`.
pub(crate) const UID: u32 = 0x4;
/// `PROC_EVENT_GID`.
pub(crate) const GID: u32 = 0x40;
/// `PROC_EVENT_SID`.
pub(crate) const SID: u32 = 0x80;
/// `PROC_EVENT_PTRACE`.
pub(crate) const PTRACE: u32 = 0x100;
/// `PROC_EVENT_COMM`.
pub(crate) const COMM: u32 = 0x200;
/// `PROC_EVENT_COREDUMP`.
pub(crate) const COREDUMP: u32 = 0x4000_0000;
/// `PROC_EVENT_EXIT`.
pub(crate) const EXIT: u32 = 0x8000_0000;

/// `enum proc_cn_mcast_op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// `PROC_CN_MCAST_LISTEN`: send us events.
    Listen,
    /// `PROC_CN_MCAST_IGNORE`: do not any more.
    Ignore,
}

/// A request with its headers.
pub(crate) const REQUEST_BYTES: usize = NLMSG_HEADER_BYTES + CN_HEADER_BYTES + 4;

impl Request {
    /// The datagram that asks for it. The kernel answers with `ack` + 1.
    ///
    /// The payload is the operation alone, without the event mask that Linux 6.6
    /// added: older kernels drop longer requests silently, and a listener with a
    /// mask never gets its answer.
    pub(crate) fn encode(self, port: u32, ack: u32) -> [u8; REQUEST_BYTES] {
        let operation: u32 = match self {
            Self::Listen => 1,
            Self::Ignore => 2,
        };
        let mut bytes = [0; REQUEST_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&(REQUEST_BYTES as u32).to_ne_bytes());
        put(&NLMSG_DONE.to_ne_bytes());
        put(&0u16.to_ne_bytes()); // nlmsg_flags
        put(&0u32.to_ne_bytes()); // nlmsg_seq
        put(&port.to_ne_bytes());
        put(&CN_IDX_PROC.to_ne_bytes());
        put(&CN_VAL_PROC.to_ne_bytes());
        put(&0u32.to_ne_bytes()); // seq: the kernel's answer carries its own
        put(&ack.to_ne_bytes());
        put(&4u16.to_ne_bytes()); // len
        put(&0u16.to_ne_bytes()); // flags
        put(&operation.to_ne_bytes());
        bytes
    }
}

/// The length of an aligned message: `NLMSG_ALIGN`.
pub(crate) const fn align(bytes: usize) -> usize {
    bytes.saturating_add(3) & !3
}

/// The 32-bit word at a byte offset, where the bytes reach that far.
#[inline]
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*field))
}

/// The 16-bit word at a byte offset, where the bytes reach that far.
#[inline]
pub(crate) fn half_word(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = Request::Ignore.encode(0x1234, 0xdead_beef);
        let words: Vec<u32> = (0..10).map(|n| word(&bytes, n * 4).unwrap()).collect();
        assert_eq!(words[0], 40);
        assert_eq!(half_word(&bytes, 4), Some(3));
        assert_eq!(words[3], 0x1234);
        assert_eq!(words[4..8], [1, 1, 0, 0xdead_beef]);
        assert_eq!(half_word(&bytes, 32), Some(4));
        assert_eq!(words[9], 2);
        assert_eq!(word(&Request::Listen.encode(0, 0), 36), Some(1));
    }

    #[test]
    fn words_beyond_the_end_are_not_there() {
        assert_eq!(word(&[0; 7], 4), None);
        assert_eq!(word(&[0; 7], 3), Some(0));
        assert_eq!(word(&[], usize::MAX), None);
        assert_eq!(align(77), 80);
        assert_eq!(align(usize::MAX), usize::MAX & !3);
    }
}
