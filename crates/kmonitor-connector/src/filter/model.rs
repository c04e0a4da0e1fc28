//! What programs and selections mean, for tests and fuzzing: an interpreter of
//! classic BPF, and a model that knows nothing of it.

use libc::sock_filter;

use super::{Kinds, Selection};
use crate::wire;

/// What the kernel would do: how many bytes of a datagram are kept.
pub(crate) fn interpret(program: &[sock_filter], datagram: &[u8]) -> u32 {
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        match u32::from(code) {
            0x20 => {
                let start = k as usize;
                let Some(word) = datagram.get(start..).and_then(<[u8]>::first_chunk) else {
                    return 0;
                };
                accumulator = u32::from_be_bytes(*word);
            }
            0x15 => at += usize::from(if accumulator == k { jt } else { jf }),
            0x05 => at += k as usize,
            0x06 => return k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// What shall pass, said in another way.
pub(crate) fn passes(selection: &Selection, datagram: &[u8]) -> bool {
    let Some(what) = wire::word(datagram, 36) else {
        return false;
    };
    let kind = Kinds::only(what);
    if what == wire::NONE || selection.host.contains(kind) {
        return true;
    }
    let named = |at, pids: &[u32]| wire::word(datagram, at).is_some_and(|pid| pids.contains(&pid));
    selection.named.contains(kind)
        && if what == wire::FORK {
            // A datagram that ends before the child passes no further.
            named(56, &selection.parents) || named(64, &selection.pids)
        } else {
            named(56, &selection.pids)
        }
}
