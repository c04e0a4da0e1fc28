//! Listening, losing, failing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use super::*;
use crate::{BATCH_FACTS_MAX, SourceError};

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn conserved(kernel: &SimKernel) {
    let counts = kernel.counts();
    assert_eq!(
        counts.sent,
        counts.delivered + counts.dropped + counts.queued + counts.discarded,
        "{counts:?}"
    );
}

#[test]
fn overflow_loses_until_drained_and_tells_the_exact_count_in_its_place() {
    let (kernel, mut source) = listening(SimConfig::default().queue_facts_max(2));
    let pids: Vec<_> = (0..5).map(|_| kernel.spawn().unwrap()).collect();
    conserved(&kernel);
    let facts = kinds(&mut source);
    assert_eq!(facts.len(), 3);
    assert!(matches!(facts[1], FactKind::Forked { child, .. } if child == pids[1]));
    assert_eq!(facts[2], FactKind::Lost { count: Some(3) });
    let next = kernel.spawn().unwrap();
    assert!(matches!(
        kinds(&mut source)[..],
        [FactKind::Forked { child, .. }] if child == next
    ));
    conserved(&kernel);
    assert_eq!(source.stats().dropped, 3);
    assert_eq!(source.stats().overflows, 1);
}

#[test]
fn a_forced_loss_takes_with_it_what_happens_before_the_next_read() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    drain(&mut source);
    assert!(kernel.lose(4));
    kernel.exit_group(pid.leader(), 0).unwrap();
    assert_eq!(kinds(&mut source), [FactKind::Lost { count: Some(5) }]);
    conserved(&kernel);
}

#[test]
fn a_loss_may_be_told_without_a_count() {
    let (kernel, mut source) = listening(SimConfig::default().count_losses(false));
    kernel.lose(4);
    assert_eq!(kinds(&mut source), [FactKind::Lost { count: None }]);
}

#[test]
fn without_interest_the_kernel_is_not_listened_to() {
    let kernel = SimKernel::with_seed(1);
    let mut source = kernel.source();
    kernel.spawn().unwrap();
    assert!(!kernel.listening());
    assert_eq!(kernel.interest_changes(), 0);
    assert_eq!(kernel.counts().sent, 0);
    set_interest(&mut source, &everything());
    kernel.spawn().unwrap();
    set_interest(&mut source, &KernelInterest::new());
    kernel.spawn().unwrap();
    assert!(!kernel.listening());
    assert_eq!(kernel.interest_changes(), 2);
    // What was queued before stays to be read.
    assert_eq!(drain(&mut source).len(), 1);
    assert_eq!(kernel.counts().sent, 1);
}

#[test]
fn a_batch_is_bounded() {
    let (kernel, mut source) = listening(SimConfig::default().queue_facts_max(10_000));
    for _ in 0..BATCH_FACTS_MAX + 1 {
        kernel.other(8, None);
    }
    let mut cx = Context::from_waker(Waker::noop());
    let mut facts = Vec::new();
    assert!(source.poll_batch(&mut cx, &mut facts).is_ready());
    assert_eq!(facts.len(), BATCH_FACTS_MAX);
    assert!(source.poll_batch(&mut cx, &mut facts).is_ready());
    assert_eq!(facts.len(), BATCH_FACTS_MAX + 1);
    assert!(source.poll_batch(&mut cx, &mut facts).is_pending());
}

#[test]
fn the_reader_is_woken_by_facts_losses_errors_and_the_end() {
    let (kernel, mut source) = listening(SimConfig::default());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut facts = Vec::new();
    let causes: [&dyn Fn(); 3] = [
        &|| kernel.other(8, None),
        &|| assert!(kernel.lose(1)),
        &|| kernel.end(),
    ];
    for (n, cause) in causes.iter().enumerate() {
        while source.poll_batch(&mut cx, &mut facts).is_ready() {}
        assert_eq!(wakes.0.load(Ordering::SeqCst), n);
        cause();
        assert_eq!(wakes.0.load(Ordering::SeqCst), n + 1);
    }
}

#[test]
fn an_error_comes_after_what_is_queued_and_then_it_has_ended() {
    let (kernel, mut source) = listening(SimConfig::default());
    kernel.other(8, None);
    let broken = std::io::Error::other("broken");
    kernel.break_source(SourceError::io("receive", broken));
    let mut cx = Context::from_waker(Waker::noop());
    let mut facts = Vec::new();
    let mut poll = || source.poll_batch(&mut cx, &mut facts);
    assert!(matches!(poll(), Poll::Ready(Ok(()))));
    assert!(matches!(poll(), Poll::Ready(Err(SourceError::Io { .. }))));
    for _ in 0..2 {
        assert!(matches!(poll(), Poll::Ready(Err(SourceError::Ended))));
    }
}

#[test]
fn an_interest_can_be_stalled_and_can_fail() {
    let kernel = SimKernel::with_seed(1);
    let mut source = kernel.source();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    kernel.stall_interest(true);
    assert!(source.poll_interest(&mut cx, &everything()).is_pending());
    assert!(!kernel.listening());
    kernel.fail_interest(SourceError::NoAnswer {
        request: "LISTEN",
        waited: Duration::from_secs(1),
    });
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    let failed = source.poll_interest(&mut cx, &everything());
    assert!(matches!(failed, Poll::Ready(Err(_))));
    assert!(!kernel.listening());
    assert!(source.poll_interest(&mut cx, &everything()).is_pending());
    kernel.stall_interest(false);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
    set_interest(&mut source, &everything());
    assert!(kernel.listening());
}

#[test]
fn closing_hands_out_what_was_queued_and_dropping_discards_it() {
    let (kernel, mut source) = listening(SimConfig::default().queue_facts_max(1));
    kernel.other(1, None);
    kernel.other(2, None);
    let mut facts = Vec::new();
    source.close(&mut facts).unwrap();
    assert_eq!(facts.len(), 2, "one, and the loss of the other");
    assert!(!kernel.listening());
    set_interest(&mut source, &everything());
    kernel.other(3, None);
    drop(source);
    assert!(!kernel.listening());
    assert_eq!(kernel.counts().discarded, 1);
    conserved(&kernel);
}

#[test]
fn a_second_source_replaces_the_first() {
    let (kernel, mut first) = listening(SimConfig::default());
    let mut second = kernel.source();
    let mut cx = Context::from_waker(Waker::noop());
    let mut facts = Vec::new();
    let ended = first.poll_batch(&mut cx, &mut facts);
    assert!(matches!(ended, Poll::Ready(Err(SourceError::Ended))));
    set_interest(&mut second, &everything());
    drop(first);
    assert!(kernel.listening(), "the first one has no say any more");
    kernel.other(1, None);
    assert_eq!(drain(&mut second).len(), 1);
}

#[test]
fn a_filter_keeps_unwanted_processes_out_until_the_host_is_wanted() {
    let kernel = SimKernel::new(SimConfig::default().filter(true));
    let mut source = kernel.source();
    let watched = kernel.spawn().unwrap();
    let other = kernel.spawn().unwrap();
    let (key, identity) = key(&kernel, watched);
    let mut interest = KernelInterest::new();
    interest.want(key, EventMask::EXIT, identity);
    set_interest(&mut source, &interest);
    let child = kernel.fork(watched).unwrap();
    kernel.kill(child, 9).unwrap();
    kernel.kill(other, 9).unwrap();
    kernel.kill(watched, 9).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [
            FactKind::Forked {
                parent: Some(watched),
                child
            },
            exited(watched, watched.leader(), 9)
        ]
    );
    interest.set_host(EventMask::EXIT);
    set_interest(&mut source, &interest);
    kernel.spawn().unwrap();
    assert_eq!(drain(&mut source).len(), 1);
}

#[test]
fn handles_go_where_they_are_needed() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    shared::<SimKernel>();
    shared::<crate::sim::SimProbe>();
    sent::<SimSource>();
}

/// Two threads: one runs the kernel, one reads and sleeps until woken.
#[tokio::test]
async fn a_reader_on_another_thread_gets_or_loses_every_fact() {
    let (kernel, mut source) = listening(SimConfig::default().seed(5).queue_facts_max(8));
    let running = std::thread::spawn({
        let kernel = kernel.clone();
        move || {
            kernel.run(5_000);
            kernel.settle();
            kernel.end();
        }
    });
    let mut facts = Vec::new();
    let ended = loop {
        let polled = std::future::poll_fn(|cx| source.poll_batch(cx, &mut facts)).await;
        if let Err(error) = polled {
            break error;
        }
    };
    running.join().unwrap();
    assert!(matches!(ended, SourceError::Ended));
    let told = |fact: &Fact| match fact.kind {
        FactKind::Lost { count } => count.unwrap_or_default(),
        _ => 1,
    };
    let told: u64 = facts.iter().map(told).sum();
    assert_eq!(told, kernel.counts().sent);
}
