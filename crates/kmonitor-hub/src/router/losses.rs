//! Which subscriptions a loss may have taken something from, and until when.

use kmonitor_event::{Event, EventKind, Resync, Timestamp};

use super::{Router, Subscription, SubscriptionId};

impl Subscription {
    /// The mark that ends a resync, which is over then.
    pub(super) fn end_of_resync(&mut self, time: Timestamp, complete: bool) -> Event {
        self.resyncing = None;
        let complete = complete && !self.in_doubt;
        Event::new(time, None, EventKind::Resync(Resync::End { complete }))
    }
}

impl Router {
    /// The subscriptions that followed trees when a loss came, and may have missed a
    /// birth in it; also where nobody of the tree is left.
    pub(crate) fn doubtful_trees(&self) -> impl Iterator<Item = SubscriptionId> + '_ {
        let trees = self.trees.iter().copied();
        trees.filter(|id| self.subscriptions[id.slot()].in_doubt)
    }

    /// Says whether a look for births can have missed one that a subscription is to
    /// be told of. Until then that is so of all that want to know of births.
    pub(crate) fn looked(&mut self, mut may_miss: impl FnMut(SubscriptionId) -> bool) {
        for (slot, subscription) in &mut self.subscriptions {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            let serial = subscription.serial;
            subscription.in_doubt &= may_miss(SubscriptionId { slot, serial });
        }
    }

    /// What was lost has been found out: says so in every stream that was told that it
    /// would be.
    pub(crate) fn end_resync(&mut self, time: Timestamp, complete: bool) {
        let subscriptions = &mut self.subscriptions;
        self.outlets.deliver_each(|slot| {
            let subscription = subscriptions.get_mut(slot as usize)?;
            subscription.resyncing?;
            Some([Some(subscription.end_of_resync(time, complete)), None])
        });
    }
}
