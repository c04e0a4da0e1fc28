//! How the dispatcher carries out commands.
//!
//! Many at a time, in three steps: who is meant (identity), then one change of
//! the source's interest for all of them, then a look at each. In this order
//! nothing falls between the look and the first report: see ARCHITECTURE.md,
//! "How a subscription begins".

use std::sync::Arc;

use kmonitor_event::{EventMask, Pid, ProcessKey, ProcessRef};
use kmonitor_source::{HeldProcess, Identity, ProbeError, Scope, SourceError, WatchError};

use crate::command::{Command, Follow, Narrow, Reply, SubscriptionLease, WatchLease};
use crate::dispatcher::{Dispatcher, Stop};
use crate::error::SubscribeError;
use crate::filter::{Filter, Subjects};
use crate::latch::Latch;
use crate::queue::Queue;
use crate::router::{Membership, SubscriptionId};
use crate::watch::WatchMode;

/// A command that waits for the source to listen.
enum Request {
    Subscribe {
        lease: SubscriptionLease,
        members: Vec<(ProcessKey, Identity)>,
        reply: Reply<Result<SubscriptionLease, SubscribeError>>,
    },
    Add {
        id: SubscriptionId,
        members: Vec<(ProcessKey, Identity)>,
        /// Whether the subscription had it before.
        had: bool,
        /// Whether its descendants are to be found.
        scan: bool,
        reply: Reply<Result<(), SubscribeError>>,
    },
    SetMask {
        id: SubscriptionId,
        before: EventMask,
        reply: Reply<Result<(), SubscribeError>>,
    },
    Watch {
        lease: WatchLease,
        reply: Reply<Result<WatchLease, WatchError>>,
    },
}

impl Dispatcher {
    /// Carries out all commands. Those that need the source to listen are
    /// answered when it does.
    pub(super) async fn carry_out(&mut self, commands: &mut Vec<Command>) -> Result<(), Stop> {
        self.drain().await?;
        let mut requests = Vec::new();
        let mut stop = Ok(());
        for command in commands.drain(..) {
            match command {
                Command::Subscribe { filter, reply } => match self.begin_subscription(&filter) {
                    Ok((lease, members)) => requests.push(Request::Subscribe {
                        lease,
                        members,
                        reply,
                    }),
                    Err(error) => answer(reply, Err(error)),
                },
                Command::Add {
                    id,
                    process,
                    follow,
                    reply,
                } => match self.begin_add(id, process, follow) {
                    Ok((members, had)) => requests.push(Request::Add {
                        id,
                        members,
                        had,
                        scan: follow == Follow::Tree,
                        reply,
                    }),
                    Err(error) => answer(reply, Err(error)),
                },
                Command::Watch {
                    process,
                    pidfd: _held_until_here,
                    mode,
                    reply,
                } => match self.begin_watch(process, mode) {
                    Ok(lease) => requests.push(Request::Watch { lease, reply }),
                    Err(error) => answer(reply, Err(error)),
                },
                Command::Remove { id, process, reply } => {
                    let removed = self.remove(id, process);
                    answer(reply, Ok(removed));
                }
                Command::Narrow {
                    id,
                    processes,
                    to,
                    reply,
                } => {
                    self.narrow(id, &processes, to);
                    answer(reply, Ok(()));
                }
                Command::SetMask { id, events, reply } => match self.set_mask(id, events) {
                    Ok(before) => requests.push(Request::SetMask { id, before, reply }),
                    Err(error) => answer(reply, Err(error)),
                },
                Command::Stats { reply } => answer(reply, self.stats()),
                Command::Close { reply } => stop = Err(Stop::Closed(reply)),
            }
        }
        self.broaden();
        let listening = self.settle_interest().await.map_err(Arc::new);
        let mut followers = Vec::new();
        // Answered only when their trees have been found.
        let mut scanned: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for request in requests {
            match request {
                Request::Subscribe {
                    lease,
                    members,
                    reply,
                } => {
                    let id = lease.id;
                    let added = self.adopt_all(&listening, &members);
                    if added.is_ok() {
                        self.router.end_if_bereft(id);
                        followers.extend(self.roots_to_scan(id, &members));
                    } else {
                        self.router.remove(id);
                    }
                    scanned.push(Box::new(|| answer(reply, added.map(|()| lease))));
                }
                Request::SetMask { id, before, reply } => {
                    let set = self.adopt_all(&listening, &[]);
                    if set.is_err() && self.router.contains(id) {
                        self.router.set_mask(id, before);
                        self.want_all(id);
                    }
                    answer(reply, set);
                }
                Request::Add {
                    id,
                    members,
                    had,
                    scan,
                    reply,
                } => {
                    let added = self.adopt_all(&listening, &members);
                    if added.is_ok() {
                        let roots = members.iter().filter(|_| scan);
                        followers.extend(roots.map(|(key, _)| (id, *key)));
                    } else if !had {
                        for (key, _) in &members {
                            self.router.remove_member(id, *key);
                        }
                    }
                    scanned.push(Box::new(|| answer(reply, added)));
                }
                Request::Watch { lease, reply } => {
                    let watched = self.adopt_watched(&listening, lease.key);
                    if watched.is_err() {
                        self.router.remove_watch(lease.key, &lease.latch);
                    }
                    answer(reply, watched.map(|()| lease));
                }
            }
        }
        self.expect_all();
        if !followers.is_empty() {
            self.scan_trees(&followers).await?;
        }
        scanned.into_iter().for_each(|answer| answer());
        stop
    }

    /// The members of a subscription whose descendants are to be found.
    fn roots_to_scan(
        &self,
        id: SubscriptionId,
        members: &[(ProcessKey, Identity)],
    ) -> Vec<(SubscriptionId, ProcessKey)> {
        if !self.router.follows(id) {
            return Vec::new();
        }
        let roots = members.iter().map(|(key, _)| (id, *key));
        roots.collect()
    }

    fn begin_subscription(
        &mut self,
        filter: &Filter,
    ) -> Result<(SubscriptionLease, Vec<(ProcessKey, Identity)>), SubscribeError> {
        if filter.events.is_empty() {
            return Err(SubscribeError::NoEvents);
        }
        self.source
            .capabilities()
            .serve(filter.scope(), filter.events)?;
        let queue = Arc::new(Queue::new(filter.queue_events));
        let id = self
            .router
            .insert(Arc::clone(&queue), filter.events, filter.keep_open);
        let lease = SubscriptionLease {
            id,
            queue,
            sweep: Arc::clone(&self.sweep),
        };
        let members = match &filter.subjects {
            Subjects::Host => {
                self.router.add_host(id);
                Vec::new()
            }
            Subjects::Named {
                processes,
                follow,
                descendants_only,
            } => {
                let membership = Membership {
                    follow: *follow,
                    forks_only: *descendants_only,
                    listed: false,
                };
                // On an error the lease is dropped here, which takes the
                // subscription away again.
                self.identify_all(processes, id, membership)?
            }
        };
        Ok((lease, members))
    }

    fn begin_add(
        &mut self,
        id: SubscriptionId,
        process: ProcessRef,
        follow: Follow,
    ) -> Result<(Vec<(ProcessKey, Identity)>, bool), SubscribeError> {
        if !self.router.contains(id) || self.router.is_host(id) {
            return Ok((Vec::new(), false));
        }
        let events = self.router.mask(id);
        self.source.capabilities().serve(follow.scope(), events)?;
        let membership = Membership {
            follow,
            forks_only: false,
            listed: false,
        };
        let mut had = false;
        let identity = self.identify(process)?;
        let key = self.reserve(process.pid, identity);
        had |= self.router.has_member(id, key);
        self.router.add_member(id, key, membership);
        self.want(key, identity);
        Ok((vec![(key, identity)], had))
    }

    fn begin_watch(
        &mut self,
        process: ProcessRef,
        mode: WatchMode,
    ) -> Result<WatchLease, WatchError> {
        self.source
            .capabilities()
            .serve(Scope::Named, EventMask::EXIT)?;
        let (identity, held) = match mode {
            WatchMode::Shared => (self.identify(process)?, None),
            WatchMode::HeldPidfd => {
                let held = self.hold(process)?;
                (held.identity(), Some(held))
            }
        };
        let key = self.reserve(process.pid, identity);
        let latch = Arc::new(Latch::default());
        self.router.add_watch(key, Arc::clone(&latch));
        self.want(key, identity);
        Ok(WatchLease {
            key,
            identity,
            latch,
            held,
            sweep: Arc::clone(&self.sweep),
        })
    }

    /// Takes hold of a process for a watch of its own.
    fn hold(&self, process: ProcessRef) -> Result<Box<dyn HeldProcess>, WatchError> {
        let named = process.inode.map(Identity::Inode);
        match self.probe.hold(process.pid, named) {
            Ok(Some(held)) => Ok(held),
            Ok(None) => Err(WatchError::NotHeld { source: None }),
            Err(error @ ProbeError::Io { .. }) => Err(WatchError::NotHeld {
                source: Some(error),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn identify_all(
        &mut self,
        processes: &[ProcessRef],
        id: SubscriptionId,
        membership: Membership,
    ) -> Result<Vec<(ProcessKey, Identity)>, SubscribeError> {
        let mut members = Vec::with_capacity(processes.len());
        for process in processes {
            let identity = self.identify(*process)?;
            let key = self.reserve(process.pid, identity);
            self.router.add_member(id, key, membership);
            self.want(key, identity);
            members.push((key, identity));
        }
        Ok(members)
    }

    fn identify(&self, process: ProcessRef) -> Result<Identity, ProbeError> {
        let pid = process.pid;
        let found = self.probe.identify(pid)?;
        match process.inode.map(Identity::Inode) {
            Some(expected) if expected != found => Err(ProbeError::Reused {
                pid,
                expected,
                found,
            }),
            _ => Ok(found),
        }
    }

    fn adopt_all(
        &mut self,
        listening: &Result<(), Arc<SourceError>>,
        members: &[(ProcessKey, Identity)],
    ) -> Result<(), SubscribeError> {
        if let Err(error) = listening {
            return Err(SubscribeError::Source(Arc::clone(error)));
        }
        for (key, _) in members {
            self.adopt(*key)?;
        }
        Ok(())
    }

    fn adopt_watched(
        &mut self,
        listening: &Result<(), Arc<SourceError>>,
        key: ProcessKey,
    ) -> Result<(), WatchError> {
        if let Err(error) = listening {
            return Err(WatchError::Io {
                action: "make the source listen",
                source: std::io::Error::other(Arc::clone(error)),
            });
        }
        self.adopt(key)?;
        Ok(())
    }

    pub(super) fn adopt(&mut self, key: ProcessKey) -> Result<(), ProbeError> {
        self.track(|tracker, cx| tracker.adopt(key, cx))
    }

    pub(super) fn reserve(&mut self, pid: Pid, identity: Identity) -> ProcessKey {
        self.track(|tracker, cx| tracker.reserve(pid, identity, cx))
    }

    fn remove(&mut self, id: SubscriptionId, process: ProcessRef) -> bool {
        if !self.router.contains(id) {
            return false;
        }
        let named = |key: &ProcessKey| {
            if key.pid() != process.pid || process.inode.is_none() {
                return key.pid() == process.pid;
            }
            // Who was born before our eyes has an inode that nobody asked for yet.
            let known = self.tracker.identity_of(*key).and_then(|it| it.inode());
            let inode = key.inode().or(known).or_else(|| {
                let live = self.tracker.key_of(key.pid()) == Some(*key);
                let found = live.then(|| self.probe.identify(key.pid()).ok())?;
                found?.inode()
            });
            process.inode == inode
        };
        // A pid may name its former owner as well, whose status is still due.
        let found: Vec<_> = self.router.members(id).filter(named).collect();
        let removed = found
            .into_iter()
            .map(|key| self.router.remove_member(id, key));
        removed.fold(false, |any, had| any | had)
    }

    fn narrow(&mut self, id: SubscriptionId, processes: &[ProcessKey], to: Narrow) {
        if !self.router.contains(id) {
            return;
        }
        for key in processes {
            match to {
                Narrow::Out => {
                    self.router.remove_member(id, *key);
                }
                Narrow::Childless => {
                    self.router.ignore_births(id, *key);
                    if self.router.has_member(id, *key) {
                        // Who was born into a tree was never asked for by name, and
                        // the source may stop looking at all the others.
                        self.want_by_name(*key);
                    }
                }
            }
        }
    }

    /// Selects other events. Those before.
    fn set_mask(
        &mut self,
        id: SubscriptionId,
        events: EventMask,
    ) -> Result<EventMask, SubscribeError> {
        if events.is_empty() {
            return Err(SubscribeError::NoEvents);
        }
        if !self.router.contains(id) {
            return Ok(events);
        }
        let scope = match (self.router.is_host(id), self.router.follows(id)) {
            (true, _) => Scope::Host,
            (false, true) => Scope::Tree,
            (false, false) => Scope::Named,
        };
        self.source.capabilities().serve(scope, events)?;
        let before = self.router.mask(id);
        self.router.set_mask(id, events);
        self.want_all(id);
        Ok(before)
    }

    fn want_all(&mut self, id: SubscriptionId) {
        let members: Vec<_> = self.router.members(id).collect();
        for key in members {
            // Who was born into a tree is not wanted by name, unless it was let go of.
            if self.tracker.identity_of(key).is_some() || self.interest.named(key).is_some() {
                self.want_by_name(key);
            }
        }
    }
}

/// Who asked may have stopped waiting: what the answer holds cleans up after
/// itself then.
fn answer<T>(reply: Reply<T>, value: T) {
    let _ = reply.send(value);
}
