//! What the source is asked for: the union of all that subscribers want.

use std::task::Poll;

use kmonitor_event::{EventMask, ProcessKey};
use kmonitor_source::{Identity, Reach, SourceError};

use crate::dispatcher::{DRAIN_BATCHES_MAX, Dispatcher};

/// What the tracker needs to see of a process to tell its death, whatever of it
/// a subscriber wants.
const TRACKING: EventMask = EventMask::THREAD_CREATE
    .union(EventMask::EXEC)
    .union(EventMask::EXIT);

impl Dispatcher {
    /// Says what of a process is wanted now, by name.
    pub(super) fn want(&mut self, key: ProcessKey, identity: Identity) {
        self.want_as(key, Some(identity));
    }

    /// As [`want`](Self::want), of a process whose identity may never have been
    /// needed.
    pub(super) fn want_by_name(&mut self, key: ProcessKey) {
        self.want_as(key, self.tracker.identity_of(key));
    }

    fn want_as(&mut self, key: ProcessKey, identity: Option<Identity>) {
        let caps = self.source.capabilities();
        let wanted = self.router.wanted_of(key);
        let events = (wanted | TRACKING) & caps.events;
        self.interest.want(key, events, identity);
        self.interest_changed = true;
    }

    /// Works out anew what is wanted of every process.
    pub(super) fn broaden(&mut self) {
        let host = self.router.host_wants();
        let trees = self.router.trees_want();
        if self.source.capabilities().reach == Reach::Host {
            let mask = match (host, trees) {
                (None, None) => EventMask::empty(),
                (host, trees) => {
                    let wanted = host.unwrap_or_default() | trees.unwrap_or_default();
                    wanted | TRACKING | EventMask::FORK
                }
            };
            if mask != self.interest.host() {
                self.interest.set_host(mask);
                self.interest_changed = true;
            }
        }
        self.tracker.set_host(host.is_some());
        if host.is_none() && self.tracked_for_host {
            let router = &self.router;
            self.tracker.retain(|key| router.routes_to(key));
        }
        if host.is_some() && !self.tracked_for_host {
            self.must_expect_all = true;
        }
        self.tracked_for_host = host.is_some();
    }

    /// Takes up every process there is, once the source listens for the host.
    pub(super) fn expect_all(&mut self) {
        if !std::mem::take(&mut self.must_expect_all) {
            return;
        }
        let mut processes = Vec::new();
        match self.probe.processes(&mut processes) {
            Ok(()) => self.tracker.expect(&processes, self.probe.now()),
            Err(error) => tracing::warn!(%error, "processes could not be listed"),
        }
    }

    /// Makes the source follow the present interest.
    pub(super) async fn settle_interest(&mut self) -> Result<(), SourceError> {
        if !self.interest_changed {
            return Ok(());
        }
        let (source, interest) = (&mut self.source, &self.interest);
        std::future::poll_fn(|cx| source.poll_interest(cx, interest)).await?;
        self.interest.settle();
        self.interest_changed = false;
        if self.interest.is_empty() {
            // What nobody read by now must not reach who subscribes next.
            for _ in 0..DRAIN_BATCHES_MAX {
                let source = &mut self.source;
                let facts = &mut self.facts;
                let look = std::future::poll_fn(|cx| Poll::Ready(source.poll_batch(cx, facts)));
                let poll = tokio::task::unconstrained(look).await;
                self.facts.clear();
                match poll {
                    Poll::Pending => break,
                    Poll::Ready(read) => read?,
                }
            }
        }
        Ok(())
    }
}
