//! From a process to those who want to know of it.

use std::hash::Hasher;
use std::slice;
use std::sync::Arc;

use super::Membership;
use crate::latch::Latch;

/// That a process belongs to a subscription. Gone before the subscription is, so
/// it does without the serial number.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) slot: u32,
    pub(super) membership: Membership,
}

/// Who wants to know of one process. Small, because with many subscriptions it
/// is memory like this that a delivery has to wait for.
pub(super) enum Routes {
    /// One subscription and nothing else: nearly always it is this,
    Subscription(Route),
    /// or one watch and nothing else.
    Watch(Arc<Latch>),
    Several(Box<Several>),
}

#[derive(Default)]
pub(super) struct Several {
    pub(super) subscriptions: Vec<Route>,
    pub(super) watches: Vec<Arc<Latch>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self::Several(Box::default())
    }
}

impl Routes {
    pub(super) fn is_empty(&self) -> bool {
        self.subscriptions().is_empty() && self.watches().is_empty()
    }

    pub(super) fn subscriptions(&self) -> &[Route] {
        match self {
            Self::Subscription(route) => slice::from_ref(route),
            Self::Watch(_) => &[],
            Self::Several(several) => &several.subscriptions,
        }
    }

    pub(super) fn watches(&self) -> &[Arc<Latch>] {
        match self {
            Self::Subscription(_) => &[],
            Self::Watch(latch) => slice::from_ref(latch),
            Self::Several(several) => &several.watches,
        }
    }

    /// Changes what there is, in the general form.
    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut Several) -> R) -> R {
        let mut several = match std::mem::take(self) {
            Self::Subscription(route) => Box::new(Several {
                subscriptions: vec![route],
                watches: Vec::new(),
            }),
            Self::Watch(watch) => Box::new(Several {
                subscriptions: Vec::new(),
                watches: vec![watch],
            }),
            Self::Several(several) => several,
        };
        let result = change(&mut several);
        *self = match (&several.subscriptions[..], &several.watches[..]) {
            ([route], []) => Self::Subscription(*route),
            ([], [watch]) => Self::Watch(Arc::clone(watch)),
            _ => Self::Several(several),
        };
        result
    }
}

/// Hashes incarnations, which count up: those given out together lie together in
/// memory, and none are in each other's way.
#[derive(Default)]
pub(super) struct InARow(u64);

impl Hasher for InARow {
    fn write_u64(&mut self, incarnation: u64) {
        // The low bits choose the place. The high ones tell neighbours apart.
        self.0 = incarnation ^ (incarnation << 57);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
