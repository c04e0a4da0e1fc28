//! Hands each event to those who want it, and to nobody else.
//!
//! An index by process leads to its subscriptions and watches, so an event that
//! nobody wants costs one look-up, and one that k want costs k, however many
//! subscriptions there are.

mod losses;
mod outlets;
mod routes;
mod sink;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use kmonitor_event::{Event, EventMask, ProcessKey, Timestamp};
use kmonitor_source::Identity;
use rustc_hash::FxHashSet;
use slab::Slab;
use smallvec::SmallVec;

use self::outlets::Outlets;
use self::routes::{InARow, Route, Routes};
use crate::command::Follow;
use crate::latch::Latch;
use crate::queue::Queue;
use crate::tracker::Hint;

/// A subscription's place in the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId {
    slot: u32,
    /// Tells it from the slot's other tenants, as long as it is not kept over
    /// four thousand million subscriptions.
    serial: u32,
}

impl SubscriptionId {
    fn slot(self) -> usize {
        self.slot as usize
    }
}

/// How a process belongs to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Which of its children belong to it as well.
    pub(crate) follow: Follow,
    /// Of its own events only its forks are delivered.
    pub(crate) forks_only: bool,
    /// Taken for a descendant because a list of processes had its pid as one.
    pub(crate) listed: bool,
}

impl Membership {
    fn follows(self) -> bool {
        self.follow != Follow::Nobody
    }

    /// How a child belongs to it that was born to a followed process.
    fn of_child(self) -> Self {
        Self {
            forks_only: false,
            listed: false,
            ..self
        }
    }
}

/// What the router knows of a subscription apart from its [`Outlets`].
struct Subscription {
    serial: u32,
    host: bool,
    /// How many members' children it follows.
    follows: usize,
    /// Whether it is among the `trees`.
    in_trees: bool,
    /// Whether it stays when its last process has gone.
    keep_open: bool,
    /// Since when it is being found out what a loss took from it.
    resyncing: Option<Timestamp>,
    /// Whether somebody may have been born unseen within that loss.
    in_doubt: bool,
    members: FxHashSet<ProcessKey>,
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
    outlets: Outlets,
    /// By incarnation, which names a process as well as its whole key.
    index: HashMap<u64, Routes, BuildHasherDefault<InARow>>,
    host: Vec<SubscriptionId>,
    trees: Vec<SubscriptionId>,
    next_serial: u32,
    /// What the host subscriptions want together.
    host_mask: EventMask,
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
        self.next_serial = serial.wrapping_add(1);
        let slot = self.subscriptions.insert(Subscription {
            serial,
            host: false,
            follows: 0,
            in_trees: false,
            keep_open,
            resyncing: None,
            in_doubt: false,
            members: FxHashSet::default(),
        });
        // One takes more memory than there are bytes for so many.
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.outlets.open(slot, queue, mask);
        SubscriptionId { slot, serial }
    }

    /// Whether the subscription is still there.
    pub(crate) fn contains(&self, id: SubscriptionId) -> bool {
        let subscription = self.subscriptions.get(id.slot());
        subscription.is_some_and(|subscription| subscription.serial == id.serial)
    }

    /// Gives a subscription the events of every process.
    pub(crate) fn add_host(&mut self, id: SubscriptionId) {
        let subscription = &mut self.subscriptions[id.slot()];
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
        let subscription = &mut self.subscriptions[id.slot()];
        if membership.follows() && !subscription.in_trees {
            subscription.in_trees = true;
            self.trees.push(id);
        }
        if subscription.members.insert(key)
            && let Some(queue) = self.outlets.queue(id.slot)
        {
            queue.reopen();
        }
        let routes = self.index.entry(key.incarnation()).or_default();
        let follow = &mut subscription.follows;
        routes.change(|routes| {
            let slot = id.slot;
            let routes = &mut routes.subscriptions;
            let known = routes.iter_mut().find(|route| route.slot == slot);
            let followed = known.as_ref().is_some_and(|it| it.membership.follows());
            *follow += usize::from(membership.follows() && !followed);
            match known {
                Some(route) => {
                    // Whom it follows with all descendants it follows no less.
                    route.membership.follow = route.membership.follow.max(membership.follow);
                    route.membership.listed &= membership.listed;
                    route.membership.forks_only &= membership.forks_only;
                }
                None => routes.push(Route { slot, membership }),
            }
        });
        self.note_sole(key);
    }

    /// Takes one process away from a subscription. Whether it had it.
    pub(crate) fn remove_member(&mut self, id: SubscriptionId, key: ProcessKey) -> bool {
        if !self.subscriptions[id.slot()].members.remove(&key) {
            return false;
        }
        self.remove_route(key, id);
        self.end_if_bereft(id);
        true
    }

    pub(crate) fn members(&self, id: SubscriptionId) -> impl Iterator<Item = ProcessKey> + '_ {
        self.subscriptions[id.slot()].members.iter().copied()
    }

    /// Whether a process belongs to a subscription.
    pub(crate) fn has_member(&self, id: SubscriptionId, key: ProcessKey) -> bool {
        self.contains(id) && self.subscriptions[id.slot()].members.contains(&key)
    }

    /// Whether a process belongs to a subscription together with its children.
    pub(crate) fn follows_from(&self, id: SubscriptionId, key: ProcessKey) -> bool {
        let routes = self.routes(key).map_or(&[][..], Routes::subscriptions);
        let mut follows = routes.iter().filter(|route| route.membership.follows());
        follows.any(|route| route.slot == id.slot)
    }

    pub(crate) fn set_mask(&mut self, id: SubscriptionId, mask: EventMask) {
        self.outlets.set_mask(id.slot, mask);
        self.update_host_mask();
    }

    pub(crate) fn mask(&self, id: SubscriptionId) -> EventMask {
        self.outlets.mask(id.slot)
    }

    pub(crate) fn follows(&self, id: SubscriptionId) -> bool {
        self.subscriptions[id.slot()].follows > 0
    }

    /// Lets the children that a member has from now on go their own way.
    pub(crate) fn ignore_births(&mut self, id: SubscriptionId, key: ProcessKey) {
        let Some(routes) = self.index.get_mut(&key.incarnation()) else {
            return;
        };
        let follows = &mut self.subscriptions[id.slot()].follows;
        routes.change(|routes| {
            let mut routes = routes.subscriptions.iter_mut();
            if let Some(route) = routes.find(|route| route.slot == id.slot) {
                *follows -= usize::from(route.membership.follows());
                route.membership.follow = Follow::Nobody;
            }
        });
    }

    pub(crate) fn is_host(&self, id: SubscriptionId) -> bool {
        self.subscriptions[id.slot()].host
    }

    /// Removes a subscription.
    pub(crate) fn remove(&mut self, id: SubscriptionId) {
        if !self.contains(id) {
            return;
        }
        let subscription = self.subscriptions.remove(id.slot());
        for key in subscription.members {
            self.remove_route(key, id);
        }
        self.host.retain(|host| *host != id);
        self.trees.retain(|tree| *tree != id);
        self.outlets.close(id.slot);
        self.update_host_mask();
    }

    /// The first subscription to a process.
    fn first_route(&self, key: ProcessKey, hint: Hint) -> Option<u32> {
        if self.outlets.is_sole(hint.0, key.incarnation()) {
            return Some(hint.0);
        }
        let route = self.routes(key)?.subscriptions().first();
        route.map(|route| route.slot)
    }

    /// Where the events of a process go, if the hint is right.
    pub(crate) fn hinted_queue(&self, hint: Hint) -> Option<&Queue> {
        self.outlets.queue(hint.0)
    }

    pub(crate) fn add_watch(&mut self, key: ProcessKey, latch: Arc<Latch>) {
        let routes = self.index.entry(key.incarnation()).or_default();
        routes.change(|routes| routes.watches.push(latch));
        self.watches += 1;
    }

    pub(crate) fn remove_watch(&mut self, key: ProcessKey, latch: &Arc<Latch>) {
        let Some(routes) = self.index.get_mut(&key.incarnation()) else {
            return;
        };
        let before = routes.watches().len();
        routes.change(|routes| routes.watches.retain(|it| !Arc::ptr_eq(it, latch)));
        self.watches -= before - routes.watches().len();
        self.forget_if_empty(key);
    }

    /// Sends one event to one subscription, whatever its mask.
    pub(crate) fn tell(&mut self, id: SubscriptionId, event: &Event) {
        self.deliver(id.slot, event);
    }

    /// Ends a subscription that has nothing left to wait for.
    pub(crate) fn end_if_bereft(&mut self, id: SubscriptionId) {
        let subscription = &mut self.subscriptions[id.slot()];
        if !subscription.is_bereft() {
            return;
        }
        if let Some(since) = subscription.resyncing {
            let end = subscription.end_of_resync(since, true);
            self.outlets.deliver(id.slot, &end);
        }
        if let Some(queue) = self.outlets.queue(id.slot) {
            queue.end();
        }
    }

    /// Wakes all who got something since the last call.
    pub(crate) fn wake(&mut self) {
        self.outlets.wake();
    }

    /// Whether anybody is to be told of births.
    pub(crate) fn follows_anybody(&self) -> bool {
        !self.host.is_empty() || self.trees.iter().any(|id| self.follows(*id))
    }

    /// The subscriptions to the whole host.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = SubscriptionId> + '_ {
        self.host.iter().copied()
    }

    /// Ends every stream and closes every watch.
    pub(crate) fn close(&mut self, reason: &str) {
        self.end_resync(Timestamp::default(), false);
        for queue in self.outlets.queues() {
            queue.end();
        }
        self.wake();
        for routes in self.index.values() {
            for latch in routes.watches() {
                latch.close(reason);
            }
        }
    }

    /// What the subscriptions and watches want of one process by name.
    pub(crate) fn wanted_of(&self, key: ProcessKey) -> EventMask {
        let Some(routes) = self.routes(key) else {
            return EventMask::empty();
        };
        let watched = match routes.watches() {
            [] => EventMask::empty(),
            _ => EventMask::EXIT,
        };
        routes
            .subscriptions()
            .iter()
            .fold(watched, |mask, route| mask | self.outlets.mask(route.slot))
    }

    /// Whether anybody wants to know of this process in particular.
    pub(crate) fn routes_to(&self, key: ProcessKey) -> bool {
        self.index.contains_key(&key.incarnation())
    }

    /// What the host subscriptions want; `None` if there are none.
    pub(crate) fn host_wants(&self) -> Option<EventMask> {
        (!self.host.is_empty()).then_some(self.host_mask)
    }

    /// What the subscriptions that follow trees want; `None` if there are none.
    pub(crate) fn trees_want(&self) -> Option<EventMask> {
        let trees = self.trees.iter();
        let trees = trees.filter(|id| self.subscriptions[id.slot()].follows > 0);
        let masks = trees.map(|id| self.outlets.mask(id.slot));
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
        let masks = self.host.iter().map(|id| self.outlets.mask(id.slot));
        self.host_mask = masks.fold(EventMask::empty(), |all, mask| all | mask);
    }

    fn id(&self, slot: u32) -> SubscriptionId {
        let serial = self.subscriptions[slot as usize].serial;
        SubscriptionId { slot, serial }
    }

    fn routes(&self, key: ProcessKey) -> Option<&Routes> {
        self.index.get(&key.incarnation())
    }

    /// Notes where a process has its only route, if that is all there is to ask of
    /// its events.
    fn note_sole(&mut self, key: ProcessKey) {
        let incarnation = key.incarnation();
        match self.index.get(&incarnation).map(Routes::subscriptions) {
            Some([route]) if !route.membership.forks_only => {
                self.outlets.set_sole(route.slot, incarnation);
            }
            Some(routes) => {
                for route in routes {
                    self.outlets.unset_sole(route.slot, incarnation);
                }
            }
            None => {}
        }
    }

    fn remove_route(&mut self, key: ProcessKey, id: SubscriptionId) {
        if let Some(routes) = self.index.get_mut(&key.incarnation()) {
            let mut followed = 0;
            routes.change(|routes| {
                routes.subscriptions.retain(|it| {
                    let kept = it.slot != id.slot;
                    followed += usize::from(!kept && it.membership.follows());
                    kept
                });
            });
            // A subscription that is being removed has no count any more.
            if let Some(subscription) = self.subscriptions.get_mut(id.slot()) {
                subscription.follows -= followed;
            }
            self.outlets.unset_sole(id.slot, key.incarnation());
            self.note_sole(key);
            self.forget_if_empty(key);
        }
    }

    fn forget_if_empty(&mut self, key: ProcessKey) {
        if self.routes(key).is_some_and(Routes::is_empty) {
            self.index.remove(&key.incarnation());
            self.orphaned.push(key);
        }
    }

    fn deliver_by_name(&mut self, event: &Event, to: impl Fn(Membership) -> bool) {
        let mask = event.kind.mask();
        let Some(routes) = event.process.and_then(|key| self.routes(key)) else {
            return;
        };
        let wanting: SmallVec<[u32; 4]> = routes
            .subscriptions()
            .iter()
            .filter(|route| to(route.membership))
            .map(|route| route.slot)
            .filter(|slot| self.outlets.mask(*slot).intersects(mask))
            .collect();
        for slot in wanting {
            self.deliver(slot, event);
        }
    }

    fn deliver(&mut self, slot: u32, event: &Event) {
        if self.outlets.deliver(slot, event) {
            self.counts.delivered += 1;
        } else {
            self.counts.lost_by_subscriptions += 1;
        }
    }

    /// Gives an event to those who want everybody's.
    fn deliver_to_host(&mut self, event: &Event) {
        let mask = event.kind.mask();
        if !self.host_mask.intersects(mask) {
            return;
        }
        for at in 0..self.host.len() {
            let slot = self.host[at].slot;
            if self.outlets.mask(slot).intersects(mask) {
                self.deliver(slot, event);
            }
        }
    }
}
