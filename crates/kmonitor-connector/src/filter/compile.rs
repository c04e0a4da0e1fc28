//! From what shall pass to a classic BPF program.
//!
//! ```text
//! A = what                        (byte 36)
//! for each kind that differs from unnamed ones:
//!     if A == kind: pass | reject | goto named | goto fork
//! pass | reject | goto named
//! fork:   A = parent's tgid       (byte 56)
//!         for each parent: if A == it: pass
//!         A = child's tgid        (byte 64)
//!         goto list
//! named:  A = tgid                (byte 56)
//! list:   for each pid: if A == it: pass
//! reject
//! ```
//!
//! A load beyond the end of a datagram rejects it; the kernel sends none so short.
//! Conditional jumps reach 255 instructions only, so a passing comparison steps onto
//! a `ret` of its own instead of jumping to one for all. `BPF_JA` reaches anywhere.

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use super::kinds::NAMED;
use super::{Kinds, Selection};
use crate::wire;

/// Where `what` stands in a datagram.
const WHAT: u32 = (wire::NLMSG_HEADER_BYTES + wire::CN_HEADER_BYTES) as u32;
/// Where the tgid stands: behind the pid, of the process or, for FORK, the parent.
const TGID: u32 = WHAT + wire::EVENT_HEADER_BYTES as u32 + 4;
/// Where the child's tgid stands in a FORK.
const CHILD_TGID: u32 = TGID + 8;

const PASS: u32 = u32::MAX;
const REJECT: u32 = 0;

/// What becomes of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Reject,
    /// Depends on whom it is about.
    Named,
    Fork,
}

/// A program that lets pass what `selection` says, and answers to requests.
pub(crate) fn compile(selection: &Selection) -> Vec<sock_filter> {
    let fate = |kind: Kinds| {
        if selection.host.contains(kind) {
            Fate::Pass
        } else if !selection.named.contains(kind) || selection.pids.is_empty() {
            Fate::Reject
        } else if kind == Kinds::FORK {
            Fate::Fork
        } else {
            Fate::Named
        }
    };
    let unnamed = fate(Kinds::OTHER);
    let mut fates = vec![(wire::NONE, Fate::Pass)];
    fates.extend(NAMED.map(|(what, _)| (what, fate(Kinds::only(what)))));
    fates.retain(|(_, fate)| *fate != unnamed);

    let fork_at = 1 + 2 * fates.len() + 1;
    let fork_instructions = 1 + 2 * selection.parents.len() + 2;
    let named_at = fork_at + fork_instructions;
    let mut program = Vec::with_capacity(named_at + 2 + 2 * selection.pids.len());
    program.push(load(WHAT));
    for (what, fate) in fates {
        program.push(unless_equal_skip_one(what));
        let here = program.len();
        program.push(act(fate, here, fork_at, named_at));
    }
    let here = program.len();
    program.push(act(unnamed, here, fork_at, named_at));
    if selection.pids.is_empty() {
        return program;
    }
    program.push(load(TGID));
    pass_if_any(&mut program, &selection.parents);
    program.push(load(CHILD_TGID));
    program.push(go(program.len(), named_at + 1));
    program.push(load(TGID));
    pass_if_any(&mut program, &selection.pids);
    program.push(ret(REJECT));
    program
}

fn act(fate: Fate, here: usize, fork_at: usize, named_at: usize) -> sock_filter {
    match fate {
        Fate::Pass => ret(PASS),
        Fate::Reject => ret(REJECT),
        Fate::Named => go(here, named_at),
        Fate::Fork => go(here, fork_at),
    }
}

fn pass_if_any(program: &mut Vec<sock_filter>, values: &[u32]) {
    for value in values {
        program.push(unless_equal_skip_one(*value));
        program.push(ret(PASS));
    }
}

fn load(at: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, at)
}

fn unless_equal_skip_one(value: u32) -> sock_filter {
    // Loads are big-endian, the kernel's messages in host order.
    let value = u32::from_be_bytes(value.to_ne_bytes());
    instruction(BPF_JMP | BPF_JEQ | BPF_K, 1, value)
}

/// At `here`, a jump to `there`, which lies behind it.
fn go(here: usize, there: usize) -> sock_filter {
    instruction(BPF_JMP | BPF_JA, 0, (there - here - 1) as u32)
}

fn ret(bytes: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, bytes)
}

fn instruction(code: u32, jf: u8, k: u32) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt: 0, jf, k }
}
