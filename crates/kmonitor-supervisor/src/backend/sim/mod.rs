//! Processes that are none: a backend for tests, under tokio's paused time.
//!
//! Each child runs a scripted [`Program`]; what the tree did to it is written down in
//! order. Time is tokio's, so with `start_paused` an hour of backoff takes no time, and
//! a test says exactly the same each time it runs.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use kmonitor_supervisor::{Service, Supervisor, backend::sim::{Program, Sim}};
//!
//! // In a test: #[tokio::test(start_paused = true)]
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true)
//! #     .build().unwrap().block_on(async {
//! let sim = Sim::new()
//!     .program("app/db", Program::new().ready_after(Duration::from_secs(20)))
//!     .programs("app/api", [
//!         Program::new().exits_after(Duration::from_secs(5), 1), // the first crashes,
//!         Program::new(),                                        // all others run.
//!     ]);
//! let tree = Supervisor::builder("app")
//!     .child(Service::command("db", "postgres"))
//!     .child(Service::command("api", "./api"))
//!     .start_on(Arc::new(sim.clone()))
//!     .await
//!     .expect("both are ready");
//! assert_eq!(sim.started(), ["app/db", "app/api"]);
//!
//! let api = tree.handle().child("api").expect("it is declared");
//! assert_eq!(api.exited().await?.status().and_then(|status| status.code()), Some(1));
//! api.ready().await?;
//! assert_eq!(api.status().restarts, 1);
//!
//! assert!(tree.shutdown().await.is_clean());
//! assert_eq!(sim.stopped(), ["app/api", "app/db"]);
//! assert_eq!(sim.overlaps(), 0);
//! # Ok::<(), kmonitor_supervisor::Gone>(())
//! # }).unwrap();
//! ```

mod log;
mod process;
mod program;
mod world;

pub use log::{Deed, What};
pub use program::{Escapee, Program};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::{Backend, Launch, Reports, Running};
use process::Puppet;
use world::World;

/// A backend whose processes are scripted. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Sim {
    world: Arc<Mutex<World>>,
}

impl Sim {
    /// Every child starts and is ready at once, runs until it is signalled, and leaves
    /// nothing behind, unless [`program`](Self::program) says otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the child with this path runs, in all its incarnations.
    #[must_use]
    pub fn program(self, path: impl Into<String>, program: Program) -> Self {
        self.programs(path, [program])
    }

    /// What the child with this path runs, one incarnation after the other; the last
    /// program is that of all later ones.
    #[must_use]
    pub fn programs(
        self,
        path: impl Into<String>,
        programs: impl IntoIterator<Item = Program>,
    ) -> Self {
        self.set_programs(path, programs);
        self
    }

    /// As [`programs`](Self::programs), while the tree runs: for the incarnations to
    /// come.
    pub fn set_programs(
        &self,
        path: impl Into<String>,
        programs: impl IntoIterator<Item = Program>,
    ) {
        let programs = programs.into_iter().collect();
        self.lock().scripts.insert(path.into(), programs);
    }

    /// All that happened, in order.
    pub fn log(&self) -> Vec<Deed> {
        self.lock().log.clone()
    }

    /// The paths of all incarnations that were started, in order.
    pub fn started(&self) -> Vec<String> {
        self.paths(|what| matches!(what, What::Started { .. }))
    }

    /// The paths of those that were told to stop, or killed without that, in order of
    /// the first word.
    pub fn stopped(&self) -> Vec<String> {
        let mut told = std::collections::BTreeSet::new();
        let world = self.lock();
        let words = world.log.iter().filter(|deed| {
            matches!(deed.what, What::Signalled { .. } | What::Killed)
                && told.insert((deed.path.clone(), deed.generation))
        });
        words.map(|deed| deed.path.to_string()).collect()
    }

    /// The paths of those of whom anything is left now.
    pub fn alive(&self) -> Vec<String> {
        let world = self.lock();
        world.alive.keys().map(ToString::to_string).collect()
    }

    /// How often an incarnation was started while something was left of the one before.
    /// Always 0, or the supervisor has a defect.
    pub fn overlaps(&self) -> usize {
        self.lock().overlaps
    }

    fn paths(&self, which: impl Fn(&What) -> bool) -> Vec<String> {
        let world = self.lock();
        let deeds = world.log.iter().filter(|deed| which(&deed.what));
        deeds.map(|deed| deed.path.to_string()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Sim {
    fn start(&self, launch: Launch, reports: Reports) -> Box<dyn Running> {
        let program = self.lock().begin(&launch.path);
        // Not bounded: what a supervisor sends is.
        let (strings, pulled) = mpsc::unbounded_channel();
        let left = Arc::default();
        let puppet = Puppet::new(self.clone(), launch, reports, program, Arc::clone(&left));
        tokio::spawn(puppet.live(pulled));
        Box::new(process::Strings::new(strings, left))
    }
}
