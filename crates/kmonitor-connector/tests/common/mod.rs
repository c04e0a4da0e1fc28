//! What the tests on the real kernel share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::MetadataExt;
use std::task::ready;
use std::time::Duration;

use kmonitor_connector::{ConnectorBuilder, ConnectorSource};
use kmonitor_event::{EventMask, Pid};
use kmonitor_source::{EventSource, Fact, FactKind, KernelInterest};
use tokio::time::timeout;

/// Longer than anything here takes, also on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A source, and all the facts that it told so far.
pub(crate) struct Feed {
    pub(crate) source: ConnectorSource,
    pub(crate) facts: Vec<Fact>,
}

pub(crate) fn everything() -> KernelInterest {
    let mut interest = KernelInterest::new();
    interest.set_host(EventMask::all());
    interest
}

impl Feed {
    /// Opens the connector and listens.
    pub(crate) async fn listening() -> Self {
        Self::listening_with(ConnectorSource::builder()).await
    }

    pub(crate) async fn listening_with(builder: ConnectorBuilder) -> Self {
        let source = builder.open().await.expect("the connector opens");
        let facts = Vec::new();
        let mut feed = Self { source, facts };
        feed.want(&everything()).await;
        feed
    }

    pub(crate) async fn want(&mut self, interest: &KernelInterest) {
        let wanted = poll_fn(|cx| self.source.poll_interest(cx, interest));
        let result = timeout(PATIENCE, wanted).await;
        result
            .expect("an answer in time")
            .expect("the kernel listens");
    }

    /// Reads until a fact is there for which `wanted` is true.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&FactKind) -> bool) -> Fact {
        let mut seen = 0;
        loop {
            let fresh = &self.facts[seen..];
            if let Some(fact) = fresh.iter().find(|fact| wanted(&fact.kind)) {
                return *fact;
            }
            seen = self.facts.len();
            let batch = poll_fn(|cx| {
                ready!(self.source.poll_due(cx));
                self.source.poll_batch(cx, &mut self.facts)
            });
            let result = timeout(PATIENCE, batch).await;
            result
                .expect("the awaited fact in time")
                .expect("the source reads on");
        }
    }

    /// Reads until the exit of a process's first thread is told.
    pub(crate) async fn until_exit(&mut self, pid: Pid) -> Fact {
        self.until(|kind| {
            matches!(kind, FactKind::TaskExited { process, tid, .. }
                if *process == pid && tid.is_leader_of(pid))
        })
        .await
    }

    /// How many messages the facts so far say are missing.
    pub(crate) fn told_lost(&self) -> u64 {
        self.facts.iter().map(|fact| lost_count(&fact.kind)).sum()
    }

    /// The facts about one process, in order.
    pub(crate) fn about(&self, pid: Pid) -> Vec<FactKind> {
        let kinds = self.facts.iter().map(|fact| fact.kind);
        kinds.filter(|kind| subject(kind) == Some(pid)).collect()
    }
}

/// The process that a fact is about; for a fork, the child.
pub(crate) fn subject(kind: &FactKind) -> Option<Pid> {
    match *kind {
        FactKind::Forked { child, .. } => Some(child),
        kind => kind.process(),
    }
}

/// How many messages a fact says are missing.
pub(crate) fn lost_count(kind: &FactKind) -> u64 {
    match kind {
        FactKind::Lost { count } => count.expect("the kernel counts"),
        _ => 0,
    }
}

pub(crate) fn pid_of(child: &std::process::Child) -> Pid {
    Pid::try_from(child.id()).expect("a child's pid is a pid")
}

/// One connector socket of this process, as `/proc/net/netlink` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketLine {
    pub(crate) port: u32,
    pub(crate) groups: u32,
    pub(crate) drops: u64,
    pub(crate) inode: u64,
}

/// The only connector socket of this process. Tests that use it have a test
/// binary, and with it a process, of their own, and a lock in it.
pub(crate) fn own_socket() -> SocketLine {
    let own: Vec<u64> = fs::read_dir("/proc/self/fd")
        .expect("/proc is there")
        .filter_map(|entry| Some(fs::metadata(entry.ok()?.path()).ok()?.ino()))
        .collect();
    let table = fs::read_to_string("/proc/net/netlink").expect("/proc is there");
    let mut found = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let line = SocketLine {
            port: u32::try_from(number(2)?).ok()?,
            groups: u32::from_str_radix(fields.get(3)?, 16).ok()?,
            drops: number(8)?,
            inode: number(9)?,
        };
        (number(1)? == 11 && own.contains(&line.inode)).then_some(line)
    });
    let line = found.next().expect("a connector socket is open");
    assert_eq!(found.next(), None, "one connector socket only");
    line
}
