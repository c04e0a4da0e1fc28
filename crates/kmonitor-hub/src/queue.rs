//! The queue between the dispatcher and one subscriber.
//!
//! The dispatcher pushes and never waits. The subscriber takes all that is there
//! at once, so both touch the lock once per batch or less. What does not fit is
//! counted; because a full queue stays full until everything is taken, the loss
//! always stands after the events that were queued before it: its true place.
//!
//! Who waits leaves its waker under the same lock, and whoever pushes takes it from
//! there: so a delivery is one lock and nothing else, and between the subscriber's
//! look and its waiting nothing can slip through.
//!
//! The first event lies beside the lock: of thousands of subscribers most have at
//! most one waiting, and then a delivery touches one place in memory and there is
//! no buffer to allocate.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use kmonitor_event::{Event, EventKind, LossOrigin, Lost, Resync, Timestamp};

use crate::sync::{self, Mutex, MutexGuard};

/// What a subscriber has taken besides the first. Boxed, because most of thousands
/// never have it.
pub(crate) type Taken = Option<Box<VecDeque<Event>>>;

/// Shared by the dispatcher and one subscriber.
///
/// All that a delivery and a wake-up need fills two lines of the cache.
#[repr(C, align(64))]
pub(crate) struct Queue {
    state: Mutex<State>,
    capacity: u32,
}

#[cfg(all(target_pointer_width = "64", not(kmonitor_loom)))]
const _: () = assert!(size_of::<Queue>() <= 128);

#[repr(C)]
struct State {
    /// Set while the subscriber waits.
    waker: Option<Waker>,
    first: Option<Event>,
    rest: Option<Box<Rest>>,
}

/// What came of a push.
#[must_use = "who waits is to be woken"]
pub(crate) struct Pushed {
    /// Whether the event is told, now or as part of a sum.
    pub(crate) told: bool,
    /// The subscriber, if it waited.
    pub(crate) waiting: Option<Waker>,
}

/// What a queue needs that ever held more than one event, or has ended.
#[derive(Default)]
struct Rest {
    /// What came after the first.
    more: Vec<Event>,
    losses: Option<Losses>,
    ended: bool,
}

/// What did not fit since the last take.
#[derive(Default)]
struct Losses {
    overflow: Option<(u64, Timestamp)>,
    /// A loss of the kernel's that found the queue full: it may not be dropped.
    kernel: Option<(Option<u64>, Timestamp)>,
    /// Nor may marks.
    marks: Option<Marks>,
}

/// The marks that found the queue full. They take turns, so the first and the last
/// stand for all that came between them.
struct Marks {
    first: Resync,
    last: Resync,
    /// Whether all of these ends were complete.
    complete: bool,
    time: Timestamp,
}

impl Marks {
    fn new(mark: Resync, time: Timestamp) -> Self {
        let mut marks = Self {
            first: mark,
            last: mark,
            complete: true,
            time,
        };
        marks.note(mark, time);
        marks
    }

    fn note(&mut self, mark: Resync, time: Timestamp) {
        self.last = mark;
        self.complete &= !matches!(mark, Resync::End { complete: false });
        self.time = time;
    }

    /// Those that stand before a loss of the kernel's, and those after it: what begins
    /// begins because of the loss.
    fn around_loss(&self) -> (Option<Resync>, [Option<Resync>; 2]) {
        let end = Some(Resync::End {
            complete: self.complete,
        });
        match (self.first, self.last) {
            (Resync::Begin, Resync::Begin) => (None, [Some(Resync::Begin), None]),
            (Resync::Begin, _) => (None, [Some(Resync::Begin), end]),
            (_, Resync::Begin) => (end, [Some(Resync::Begin), None]),
            _ => (None, [end, None]),
        }
    }
}

impl Losses {
    fn note(&mut self, event: &Event) {
        if let EventKind::Lost(Lost {
            origin: LossOrigin::Kernel,
            count,
            ..
        }) = event.kind
        {
            let sum = match self.kernel {
                Some((earlier, _)) => earlier.zip(count).map(|(a, b)| a.saturating_add(b)),
                None => count,
            };
            self.kernel = Some((sum, event.time));
        } else if let EventKind::Resync(mark) = event.kind {
            match &mut self.marks {
                Some(marks) => marks.note(mark, event.time),
                None => self.marks = Some(Marks::new(mark, event.time)),
            }
        } else {
            let (lost, since) = self.overflow.unwrap_or((0, event.time));
            self.overflow = Some((lost + 1, since));
        }
    }

    fn events(self) -> impl Iterator<Item = Event> {
        let event =
            |origin, count, time| Event::new(time, None, EventKind::Lost(Lost::new(origin, count)));
        let own = self.overflow;
        let own = own.map(move |(n, time)| event(LossOrigin::Subscription, Some(n), time));
        let kernel = self.kernel;
        let kernel = kernel.map(move |(n, time)| event(LossOrigin::Kernel, n, time));
        let (before, after) = self
            .marks
            .as_ref()
            .map(Marks::around_loss)
            .unwrap_or_default();
        let time = self
            .marks
            .as_ref()
            .map(|marks| marks.time)
            .unwrap_or_default();
        let mark = move |mark| Event::new(time, None, EventKind::Resync(mark));
        own.into_iter()
            .chain(before.map(mark))
            .chain(kernel)
            .chain(after.into_iter().flatten().map(mark))
    }
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waker: None,
                first: None,
                rest: None,
            }),
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX).max(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, or counts it as lost.
    pub(crate) fn push(&self, event: &Event) -> Pushed {
        let mut state = self.lock();
        Pushed {
            told: state.push(event, self.capacity as usize),
            waiting: state.waker.take(),
        }
    }

    /// Touches what a push will need, without the lock.
    pub(crate) fn warm(&self) {
        std::hint::black_box((sync::touch(&self.state), self.capacity));
    }

    /// No event will follow, unless [`reopen`](Self::reopen) is called.
    pub(crate) fn end(&self) {
        let waiting = {
            let mut state = self.lock();
            state.rest.get_or_insert_default().ended = true;
            state.waker.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Events may follow again.
    pub(crate) fn reopen(&self) {
        if let Some(rest) = &mut self.lock().rest {
            rest.ended = false;
        }
    }

    /// The first of what is there, and the others at the end of `rest`; `None`
    /// when nothing will follow any more.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, rest: &mut Taken) -> Poll<Option<Event>> {
        let mut state = self.lock();
        if let Some(taken) = state.take(rest) {
            return Poll::Ready(taken);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl State {
    /// Whether the event is told, now or as part of a sum.
    fn push(&mut self, event: &Event, capacity: usize) -> bool {
        if self.first.is_none() {
            self.first = Some(*event);
            return true;
        }
        let rest = self.rest.get_or_insert_default();
        if rest.more.len() + 1 < capacity {
            rest.more.push(*event);
            return true;
        }
        rest.losses.get_or_insert_default().note(event);
        match event.kind {
            EventKind::Lost(lost) => lost.origin == LossOrigin::Kernel,
            EventKind::Resync(_) => true,
            _ => false,
        }
    }

    fn take(&mut self, rest: &mut Taken) -> Option<Option<Event>> {
        let Some(first) = self.first.take() else {
            // Without a first there are no others.
            let ended = self.rest.as_ref().is_some_and(|rest| rest.ended);
            return ended.then_some(None);
        };
        if let Some(others) = &mut self.rest {
            // Copied, so that each side keeps to a buffer of its own: the one
            // that the dispatcher writes to stays in its cache.
            let losses = others.losses.take();
            let losses = losses.into_iter().flat_map(Losses::events);
            for event in others.more.drain(..).chain(losses) {
                rest.get_or_insert_default().push_back(event);
            }
        }
        Some(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    fn push(queue: &Queue, event: &Event) -> bool {
        queue.push(event).told
    }

    fn exec() -> Event {
        Event::new(Timestamp::default(), None, EventKind::Exec)
    }

    fn take(queue: &Queue) -> Vec<EventKind> {
        let mut rest = Taken::default();
        let waker = noop_waker();
        let first = queue.poll_take(&mut Context::from_waker(&waker), &mut rest);
        let Poll::Ready(Some(first)) = first else {
            panic!("nothing there");
        };
        let events = std::iter::once(first).chain(rest.into_iter().flat_map(|rest| *rest));
        events.map(|event| event.kind).collect()
    }

    #[test]
    fn a_loss_stands_after_what_was_queued_before_it() {
        let queue = Queue::new(2);
        for _ in 0..5 {
            push(&queue, &exec());
        }
        let lost = EventKind::Lost(Lost::new(LossOrigin::Subscription, Some(3)));
        assert_eq!(take(&queue), [EventKind::Exec, EventKind::Exec, lost]);
        push(&queue, &exec());
        assert_eq!(take(&queue), [EventKind::Exec]);
    }

    #[test]
    fn a_kernel_loss_is_never_dropped() {
        let queue = Queue::new(1);
        push(&queue, &exec());
        for count in [2, 3] {
            let lost = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(count)));
            assert!(push(&queue, &Event::new(Timestamp::default(), None, lost)));
        }
        let both = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(5)));
        assert_eq!(take(&queue), [EventKind::Exec, both]);
    }

    #[test]
    fn marks_are_never_dropped_and_stay_in_pairs() {
        let begin = Resync::Begin;
        let end = |complete| Resync::End { complete };
        let kernel = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(1)));
        let mark = EventKind::Resync;
        let cases: [(&[EventKind], &[EventKind]); 6] = [
            (&[kernel, mark(begin)], &[kernel, mark(begin)]),
            (
                &[kernel, mark(begin), mark(end(true))],
                &[kernel, mark(begin), mark(end(true))],
            ),
            (&[mark(end(true))], &[mark(end(true))]),
            (
                &[mark(end(true)), kernel, mark(begin)],
                &[mark(end(true)), kernel, mark(begin)],
            ),
            (
                &[mark(end(false)), kernel, mark(begin), mark(end(true))],
                &[kernel, mark(end(false))],
            ),
            (
                &[mark(begin), mark(end(false)), mark(begin)],
                &[mark(begin)],
            ),
        ];
        for (pushed, expected) in cases {
            let queue = Queue::new(1);
            push(&queue, &exec());
            for kind in pushed {
                assert!(push(&queue, &Event::new(Timestamp::default(), None, *kind)));
            }
            push(&queue, &exec());
            let told = take(&queue);
            let own = EventKind::Lost(Lost::new(LossOrigin::Subscription, Some(1)));
            assert_eq!(told[..2], [EventKind::Exec, own]);
            assert_eq!(told[2..], *expected);
        }
    }

    #[test]
    fn an_ended_queue_gives_what_it_holds_first() {
        let queue = Queue::new(4);
        push(&queue, &exec());
        queue.end();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut rest = Taken::default();
        let first = queue.poll_take(&mut cx, &mut rest);
        assert!(matches!(first, Poll::Ready(Some(_))) && rest.is_none());
        assert_eq!(queue.poll_take(&mut cx, &mut rest), Poll::Ready(None));
        queue.reopen();
        assert_eq!(queue.poll_take(&mut cx, &mut rest), Poll::Pending);
    }
}
