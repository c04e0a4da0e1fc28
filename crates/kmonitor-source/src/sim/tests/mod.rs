//! The rules of the simulated kernel, one test per hazard.

use std::task::{Context, Poll, Waker};

use kmonitor_event::{EventMask, Pid, ProcessKey, Tid};

use super::{SimConfig, SimKernel, SimSource};
use crate::{EventSource, Fact, FactKind, Identity, KernelInterest};

mod hazards;
mod loss;
mod named;
mod probing;
mod random;

fn everything() -> KernelInterest {
    let mut interest = KernelInterest::new();
    interest.set_host(EventMask::all());
    interest
}

fn set_interest(source: &mut SimSource, interest: &KernelInterest) {
    let mut cx = Context::from_waker(Waker::noop());
    let polled = source.poll_interest(&mut cx, interest);
    assert!(matches!(polled, Poll::Ready(Ok(()))), "{polled:?}");
}

/// A kernel, and a source that listens to everything.
fn listening(config: SimConfig) -> (SimKernel, SimSource) {
    let kernel = SimKernel::new(config);
    let mut source = kernel.source();
    set_interest(&mut source, &everything());
    (kernel, source)
}

/// All facts that are queued, batch by batch.
fn drain(source: &mut SimSource) -> Vec<Fact> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut facts = Vec::new();
    while let Poll::Ready(polled) = source.poll_batch(&mut cx, &mut facts) {
        polled.unwrap();
    }
    facts
}

fn kinds(source: &mut SimSource) -> Vec<FactKind> {
    drain(source).into_iter().map(|fact| fact.kind).collect()
}

fn exited(process: Pid, tid: Tid, code: i32) -> FactKind {
    FactKind::TaskExited {
        process,
        tid,
        code,
        parent: None,
    }
}

/// The same without parents, which most tests do not care for.
fn without_parents(kinds: Vec<FactKind>) -> Vec<FactKind> {
    let strip = |kind| match kind {
        FactKind::TaskExited {
            process, tid, code, ..
        } => exited(process, tid, code),
        other => other,
    };
    kinds.into_iter().map(strip).collect()
}

fn key(kernel: &SimKernel, pid: Pid) -> (ProcessKey, Option<Identity>) {
    let inode = kernel.inode(pid);
    let key = ProcessKey::new(pid, 1).with_inode(inode);
    (key, inode.map(Identity::Inode))
}
