//! The queue between the dispatcher and one subscriber.
//!
//! The dispatcher pushes and never waits. The subscriber takes all that is there
//! at once, so both touch the lock once per batch or less. What does not fit is
//! counted; because a full queue stays full until everything is taken, the loss
//! always stands after the events that were queued before it: its true place.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use kmonitor_event::{Event, EventKind, LossOrigin, Lost, Timestamp};

/// Shared by the dispatcher and one subscriber.
pub(crate) struct Queue {
    state: Mutex<State>,
    waker: AtomicWaker,
}

struct State {
    events: VecDeque<Event>,
    capacity: usize,
    /// What did not fit since the last take.
    overflow: Option<(u64, Timestamp)>,
    /// A loss of the kernel's that found the queue full: it may not be dropped.
    kernel_loss: Option<(Option<u64>, Timestamp)>,
    ended: bool,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                events: VecDeque::new(),
                capacity: capacity.max(1),
                overflow: None,
                kernel_loss: None,
                ended: false,
            }),
            waker: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, or counts it as lost. Whether it fitted.
    pub(crate) fn push(&self, event: &Event) -> bool {
        let mut state = self.lock();
        if state.events.len() < state.capacity {
            state.events.push_back(*event);
            return true;
        }
        if let EventKind::Lost(Lost {
            origin: LossOrigin::Kernel,
            count,
            ..
        }) = event.kind
        {
            let sum = match state.kernel_loss {
                Some((earlier, _)) => earlier.zip(count).map(|(a, b)| a.saturating_add(b)),
                None => count,
            };
            state.kernel_loss = Some((sum, event.time));
            return true;
        }
        let (lost, since) = state.overflow.unwrap_or((0, event.time));
        state.overflow = Some((lost + 1, since));
        false
    }

    /// Touches what a push will need, without the lock.
    pub(crate) fn warm(&self) {
        std::hint::black_box(self.state.is_poisoned());
    }

    /// Wakes the subscriber, once per batch.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// No event will follow, unless [`reopen`](Self::reopen) is called.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.wake();
    }

    /// Events may follow again.
    pub(crate) fn reopen(&self) {
        self.lock().ended = false;
    }

    /// Moves all that is there to the end of `events`, or says that there is
    /// nothing yet (pending) or any more (false).
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<Event>,
    ) -> Poll<bool> {
        if let Some(more) = self.take(events) {
            return Poll::Ready(more);
        }
        self.waker.register(cx.waker());
        // What was pushed between the first look and the registration.
        match self.take(events) {
            Some(more) => Poll::Ready(more),
            None => Poll::Pending,
        }
    }

    fn take(&self, events: &mut VecDeque<Event>) -> Option<bool> {
        let mut state = self.lock();
        // Copied, so that each side keeps to a buffer of its own: the one that
        // the dispatcher writes to stays in its cache.
        events.append(&mut state.events);
        if let Some((count, time)) = state.overflow.take() {
            let lost = Lost::new(LossOrigin::Subscription, Some(count));
            events.push_back(Event::new(time, None, EventKind::Lost(lost)));
        }
        if let Some((count, time)) = state.kernel_loss.take() {
            let lost = Lost::new(LossOrigin::Kernel, count);
            events.push_back(Event::new(time, None, EventKind::Lost(lost)));
        }
        if !events.is_empty() {
            return Some(true);
        }
        state.ended.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;

    fn exec() -> Event {
        Event::new(Timestamp::default(), None, EventKind::Exec)
    }

    fn take(queue: &Queue) -> Vec<EventKind> {
        let mut events = VecDeque::new();
        let waker = noop_waker();
        let _ = queue.poll_take(&mut Context::from_waker(&waker), &mut events);
        events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn a_loss_stands_after_what_was_queued_before_it() {
        let queue = Queue::new(2);
        for _ in 0..5 {
            queue.push(&exec());
        }
        let lost = EventKind::Lost(Lost::new(LossOrigin::Subscription, Some(3)));
        assert_eq!(take(&queue), [EventKind::Exec, EventKind::Exec, lost]);
        queue.push(&exec());
        assert_eq!(take(&queue), [EventKind::Exec]);
    }

    #[test]
    fn a_kernel_loss_is_never_dropped() {
        let queue = Queue::new(1);
        queue.push(&exec());
        for count in [2, 3] {
            let lost = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(count)));
            assert!(queue.push(&Event::new(Timestamp::default(), None, lost)));
        }
        let both = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(5)));
        assert_eq!(take(&queue), [EventKind::Exec, both]);
    }

    #[test]
    fn an_ended_queue_gives_what_it_holds_first() {
        let queue = Queue::new(4);
        queue.push(&exec());
        queue.end();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut events = VecDeque::new();
        assert_eq!(queue.poll_take(&mut cx, &mut events), Poll::Ready(true));
        events.clear();
        assert_eq!(queue.poll_take(&mut cx, &mut events), Poll::Ready(false));
        queue.reopen();
        assert_eq!(queue.poll_take(&mut cx, &mut events), Poll::Pending);
    }
}
