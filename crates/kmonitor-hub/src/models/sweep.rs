//! What is dropped while the dispatcher works, or goes to sleep.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::Stream as _;
use kmonitor_source::Identity;
use loom::future::block_on;

use super::{line, model, numbered, process, subscription};
use crate::command::{Dropped, Sweep, WatchLease};
use crate::latch::Latch;
use crate::router::Router;

/// As the dispatcher does in each turn.
fn sweep_up(router: &mut Router, sweep: &Sweep) {
    for dropped in sweep.take() {
        match dropped {
            Dropped::Subscription(id) => router.remove(id),
            Dropped::Watch(key, latch) => router.remove_watch(key, &latch),
        }
    }
}

#[test]
fn what_two_threads_drop_at_once_is_swept_up() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (_, stream) = subscription(&mut router, &sweep, &line, 1);
        let latch = Arc::new(Latch::default());
        router.add_watch(process(), Arc::clone(&latch));
        let watch = WatchLease {
            key: process(),
            identity: Identity::StartTime(1),
            latch: Arc::clone(&latch),
            held: None,
            sweep: Arc::clone(&sweep),
        };
        let droppers = [
            loom::thread::spawn(move || drop(stream)),
            loom::thread::spawn(move || drop(watch)),
        ];
        // Busy with something else at first, and swept up in passing.
        sweep_up(&mut router, &sweep);
        while router.subscription_count() + router.watch_count() > 0 {
            block_on(sweep.notified());
            sweep_up(&mut router, &sweep);
        }
        for dropper in droppers {
            dropper.join().unwrap();
        }
        assert_eq!(Arc::strong_count(&latch), 1);
    });
}

/// Dropped by a reader that has just begun to wait.
#[test]
fn a_subscription_dropped_under_a_delivery_leaves_nothing() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 1);
        let reader = loom::thread::spawn(move || {
            block_on(std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut stream).poll_next(cx).is_ready())
            }))
        });
        for number in 1..=2 {
            router.tell(id, &numbered(number));
        }
        router.wake();
        while router.contains(id) {
            block_on(sweep.notified());
            sweep_up(&mut router, &sweep);
        }
        router.wake();
        assert_eq!(router.subscription_count(), 0);
        reader.join().unwrap();
    });
}
