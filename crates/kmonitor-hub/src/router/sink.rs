//! What the tracker concludes, handed to those who want it.

use kmonitor_event::{Event, EventKind, Exit, Lost, ProcessKey, Resync, Timestamp};
use kmonitor_source::Identity;
use smallvec::SmallVec;

use super::routes::{Route, Routes};
use super::{Membership, Router, SubscriptionId};
use crate::command::Follow;
use crate::tracker::{Hint, Recipients, Sink};

impl Sink for Router {
    fn inherit(&mut self, parent: ProcessKey, child: ProcessKey) -> bool {
        let Some(routes) = self.routes(parent) else {
            return false;
        };
        let followers: SmallVec<[(SubscriptionId, Membership); 4]> = routes
            .subscriptions()
            .iter()
            .filter(|route| route.membership.follows())
            .map(|route| (self.id(route.slot), route.membership.of_child()))
            .collect();
        for (id, membership) in &followers {
            self.add_member(*id, child, *membership);
        }
        !followers.is_empty()
    }

    fn disown(&mut self, parent: Option<ProcessKey>, child: ProcessKey) {
        let Some(routes) = self.routes(child) else {
            return;
        };
        let listed = routes.subscriptions().iter();
        let listed = listed.filter(|route| route.membership.listed);
        let listed: SmallVec<[SubscriptionId; 4]> =
            listed.map(|route| self.id(route.slot)).collect();
        for id in listed {
            if !parent.is_some_and(|parent| self.follows_from(id, parent)) {
                self.remove_member(id, child);
            }
        }
    }

    fn inherit_late(&mut self, fork: &Event, told: &[SubscriptionId]) -> bool {
        let (Some(parent), EventKind::Fork { child }) = (fork.process, fork.kind) else {
            return false;
        };
        let routes = self.routes(parent).map_or(&[][..], Routes::subscriptions);
        let routes: SmallVec<[Route; 4]> = routes.iter().copied().collect();
        self.counts.events += 1;
        let mut inherited = false;
        for Route { slot, membership } in routes {
            let id = self.id(slot);
            let knows = told.contains(&id);
            if knows && membership.follow == Follow::Tree {
                continue;
            }
            if !knows && membership.follows() {
                self.add_member(id, child, membership.of_child());
                inherited = true;
            }
            if self.outlets.mask(slot).intersects(fork.kind.mask()) {
                self.deliver(slot, fork);
            }
        }
        inherited
    }

    fn recipients(&self, key: ProcessKey) -> Recipients {
        let routes = self.routes(key).map_or(&[][..], Routes::subscriptions);
        routes.iter().map(|route| self.id(route.slot)).collect()
    }

    fn event_by_name(&mut self, event: &Event) {
        let is_fork = matches!(event.kind, EventKind::Fork { .. });
        self.deliver_by_name(event, |membership| is_fork || !membership.forks_only);
    }

    fn event(&mut self, event: &Event) {
        self.counts.events += 1;
        self.event_by_name(event);
        self.deliver_to_host(event);
    }

    fn event_of(&mut self, event: &Event, hint: &mut Hint) {
        let Some(key) = event.process else {
            return self.event(event);
        };
        self.counts.events += 1;
        if self.outlets.is_sole(hint.0, key.incarnation()) {
            if self.outlets.mask(hint.0).intersects(event.kind.mask()) {
                self.deliver(hint.0, event);
            }
        } else {
            self.event_by_name(event);
            if let Some(slot) = self.first_route(key, *hint) {
                *hint = Hint(slot);
            }
        }
        self.deliver_to_host(event);
    }

    fn dead(&mut self, exit: &Exit) {
        if let Some(routes) = self.routes(exit.process) {
            for latch in routes.watches() {
                latch.dead(*exit);
            }
        }
    }

    fn ended(&mut self, exit: &Exit) {
        let Some(routes) = self.index.remove(&exit.process.incarnation()) else {
            return;
        };
        for latch in routes.watches() {
            self.watches -= 1;
            latch.settle(*exit);
        }
        for route in routes.subscriptions() {
            let id = self.id(route.slot);
            self.outlets.unset_sole(id.slot, exit.process.incarnation());
            let subscription = &mut self.subscriptions[id.slot()];
            subscription.members.remove(&exit.process);
            subscription.follows -= usize::from(route.membership.follows());
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
        let subscriptions = &mut self.subscriptions;
        self.outlets.deliver_each(|slot| {
            let subscription = subscriptions.get_mut(slot as usize)?;
            // Whose stream has ended misses nothing.
            if subscription.is_bereft() {
                return None;
            }
            subscription.in_doubt = subscription.host || subscription.follows > 0;
            let mut begins = None;
            if subscription.resyncing.is_none() {
                subscription.resyncing = Some(time);
                begins = Some(Event::new(time, None, EventKind::Resync(Resync::Begin)));
            }
            Some([Some(event), begins])
        });
    }
}
