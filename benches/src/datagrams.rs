//! Datagrams as the proc connector sends them, and the least that reads them.

use kmonitor_event::{Pid, Tid, Timestamp};
use kmonitor_source::{Fact, FactKind};

/// One event of the proc connector: `nlmsghdr`, `cn_msg`, `proc_event`.
pub const DATAGRAM_BYTES: usize = 76;

const FORK: u32 = 0x1;
const EXEC: u32 = 0x2;
const EXIT: u32 = 0x8000_0000;

/// The datagrams of so many short processes, a fork, an exec and an exit each,
/// one behind the other.
#[must_use]
pub fn lives(processes: i32) -> Vec<u8> {
    let shell = 1000;
    let mut bytes = Vec::new();
    for pid in (1001..).take(processes.unsigned_abs() as usize) {
        let seq = bytes.len() as u32;
        bytes.extend(datagram(FORK, seq, [shell, shell, pid, pid, 0, 0]));
        bytes.extend(datagram(EXEC, seq + 1, [pid, pid, 0, 0, 0, 0]));
        bytes.extend(datagram(EXIT, seq + 2, [pid, pid, 0x100, 17, shell, shell]));
    }
    bytes
}

fn datagram(what: u32, seq: u32, data: [i32; 6]) -> [u8; DATAGRAM_BYTES] {
    let mut bytes = [0; DATAGRAM_BYTES];
    let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(0, DATAGRAM_BYTES as u32);
    put(4, 3); // nlmsg_type NLMSG_DONE, nlmsg_flags 0
    put(8, seq);
    put(16, 1); // CN_IDX_PROC
    put(20, 1); // CN_VAL_PROC
    put(24, seq);
    put(32, 40); // len, flags 0
    put(36, what);
    put(44, seq.wrapping_mul(14_000));
    for (index, word) in data.into_iter().enumerate() {
        put(52 + 4 * index, word.cast_unsigned());
    }
    bytes
}

/// The least that turns a datagram into a fact: fields at their fixed places and
/// one check of the length, believing everything else. What a careful decoder is
/// compared with; it must never see what the kernel did not send.
#[must_use]
#[inline]
pub fn read_bare(datagram: &[u8]) -> Option<Fact> {
    let bytes = datagram.first_chunk::<DATAGRAM_BYTES>()?;
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let pid = |at: usize| Pid::new(word(at).cast_signed());
    let tid = |at: usize| Tid::new(word(at).cast_signed());
    let low = u64::from(word(44));
    let high = u64::from(word(48));
    let (low, high) = if cfg!(target_endian = "little") {
        (low, high)
    } else {
        (high, low)
    };
    let time = Timestamp::from_nanos(high << 32 | low);
    let kind = match word(36) {
        FORK => FactKind::Forked {
            parent: pid(56),
            child: pid(64)?,
        },
        EXEC => FactKind::Execed { process: pid(56)? },
        EXIT => FactKind::TaskExited {
            process: pid(56)?,
            tid: tid(52)?,
            code: word(60).cast_signed(),
            parent: pid(72),
        },
        _ => return None,
    };
    Some(Fact::new(time, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_connector::{Message, decode};

    #[test]
    fn both_decoders_read_the_same() {
        let bytes = lives(10);
        let careful: Vec<Fact> = decode(&bytes)
            .map(|message| match message {
                Ok(Message::Fact(fact)) => fact,
                other => panic!("no fact: {other:?}"),
            })
            .collect();
        let bare: Option<Vec<Fact>> = bytes.chunks(DATAGRAM_BYTES).map(read_bare).collect();
        assert_eq!(careful, bare.unwrap());
        assert_eq!(careful.len(), 30);
    }
}
