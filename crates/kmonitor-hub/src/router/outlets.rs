//! Where deliveries go: all that one needs of a subscription, side by side.

use std::sync::Arc;
use std::task::Waker;

use kmonitor_event::{Event, EventMask};

use crate::queue::Queue;

/// The outlets of all subscriptions, by slot. Small, because with many
/// subscriptions it is memory like this that a delivery has to wait for.
#[derive(Default)]
pub(super) struct Outlets {
    outlets: Vec<Outlet>,
    /// Who waited for what they got since the last wake-up.
    waiting: Vec<Waker>,
}

#[derive(Default)]
struct Outlet {
    /// `None` where the slot is free.
    queue: Option<Arc<Queue>>,
    /// The incarnation that has no other route than to here; 0, which none has, if
    /// there is no such.
    sole: u64,
    mask: EventMask,
}

impl Outlets {
    pub(super) fn open(&mut self, slot: u32, queue: Arc<Queue>, mask: EventMask) {
        let at = slot as usize;
        if at >= self.outlets.len() {
            self.outlets.resize_with(at + 1, Outlet::default);
        }
        self.outlets[at] = Outlet {
            queue: Some(queue),
            mask,
            ..Outlet::default()
        };
    }

    pub(super) fn close(&mut self, slot: u32) {
        self.outlets[slot as usize] = Outlet::default();
    }

    pub(super) fn queue(&self, slot: u32) -> Option<&Queue> {
        self.outlets.get(slot as usize)?.queue.as_deref()
    }

    pub(super) fn mask(&self, slot: u32) -> EventMask {
        self.outlets[slot as usize].mask
    }

    pub(super) fn set_mask(&mut self, slot: u32, mask: EventMask) {
        self.outlets[slot as usize].mask = mask;
    }

    /// Whether all that is told of this incarnation by name is told here.
    pub(super) fn is_sole(&self, slot: u32, incarnation: u64) -> bool {
        let outlet = self.outlets.get(slot as usize);
        outlet.is_some_and(|outlet| outlet.sole == incarnation)
    }

    pub(super) fn set_sole(&mut self, slot: u32, incarnation: u64) {
        self.outlets[slot as usize].sole = incarnation;
    }

    /// It has another route now, or none.
    pub(super) fn unset_sole(&mut self, slot: u32, incarnation: u64) {
        let outlet = &mut self.outlets[slot as usize];
        if outlet.sole == incarnation {
            outlet.sole = 0;
        }
    }

    /// Queues an event. Whether it fitted.
    pub(super) fn deliver(&mut self, slot: u32, event: &Event) -> bool {
        let Some(queue) = &self.outlets[slot as usize].queue else {
            return false;
        };
        let pushed = queue.push(event);
        self.waiting.extend(pushed.waiting);
        pushed.told
    }

    /// Queues for each subscription, by slot, what there is for it.
    pub(super) fn deliver_each(
        &mut self,
        mut events: impl FnMut(u32) -> Option<[Option<Event>; 2]>,
    ) {
        for (slot, outlet) in (0..).zip(&self.outlets) {
            let Some(queue) = &outlet.queue else {
                continue;
            };
            for event in events(slot).into_iter().flatten().flatten() {
                self.waiting.extend(queue.push(&event).waiting);
            }
        }
    }

    /// Wakes all who waited for what they got since the last call.
    pub(super) fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// The queues of all subscriptions.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.outlets.iter().filter_map(|it| it.queue.as_deref())
    }
}
