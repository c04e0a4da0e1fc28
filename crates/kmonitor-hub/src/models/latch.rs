//! The end of one process, told to whom waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use kmonitor_event::{Exit, Status, StatusSource, Timestamp, UnknownReason};
use loom::future::block_on;

use super::{model, process};
use crate::latch::{Latch, Stage};
use crate::router::Router;
use crate::tracker::Sink as _;

fn exit(status: Status) -> Exit {
    Exit::new(process(), status, Timestamp::default())
}

fn known() -> Status {
    Status::from_raw(7 << 8, StatusSource::Event)
}

/// A router that knows so many watches of the process.
fn watched<const N: usize>() -> (Router, [Arc<Latch>; N]) {
    let mut router = Router::default();
    let latches = [(); N].map(|()| Arc::new(Latch::default()));
    for latch in &latches {
        router.add_watch(process(), Arc::clone(latch));
    }
    (router, latches)
}

fn died(stage: &Stage) -> bool {
    !matches!(stage, Stage::Alive)
}

fn settled(stage: &Stage) -> bool {
    matches!(stage, Stage::Settled(_) | Stage::Closed(_))
}

fn wait(latch: &Latch, reached: fn(&Stage) -> bool) -> Stage {
    block_on(poll_fn(|cx| latch.poll(cx, reached)))
}

#[test]
fn death_and_status_reach_who_waits_for_each() {
    model(|| {
        let (mut router, [latch]) = watched();
        let dispatcher = loom::thread::spawn(move || {
            router.dead(&exit(Status::Pending));
            router.ended(&exit(known()));
        });
        assert!(died(&wait(&latch, died)));
        let end = wait(&latch, settled);
        assert!(
            matches!(end, Stage::Settled(it) if it.status == known()),
            "{end:?}"
        );
        dispatcher.join().unwrap();
    });
}

#[test]
fn each_watch_of_a_process_is_told() {
    model(|| {
        let (mut router, [first, second]) = watched();
        let other = loom::thread::spawn(move || wait(&first, settled));
        let dispatcher = loom::thread::spawn(move || router.ended(&exit(known())));
        for end in [wait(&second, settled), other.join().unwrap()] {
            assert!(
                matches!(end, Stage::Settled(it) if it.status == known()),
                "{end:?}"
            );
        }
        dispatcher.join().unwrap();
    });
}

/// A wait that was given up leaves its waker behind, and the next brings its own.
#[test]
fn a_wait_that_is_given_up_does_not_keep_the_next_from_being_woken() {
    model(|| {
        let (mut router, [latch]) = watched();
        let dispatcher = loom::thread::spawn(move || router.ended(&exit(known())));
        block_on(poll_fn(|cx| {
            Poll::Ready(latch.poll(cx, settled).is_ready())
        }));
        let end = wait(&latch, settled);
        assert!(matches!(end, Stage::Settled(_)), "{end:?}");
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_hub_that_closes_tells_who_waits() {
    model(|| {
        let (mut router, [latch]) = watched();
        let dispatcher = loom::thread::spawn(move || router.close("over"));
        let end = wait(&latch, settled);
        assert!(
            matches!(&end, Stage::Closed(reason) if reason == "over"),
            "{end:?}"
        );
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_death_that_was_told_stays_told_when_the_hub_closes() {
    model(|| {
        let (mut router, [latch]) = watched();
        let dispatcher = loom::thread::spawn(move || {
            router.dead(&exit(Status::Pending));
            router.close("over");
        });
        let end = wait(&latch, died);
        assert!(!matches!(end, Stage::Closed(_)), "{end:?}");
        let end = wait(&latch, settled);
        let status = Status::Unknown(UnknownReason::NotReaped);
        assert!(
            matches!(end, Stage::Settled(it) if it.status == status),
            "{end:?}"
        );
        dispatcher.join().unwrap();
    });
}
