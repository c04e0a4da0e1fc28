//! Trees on simulated processes, under paused time.

mod control;
mod events;
mod many;
mod nested;
mod shutdown;
mod start;
mod tasks;
mod types;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use kmonitor_supervisor::backend::sim::Sim;
use kmonitor_supervisor::{Service, SupervisorBuilder, Tree};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A child whose program is named as it is.
fn service(name: &str) -> Service {
    Service::command(name, name)
}

async fn start(builder: SupervisorBuilder, sim: &Sim) -> Tree {
    let tree = builder.start_on(Arc::new(sim.clone())).await;
    tree.expect("all children are ready")
}
