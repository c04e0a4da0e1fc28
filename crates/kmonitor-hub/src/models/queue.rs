//! Events on their way to one subscriber.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::Stream as _;
use kmonitor_event::{Event, EventKind, LossOrigin, Lost, Timestamp};
use loom::future::block_on;

use super::{line, model, numbered, process, subscription};
use crate::command::{Follow, Sweep};
use crate::router::{Membership, Router};
use crate::subscription::Subscription;

/// One process, and none of its relatives.
const ALONE: Membership = Membership {
    follow: Follow::Nobody,
    forks_only: false,
    listed: false,
};

fn read_to_the_end(stream: &mut Subscription) -> Vec<Event> {
    block_on(async {
        let mut events = Vec::new();
        while let Some(event) = stream.next().await {
            events.push(event);
        }
        events
    })
}

fn number(event: &Event) -> u64 {
    event.time.as_nanos()
}

fn lost(event: &Event, origin: LossOrigin) -> Option<u64> {
    match event.kind {
        EventKind::Lost(lost) if lost.origin == origin => Some(lost.count.unwrap()),
        _ => None,
    }
}

/// Whoever waits is woken: were it not so, the checker would find nobody left that
/// can run.
#[test]
fn delivered_and_lost_make_what_was_sent_in_its_order() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 2);
        let dispatcher = loom::thread::spawn(move || {
            for batch in [&[1, 2, 3][..], &[4]] {
                for number in batch {
                    router.tell(id, &numbered(*number));
                }
                router.wake();
            }
            router.close("over");
            let counts = router.counts;
            (counts.delivered, counts.lost_by_subscriptions)
        });
        let events = read_to_the_end(&mut stream);
        let mut next = 1;
        let mut told_lost = 0;
        for (seq, event) in (0..).zip(&events) {
            assert_eq!(event.seq, seq);
            match lost(event, LossOrigin::Subscription) {
                Some(count) => {
                    next += count;
                    told_lost += count;
                }
                None => {
                    assert_eq!(number(event), next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, 5, "{events:?}");
        let told = next - 1 - told_lost;
        assert_eq!((told, told_lost), dispatcher.join().unwrap());
    });
}

/// A reader that gets one batch at a time, and one that is to wait for each.
#[test]
fn a_batch_wakes_who_waits_for_it() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 4);
        // Nothing ends this stream, so that nothing but the batches wakes it.
        let dispatcher = loom::thread::spawn(move || {
            for number in 1..=2 {
                router.tell(id, &numbered(number));
                router.wake();
            }
            router
        });
        for seq in 0..2 {
            let event = block_on(stream.next()).unwrap();
            assert_eq!((event.seq, number(&event)), (seq, seq + 1));
        }
        drop(dispatcher.join().unwrap());
    });
}

/// A wait that was given up leaves its waker behind, and the next brings its own.
#[test]
fn a_wait_that_is_given_up_does_not_keep_the_next_from_being_woken() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 4);
        let dispatcher = loom::thread::spawn(move || {
            router.tell(id, &numbered(1));
            router.wake();
            router
        });
        let glance = block_on(std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut stream).poll_next(cx))
        }));
        let event = match glance {
            Poll::Ready(event) => event,
            Poll::Pending => block_on(stream.next()),
        };
        assert_eq!(event.map(|it| number(&it)), Some(1));
        drop(dispatcher.join().unwrap());
    });
}

#[test]
fn a_kernels_loss_is_told_however_full_the_queue() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 1);
        let dispatcher = loom::thread::spawn(move || {
            router.tell(id, &numbered(1));
            for count in [2, 3] {
                let lost = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(count)));
                router.tell(id, &Event::new(Timestamp::default(), None, lost));
                router.wake();
            }
            router.close("over");
        });
        let events = read_to_the_end(&mut stream);
        let counted = events.iter().filter_map(|it| lost(it, LossOrigin::Kernel));
        assert_eq!(counted.sum::<u64>(), 5, "{events:?}");
        assert_eq!(events[0], numbered(1));
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_stream_that_ended_goes_on_with_the_next_process() {
    model(|| {
        let mut router = Router::default();
        let (line, _commands) = line();
        let sweep = Arc::new(Sweep::default());
        let (id, mut stream) = subscription(&mut router, &sweep, &line, 2);
        router.add_member(id, process(), ALONE);
        let dispatcher = loom::thread::spawn(move || {
            router.tell(id, &numbered(1));
            router.wake();
            router.remove_member(id, process());
            router.add_member(id, process(), ALONE);
            router
        });
        assert_eq!(block_on(stream.next()).map(|it| number(&it)), Some(1));
        // Its end in between may have been seen or not.
        let mut router = dispatcher.join().unwrap();
        let dispatcher = loom::thread::spawn(move || {
            router.tell(id, &numbered(2));
            router.wake();
            router.remove_member(id, process());
        });
        let events = read_to_the_end(&mut stream);
        assert_eq!(events.iter().map(number).collect::<Vec<_>>(), [2]);
        dispatcher.join().unwrap();
    });
}
