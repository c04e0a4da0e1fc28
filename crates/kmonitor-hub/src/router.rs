//! Hands each event to those who want it, and to nobody else.
//!
//! An index by process leads to its subscriptions and watches, so an event that
//! nobody wants costs one look-up, and one that k want costs k, however many
//! subscriptions there are.

use std::sync::Arc;

use kmonitor_event::{Event, EventKind, EventMask, Exit, Lost, ProcessKey, Timestamp};
use kmonitor_source::Identity;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use crate::latch::Latch;
use crate::queue::Queue;
use crate::tracker::Sink;

/// A subscription's place in the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId {
    slot: usize,
    /// Tells it from the slot's later tenants.
    serial: u64,
}

/// How a process belongs to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Its children belong to it as well.
    pub(crate) follow: bool,
    /// Of its own events only its forks are delivered.
    pub(crate) forks_only: bool,
}

#[derive(Clone, Copy)]
struct Route {
    subscription: SubscriptionId,
    membership: Membership,
}

/// Who wants to know of one process.
#[derive(Default)]
struct Routes {
    subscriptions: SmallVec<[Route; 2]>,
    watches: SmallVec<[Arc<Latch>; 1]>,
}

impl Routes {
    fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.watches.is_empty()
    }
}

struct Subscription {
    serial: u64,
    queue: Arc<Queue>,
    mask: EventMask,
    host: bool,
    /// Whether it follows the children of any process.
    follows: bool,
    /// Whether it stays when its last process has gone.
    keep_open: bool,
    members: FxHashSet<ProcessKey>,
    touched: bool,
}

impl Subscription {
    /// Whether it has nothing left to wait for.
    fn is_bereft(&self) -> bool {
        self.members.is_empty() && !self.host && !self.keep_open
    }
}

/// The index, and the queues at its ends.
#[derive(Default)]
pub(crate) struct Router {
    subscriptions: Slab<Subscription>,
    index: FxHashMap<ProcessKey, Routes>,
    host: Vec<SubscriptionId>,
    trees: Vec<SubscriptionId>,
    next_serial: u64,
    /// What the host subscriptions want together.
    host_mask: EventMask,
    touched: Vec<SubscriptionId>,
    /// Processes whose last route is gone since they were last asked for.
    orphaned: Vec<ProcessKey>,
    reapings: Vec<(ProcessKey, Identity)>,
    watches: usize,
    pub(crate) counts: Counts,
}

/// What the router has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) delivered: u64,
    pub(crate) lost_by_subscriptions: u64,
    pub(crate) lost_by_kernel: u64,
    pub(crate) losses_uncounted: u64,
}

impl Router {
    /// A new subscription, which gets nothing yet.
    pub(crate) fn insert(
        &mut self,
        queue: Arc<Queue>,
        mask: EventMask,
        keep_open: bool,
    ) -> SubscriptionId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.subscriptions.insert(Subscription {
            serial,
            queue,
            mask,
            host: false,
            follows: false,
            keep_open,
            members: FxHashSet::default(),
            touched: false,
        });
        SubscriptionId { slot, serial }
    }

    /// Whether the subscription is still there.
    pub(crate) fn contains(&self, id: SubscriptionId) -> bool {
        let subscription = self.subscriptions.get(id.slot);
        subscription.is_some_and(|subscription| subscription.serial == id.serial)
    }

    /// Gives a subscription the events of every process.
    pub(crate) fn add_host(&mut self, id: SubscriptionId) {
        let subscription = &mut self.subscriptions[id.slot];
        if !subscription.host {
            subscription.host = true;
            self.host.push(id);
            self.update_host_mask();
        }
    }

    /// Gives a subscription the events of one process.
    pub(crate) fn add_member(
        &mut self,
        id: SubscriptionId,
        key: ProcessKey,
        membership: Membership,
    ) {
        let subscription = &mut self.subscriptions[id.slot];
        if membership.follow && !subscription.follows {
            subscription.follows = true;
            self.trees.push(id);
        }
        let routes = self.index.entry(key).or_default();
        if subscription.members.insert(key) {
            subscription.queue.reopen();
            routes.subscriptions.push(Route {
                subscription: id,
                membership,
            });
        } else if let Some(route) = routes
            .subscriptions
            .iter_mut()
            .find(|route| route.subscription == id)
        {
            route.membership.follow |= membership.follow;
            route.membership.forks_only &= membership.forks_only;
        }
    }

    /// Takes one process away from a subscription. Whether it had it.
    pub(crate) fn remove_member(&mut self, id: SubscriptionId, key: ProcessKey) -> bool {
        if !self.subscriptions[id.slot].members.remove(&key) {
            return false;
        }
        self.remove_route(key, id);
        self.end_if_bereft(id);
        true
    }

    pub(crate) fn members(&self, id: SubscriptionId) -> impl Iterator<Item = ProcessKey> + '_ {
        self.subscriptions[id.slot].members.iter().copied()
    }

    /// Whether a process belongs to a subscription.
    pub(crate) fn has_member(&self, id: SubscriptionId, key: ProcessKey) -> bool {
        self.contains(id) && self.subscriptions[id.slot].members.contains(&key)
    }

    /// Whether a process belongs to a subscription together with its children.
    pub(crate) fn follows_from(&self, id: SubscriptionId, key: ProcessKey) -> bool {
        let routes = self.index.get(&key).into_iter();
        let mut routes = routes.flat_map(|routes| &routes.subscriptions);
        routes.any(|route| route.subscription == id && route.membership.follow)
    }

    pub(crate) fn set_mask(&mut self, id: SubscriptionId, mask: EventMask) {
        self.subscriptions[id.slot].mask = mask;
        self.update_host_mask();
    }

    pub(crate) fn mask(&self, id: SubscriptionId) -> EventMask {
        self.subscriptions[id.slot].mask
    }

    pub(crate) fn follows(&self, id: SubscriptionId) -> bool {
        self.subscriptions[id.slot].follows
    }

    pub(crate) fn is_host(&self, id: SubscriptionId) -> bool {
        self.subscriptions[id.slot].host
    }

    /// Removes a subscription.
    pub(crate) fn remove(&mut self, id: SubscriptionId) {
        if !self.contains(id) {
            return;
        }
        let subscription = self.subscriptions.remove(id.slot);
        for key in subscription.members {
            self.remove_route(key, id);
        }
        self.host.retain(|host| *host != id);
        self.trees.retain(|tree| *tree != id);
        self.touched.retain(|touched| *touched != id);
        self.update_host_mask();
    }

    /// Touches what an event of a process will need: its first subscription.
    pub(crate) fn warm_routes(&self, key: ProcessKey) -> Option<SubscriptionId> {
        let routes = self.index.get(&key)?;
        routes.subscriptions.first().map(|route| route.subscription)
    }

    /// Touches what a delivery will need: the subscription, and its queue.
    pub(crate) fn warm_subscription(&self, id: SubscriptionId) -> &Queue {
        &self.subscriptions[id.slot].queue
    }

    pub(crate) fn add_watch(&mut self, key: ProcessKey, latch: Arc<Latch>) {
        self.index.entry(key).or_default().watches.push(latch);
        self.watches += 1;
    }

    pub(crate) fn remove_watch(&mut self, key: ProcessKey, latch: &Arc<Latch>) {
        let Some(routes) = self.index.get_mut(&key) else {
            return;
        };
        let before = routes.watches.len();
        routes.watches.retain(|other| !Arc::ptr_eq(other, latch));
        self.watches -= before - routes.watches.len();
        self.forget_if_empty(key);
    }

    /// Sends one event to one subscription, whatever its mask.
    pub(crate) fn tell(&mut self, id: SubscriptionId, event: &Event) {
        self.deliver(id, event);
    }

    /// Ends a subscription that has nothing left to wait for.
    pub(crate) fn end_if_bereft(&mut self, id: SubscriptionId) {
        let subscription = &self.subscriptions[id.slot];
        if subscription.is_bereft() {
            subscription.queue.end();
        }
    }

    /// Wakes all who got something since the last call.
    pub(crate) fn wake(&mut self) {
        for id in self.touched.drain(..) {
            let subscription = &mut self.subscriptions[id.slot];
            subscription.touched = false;
            subscription.queue.wake();
        }
    }

    /// Ends every stream and closes every watch.
    pub(crate) fn close(&mut self, reason: &str) {
        for (_, subscription) in &self.subscriptions {
            subscription.queue.end();
        }
        for routes in self.index.values() {
            for latch in &routes.watches {
                latch.close(reason);
            }
        }
    }

    /// What the subscriptions and watches want of one process by name.
    pub(crate) fn wanted_of(&self, key: ProcessKey) -> EventMask {
        let Some(routes) = self.index.get(&key) else {
            return EventMask::empty();
        };
        let watched = if routes.watches.is_empty() {
            EventMask::empty()
        } else {
            EventMask::EXIT
        };
        let routes = routes.subscriptions.iter();
        routes.fold(watched, |mask, route| {
            mask | self.subscriptions[route.subscription.slot].mask
        })
    }

    /// Whether anybody wants to know of this process in particular.
    pub(crate) fn routes_to(&self, key: ProcessKey) -> bool {
        self.index.contains_key(&key)
    }

    /// What the host subscriptions want; `None` if there are none.
    pub(crate) fn host_wants(&self) -> Option<EventMask> {
        (!self.host.is_empty()).then_some(self.host_mask)
    }

    /// What the subscriptions that follow trees want; `None` if there are none.
    pub(crate) fn trees_want(&self) -> Option<EventMask> {
        let trees = self.trees.iter().map(|id| &self.subscriptions[id.slot]);
        let masks = trees.filter(|it| !it.members.is_empty()).map(|it| it.mask);
        masks.reduce(|all, mask| all | mask)
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    pub(crate) fn watch_count(&self) -> usize {
        self.watches
    }

    /// The processes that lost their last route since the last call.
    pub(crate) fn take_orphaned(&mut self) -> Vec<ProcessKey> {
        std::mem::take(&mut self.orphaned)
    }

    /// The reapings to wait for since the last call.
    pub(crate) fn take_reapings(&mut self) -> Vec<(ProcessKey, Identity)> {
        std::mem::take(&mut self.reapings)
    }

    fn update_host_mask(&mut self) {
        let masks = self.host.iter().map(|id| self.subscriptions[id.slot].mask);
        self.host_mask = masks.fold(EventMask::empty(), |all, mask| all | mask);
    }

    fn remove_route(&mut self, key: ProcessKey, id: SubscriptionId) {
        if let Some(routes) = self.index.get_mut(&key) {
            routes
                .subscriptions
                .retain(|route| route.subscription != id);
            self.forget_if_empty(key);
        }
    }

    fn forget_if_empty(&mut self, key: ProcessKey) {
        if self.index.get(&key).is_some_and(Routes::is_empty) {
            self.index.remove(&key);
            self.orphaned.push(key);
        }
    }

    fn deliver(&mut self, id: SubscriptionId, event: &Event) {
        let subscription = &mut self.subscriptions[id.slot];
        if subscription.queue.push(event) {
            self.counts.delivered += 1;
        } else {
            self.counts.lost_by_subscriptions += 1;
        }
        if !subscription.touched {
            subscription.touched = true;
            self.touched.push(id);
        }
    }
}

impl Sink for Router {
    fn inherit(&mut self, parent: ProcessKey, child: ProcessKey) -> bool {
        let Some(routes) = self.index.get(&parent) else {
            return false;
        };
        let followers: SmallVec<[SubscriptionId; 4]> = routes
            .subscriptions
            .iter()
            .filter(|route| route.membership.follow)
            .map(|route| route.subscription)
            .collect();
        for id in &followers {
            let membership = Membership {
                follow: true,
                forks_only: false,
            };
            self.add_member(*id, child, membership);
        }
        !followers.is_empty()
    }

    fn event_by_name(&mut self, event: &Event) {
        let mask = event.kind.mask();
        if let Some(routes) = event.process.and_then(|key| self.index.get(&key)) {
            let is_fork = matches!(event.kind, EventKind::Fork { .. });
            let wanting: SmallVec<[SubscriptionId; 4]> = routes
                .subscriptions
                .iter()
                .filter(|route| is_fork || !route.membership.forks_only)
                .map(|route| route.subscription)
                .filter(|id| self.subscriptions[id.slot].mask.intersects(mask))
                .collect();
            for id in wanting {
                self.deliver(id, event);
            }
        }
    }

    fn event(&mut self, event: &Event) {
        self.counts.events += 1;
        self.event_by_name(event);
        let mask = event.kind.mask();
        if self.host_mask.intersects(mask) {
            for at in 0..self.host.len() {
                let id = self.host[at];
                if self.subscriptions[id.slot].mask.intersects(mask) {
                    self.deliver(id, event);
                }
            }
        }
    }

    fn dead(&mut self, exit: &Exit) {
        if let Some(routes) = self.index.get(&exit.process) {
            for latch in &routes.watches {
                latch.dead(*exit);
            }
        }
    }

    fn ended(&mut self, exit: &Exit) {
        let Some(routes) = self.index.remove(&exit.process) else {
            return;
        };
        self.watches -= routes.watches.len();
        for latch in routes.watches {
            latch.settle(*exit);
        }
        for route in routes.subscriptions {
            let id = route.subscription;
            self.subscriptions[id.slot].members.remove(&exit.process);
            self.end_if_bereft(id);
        }
        self.orphaned.push(exit.process);
    }

    fn await_reaping(&mut self, key: ProcessKey, identity: Identity) {
        self.reapings.push((key, identity));
    }

    fn lost(&mut self, lost: Lost, time: Timestamp) {
        match lost.count {
            Some(count) => {
                self.counts.lost_by_kernel = self.counts.lost_by_kernel.saturating_add(count);
            }
            None => self.counts.losses_uncounted += 1,
        }
        let event = Event::new(time, None, EventKind::Lost(lost));
        for (_, subscription) in &self.subscriptions {
            // Whose stream has ended misses nothing.
            if subscription.is_bereft() {
                continue;
            }
            subscription.queue.push(&event);
            subscription.queue.wake();
        }
    }
}
