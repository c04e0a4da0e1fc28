//! Real processes.
//!
//! Each child leads a session of its own, in a cgroup of its own where cgroups are
//! writable, and is held by a pidfd. It is ours to reap, by that pidfd; the
//! application's own children are never touched. What one supervisor started the next
//! one finds by its state directory.
//!
//! | scope | who is in it | who can leave it | needs |
//! |---|---|---|---|
//! | cgroup | all in its cgroup and nested ones | who may write to another `cgroup.procs` (root) | a writable cgroup v2; `cgroup.kill` since Linux 5.14 |
//! | tree, with a connector | all that it and its descendants forked | whom its leader makes a sibling (`CLONE_PARENT`) | a [`Hub`] that can follow trees |
//! | tree, without | descendants, its session, whoever has its environment variable | who does a double fork *and* `setsid` *and* clears its environment; of an adopted one all, once its root is dead | – |
//! | group | its process group | who calls `setsid` or `setpgid` | – ; before Linux 6.9, of a leader that is not our child, once that is reaped, only as long as one that was seen in it lives |
//! | leader | itself | all others | – |
//!
//! Moving a child into its cgroup takes the kernel 8 to 20 ms, in which it waits for all
//! processors; 2 where cgroups are mounted with `favordynmods` (Linux 6.0):
//! `mount -o remount,favordynmods /sys/fs/cgroup`.
//!
//! # Names
//! Contracts, so that other programs may read them:
//!
//! * cgroups: `kmonitor-ID/CHILD.WORD`, `ID` being the state directory's (the first line
//!   of its `lock`), or a word of this run's where there is none. `CHILD` is the child's
//!   path with `+` for `/`. Whoever uses `kmonitor-ID` holds a `flock` on it.
//! * the environment: `KMONITOR_CHILD` holds a word for each supervisor above a
//!   process, the outermost first, separated by `:`.
//! * the state directory: `lock` (its id, then its holder's pid), and per child
//!   `CHILD.record`, `CHILD.out`, `CHILD.err` and `CHILD.ready`. A record begins with the
//!   line `kmonitor-supervisor 1`; one that cannot be read is an error, unless it is
//!   older than this boot.
//!
//! # Minimum kernel version
//! 5.4 (`waitid` by pidfd). Identity by inode 6.9; statuses of recovered and adopted
//! processes 6.15, or a hub on the connector.

mod adopt;
mod capture;
mod census;
mod certain;
mod cgroup;
mod child;
mod claims;
mod environment;
mod identity;
mod incarnation;
mod kin;
mod leader;
mod leftover;
mod lines;
mod marks;
mod orphans;
mod ourselves;
mod procfs;
mod ready;
mod reap;
mod running;
mod scope;
mod spawn;
mod state;
mod subreaper;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kmonitor_event::EventMask;
use kmonitor_hub::Hub;
use tokio::sync::{OnceCell, Semaphore};

use self::adopt::Meant;
use self::census::Census;
use self::cgroup::{CgroupBase, last_names};
use self::claims::Claims;
use self::orphans::{Orphans, Registered};
use self::state::{Record, StateDir};
use self::subreaper::Subreaper;
use super::{Backend, Launch, Reports, Running};

pub use self::leftover::Leftover;
pub use self::state::StateError;

/// Set in the environment of each child, to know its descendants by: a word for each
/// supervisor above it, separated by `:`. They mean nothing beyond that.
const MARK: &str = "KMONITOR_CHILD";

/// Forking copies page tables, so more at a time make each one slower.
const SPAWNS_MAX: usize = 4;

/// How long to wait for the lock of a supervisor that died just now.
const LOCK_PATIENCE_DEFAULT: Duration = Duration::from_secs(5);

/// Starts and adopts real processes. A cheap handle.
///
/// From the first start on SIGCHLD is heard, also where this program was started with it
/// ignored: the kernel would reap children before they can be supervised. Then it reaps none
/// of the application's own any more: those must be waited for, or left to
/// [`reap_all_children`](LinuxBackendBuilder::reap_all_children).
///
/// ```no_run
/// use kmonitor_hub::Hub;
/// use kmonitor_supervisor::backend::linux::LinuxBackend;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = LinuxBackend::builder()
///     .hub(Hub::open().await?)
///     .state_dir("/run/app")
///     .build()
///     .await?;
/// if let Some(why) = backend.cgroups_unusable() {
///     eprintln!("children are followed as trees: {why}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct LinuxBackend {
    inner: Arc<Inner>,
}

/// What all incarnations share.
struct Inner {
    hub: Option<Hub>,
    state: Option<StateDir>,
    cgroups: Result<CgroupBase, String>,
    /// Children beyond these wait to be forked.
    spawns: Semaphore,
    /// `None` inside: there is no source that tells of forks.
    census: OnceCell<Option<Arc<Census>>>,
    orphans: Arc<OnceCell<Arc<Orphans>>>,
    subreaper: OnceLock<Subreaper>,
    reap_all: bool,
    /// Makes marks and cgroup names unique, with `run`.
    counter: AtomicU64,
    run: String,
    /// What a former run left, and this one has not started.
    left: Mutex<Vec<Record>>,
    /// Those of them that are our children: nobody but their tasks reaps them.
    kept: Mutex<HashMap<String, Registered>>,
    meant: Meant,
    claims: Claims,
}

impl LinuxBackend {
    /// A backend to one's own liking.
    pub fn builder() -> LinuxBackendBuilder {
        LinuxBackendBuilder {
            hub: None,
            state_dir: None,
            cgroup: None,
            reap_all: false,
            lock_patience: LOCK_PATIENCE_DEFAULT,
        }
    }

    /// Why there are no cgroups of children, if there are none: then
    /// [`KillScope::Best`](crate::spec::KillScope::Best) is a tree.
    pub fn cgroups_unusable(&self) -> Option<&str> {
        self.inner.cgroups.as_ref().err().map(String::as_str)
    }

    /// The directory that a next run finds this one's children by.
    pub fn state_dir(&self) -> Option<&Path> {
        self.inner.state.as_ref().map(StateDir::dir)
    }
}

impl Backend for LinuxBackend {
    /// Within a tokio runtime with I/O and time; without one it fails.
    fn start(&self, launch: Launch, reports: Reports) -> Box<dyn Running> {
        let (running, asked) = running::handle();
        incarnation::begin(Arc::clone(&self.inner), launch, reports, asked);
        Box::new(running)
    }
}

impl fmt::Debug for LinuxBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxBackend")
            .field("hub", &self.inner.hub)
            .field("state_dir", &self.state_dir())
            .field("cgroups_unusable", &self.cgroups_unusable())
            .finish_non_exhaustive()
    }
}

/// Makes a [`LinuxBackend`].
#[derive(Debug)]
pub struct LinuxBackendBuilder {
    hub: Option<Hub>,
    state_dir: Option<PathBuf>,
    cgroup: Option<PathBuf>,
    reap_all: bool,
    lock_patience: Duration,
}

impl LinuxBackendBuilder {
    /// Learns of processes that are not children from this hub, and follows trees by
    /// it if its source tells of forks.
    #[must_use]
    pub fn hub(mut self, hub: Hub) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Writes down there what runs, so that the next run adopts it. It should be
    /// emptied at boot, as `/run` is, but need not be. Without one, children go on
    /// unsupervised when this program dies, and those whose output is captured die of
    /// SIGPIPE when they write.
    ///
    /// It must be our own, and nobody else may write to it, because who is named there is
    /// killed. As long as children live that this program left it must stay: with
    /// systemd's `RuntimeDirectory=` that takes `RuntimeDirectoryPreserve=yes`, and
    /// `KillMode=process` for the children themselves.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Makes the children's cgroups below this directory (that was delegated to us)
    /// and not below our own cgroup.
    #[must_use]
    pub fn cgroup(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(dir.into());
        self
    }

    /// Every child of this program is this backend's to reap, whoever forked it: for
    /// PID 1, and for programs that do nothing but supervise. `tokio::process` and
    /// `std::process::Child::wait` do not work beside it.
    #[must_use]
    pub fn reap_all_children(mut self, all: bool) -> Self {
        self.reap_all = all;
        self
    }

    /// How long to wait for the lock of another supervisor; 5 s unless told.
    #[must_use]
    pub fn lock_patience(mut self, patience: Duration) -> Self {
        self.lock_patience = patience;
        self
    }

    /// Opens the state directory.
    ///
    /// # Errors
    /// Another supervisor uses it, or it cannot be used; or there is no `/proc`, or one of
    /// another PID namespace.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing stays open.
    pub async fn build(self) -> Result<LinuxBackend, StateError> {
        if let Some(why) = procfs::why_foreign() {
            return Err(StateError::NoProcesses { why });
        }
        let (state, left) = match &self.state_dir {
            Some(dir) => {
                let state = StateDir::open(dir, self.lock_patience).await?;
                let left = state.records()?;
                (Some(state), left)
            }
            None => (None, Vec::new()),
        };
        let patience = self.lock_patience;
        let backend = self.assemble(state, left);
        if let (Ok(base), Some(_)) = (&backend.inner.cgroups, &backend.inner.state) {
            base.lock(patience).await?;
        }
        backend.inner.clear_unnamed_cgroups();
        backend.inner.keep_left().await;
        if backend.inner.reap_all {
            backend.inner.orphans().await;
        }
        Ok(backend)
    }
}

impl LinuxBackendBuilder {
    /// For who gave no state directory, so that nothing can fail.
    pub(crate) fn build_without_state(self) -> LinuxBackend {
        self.assemble(None, Vec::new())
    }

    fn assemble(self, state: Option<StateDir>, left: Vec<Record>) -> LinuxBackend {
        let run = this_run();
        let base = match &state {
            // The same for the next run, which finds there what this one left.
            Some(state) => state.base_name(),
            None => format!("kmonitor-{run}"),
        };
        let cgroups = CgroupBase::create(self.cgroup.as_deref(), &base);
        if let Err(why) = &cgroups {
            tracing::info!(%why, "no cgroups for children");
        }
        LinuxBackend {
            inner: Arc::new(Inner {
                hub: self.hub,
                state,
                cgroups,
                spawns: Semaphore::new(SPAWNS_MAX),
                census: OnceCell::new(),
                orphans: Arc::default(),
                subreaper: OnceLock::new(),
                reap_all: self.reap_all,
                counter: AtomicU64::new(0),
                run,
                left: Mutex::new(left),
                kept: Mutex::default(),
                meant: Meant::default(),
                claims: Claims::default(),
            }),
        }
    }
}

impl Inner {
    /// A word that no other incarnation has, in this boot.
    fn next_word(&self) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{}-{count}", self.run)
    }

    /// Takes away from what is left what is started now.
    fn no_longer_left(&self, path: &str) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|record| record.path != path);
    }

    /// Leaders that a former run left and that are our children now are not to be reaped
    /// by who reaps orphans.
    async fn keep_left(&self) {
        let left = self
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for record in left {
            let Some(leader) = leftover::child(&record) else {
                continue;
            };
            let expected = orphans::Expected::new();
            if let Some(registered) = orphans::register(expected, leader, &record.marker).await {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.insert(record.path, registered);
            }
        }
    }

    /// Takes over the reaping of one of them.
    fn no_longer_kept(&self, path: &str) -> Option<Registered> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(path)
    }

    /// Kills what is in cgroups of ours that no record names: their children were
    /// never executed, or were known to have ended.
    fn clear_unnamed_cgroups(&self) {
        let (Ok(base), Some(_)) = (&self.cgroups, &self.state) else {
            return;
        };
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |path: &PathBuf| {
            let mut known = left.iter().filter_map(|record| record.cgroup.as_deref());
            known.any(|known| last_names(known) == last_names(path))
        };
        let unnamed = base.existing().into_iter().filter(|path| !named(path));
        for path in unnamed {
            tokio::spawn(async move {
                if let Err(error) = leftover::clear_cgroup(&path).await {
                    tracing::warn!(cgroup = %path.display(), %error, "cannot clear");
                }
            });
        }
    }

    /// The census, if the hub can follow trees. Makes us a subreaper, so that what is
    /// orphaned comes to us and not to init.
    async fn census(&self) -> Option<Arc<Census>> {
        let opened = self.census.get_or_init(|| async {
            let census = self.open_census().await;
            // Only now: who was orphaned before went elsewhere, so that whoever was our
            // child when the census began is the application's own.
            match Subreaper::begin() {
                Ok(subreaper) => drop(self.subreaper.set(subreaper)),
                Err(error) => tracing::warn!(%error, "orphans go to init"),
            }
            census
        });
        opened.await.clone()
    }

    async fn open_census(&self) -> Option<Arc<Census>> {
        let hub = self.hub.as_ref()?;
        let events = hub.capabilities().source.events;
        if !events.contains(EventMask::FORK | EventMask::EXIT) {
            return None;
        }
        match Census::open(hub).await {
            Ok((census, end)) => {
                let (orphans, all) = (Arc::downgrade(&self.orphans), self.reap_all);
                tokio::spawn(async move {
                    // Then nobody else reaps what came to us.
                    if end.await.is_ok()
                        && let Some(orphans) = orphans.upgrade()
                        && let Some(orphans) = started(&orphans, all).await
                    {
                        orphans.look().await;
                    }
                });
                Some(census)
            }
            Err(error) => {
                tracing::warn!(%error, "trees are scanned for");
                None
            }
        }
    }

    /// Who reaps what came to us, where no census does.
    async fn orphans(&self) -> Option<&Arc<Orphans>> {
        started(&self.orphans, self.reap_all).await
    }
}

/// Who reaps orphans, who begins now unless that was before.
async fn started(orphans: &OnceCell<Arc<Orphans>>, all: bool) -> Option<&Arc<Orphans>> {
    let started = orphans.get_or_try_init(|| async { Orphans::start(all) });
    match started.await {
        Ok(orphans) => Some(orphans),
        Err(error) => {
            tracing::warn!(%error, "orphans that come to us are not reaped");
            None
        }
    }
}

/// A word that no other run of this program has, in this boot.
fn this_run() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let me = procfs::own_pid();
    let start = procfs::stat(me).map_or(0, |stat| stat.start);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{me}-{start}-{count}")
}
