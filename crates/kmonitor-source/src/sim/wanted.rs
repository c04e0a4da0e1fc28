//! The processes that are wanted by name ([`SimMode::Named`](super::SimMode)),
//! each as if a pidfd of it were held.

use std::num::NonZeroU64;

use kmonitor_event::{Pid, ProcessKey, Status, Timestamp, UnknownReason};
use rustc_hash::FxHashMap;

use super::SimMode;
use super::state::State;
use crate::{Fact, FactKind, Identity, KernelInterest, Wanted};

/// Bounded by the interest.
#[derive(Debug, Default)]
pub(super) struct WantedByName {
    inode_of: FxHashMap<ProcessKey, NonZeroU64>,
    keys_of: FxHashMap<NonZeroU64, Vec<ProcessKey>>,
}

impl WantedByName {
    fn add(&mut self, key: ProcessKey, inode: NonZeroU64) {
        self.inode_of.insert(key, inode);
        self.keys_of.entry(inode).or_default().push(key);
    }

    fn remove(&mut self, key: ProcessKey) {
        if let Some(inode) = self.inode_of.remove(&key)
            && let Some(keys) = self.keys_of.get_mut(&inode)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.keys_of.remove(&inode);
            }
        }
    }

    fn keys(&self, inode: NonZeroU64) -> Vec<ProcessKey> {
        self.keys_of.get(&inode).cloned().unwrap_or_default()
    }
}

impl State {
    /// Brings an interest into force.
    pub(super) fn apply_interest(&mut self, interest: &KernelInterest) {
        let first = !self.link.followed_once();
        self.queue.listen(!interest.is_empty());
        if self.config.filter {
            self.filter.set(interest);
        }
        if self.config.mode == SimMode::Named {
            if first {
                // Nothing of this interest was followed: its changes do not tell
                // all. In an order that does not hang on a hash.
                let mut all: Vec<_> = interest.iter_named().map(|(key, _)| key).collect();
                all.sort_by_key(|key| (key.pid(), key.incarnation()));
                self.follow(&all, interest);
            } else {
                self.follow(interest.changes(), interest);
            }
        }
        self.link.note_followed();
    }

    fn follow(&mut self, changed: &[ProcessKey], interest: &KernelInterest) {
        for key in changed {
            match interest.named(*key) {
                None => self.wanted.remove(*key),
                Some(wanted) if !self.wanted.inode_of.contains_key(key) => {
                    self.want(*key, wanted);
                }
                Some(_) => {}
            }
        }
    }

    fn want(&mut self, key: ProcessKey, wanted: Wanted) {
        let identity = wanted.identity.or(key.inode().map(Identity::Inode));
        let found = self
            .processes
            .get(&key.pid())
            .filter(|process| identity.is_none_or(|identity| self.is(process, identity)));
        match found.map(|process| (process.inode, self.zombie_status(process))) {
            None => {
                // It went before anybody could hold it.
                self.tell_dead(key, Status::Pending);
                let status = Status::Unknown(UnknownReason::ReapedUnseen);
                self.tell_key_reaped(key, status);
            }
            Some((inode, status)) => {
                self.wanted.add(key, inode);
                if let Some(status) = status {
                    self.tell_dead(key, status);
                }
            }
        }
    }

    /// To those who want it by name: the process is a zombie now.
    pub(super) fn tell_group_dead(&mut self, pid: Pid, inode: NonZeroU64) {
        let Some(status) = self.process(pid).ok().and_then(|it| self.zombie_status(it)) else {
            return;
        };
        for key in self.wanted.keys(inode) {
            self.tell_dead(key, status);
        }
    }

    /// To those who want it by name, or wait: the process was reaped.
    pub(super) fn tell_reaped(&mut self, inode: NonZeroU64) {
        let status = self.reaped_status(inode);
        for key in self.wanted.keys(inode) {
            self.tell_key_reaped(key, status);
        }
        let waiters: Vec<_> = self
            .reap_waiters
            .range((inode, 0)..=(inode, u64::MAX))
            .map(|(waiter, _)| *waiter)
            .collect();
        for waiter in waiters {
            self.to_wake.extend(self.reap_waiters.remove(&waiter));
        }
    }

    fn tell_dead(&mut self, key: ProcessKey, status: Status) {
        self.tell_named(FactKind::GroupDead {
            process: key.pid(),
            key: Some(key),
            status,
        });
    }

    fn tell_key_reaped(&mut self, key: ProcessKey, status: Status) {
        self.tell_named(FactKind::Reaped {
            process: key.pid(),
            key: Some(key),
            status,
        });
    }

    fn tell_named(&mut self, kind: FactKind) {
        let time = Timestamp::from_nanos(self.clock);
        self.queue.push(Fact::new(time, kind));
        self.wake_reader();
    }
}
