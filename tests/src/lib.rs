//! What the real-kernel integration tests share: the hazard program, its
//! driver, and the small tools that force pid reuse, missing privilege and
//! foreign namespaces.
//!
//! * [`scenario`]: the hazards, and which wait statuses each may end with;
//! * [`hazard`]: the `hazard` program itself (its binary only calls it);
//! * [`driver`]: starts `hazard` from a test and speaks its protocol;
//! * [`puppets`]: processes that do what a test says, and [`puppet`], their
//!   program;
//! * [`chain`]: processes that each create the next and end at once;
//! * [`listener`]: a monitor that says which signals it got;
//! * [`restricted`]: without `pidfd_open`;
//! * [`reuse`]: a child with exactly the pid one wants;
//! * [`isolation`]: commands as another user or in other namespaces;
//! * [`rng`]: a seeded generator whose seed is printed.
#![deny(unsafe_code)]

pub mod chain;
pub mod driver;
pub mod hazard;
pub mod isolation;
pub mod listener;
pub mod puppet;
pub mod puppets;
pub mod restricted;
pub mod reuse;
pub mod rng;
pub mod scenario;
#[expect(
    unsafe_code,
    reason = "fork, clone3 and exits of single threads exist only as raw calls"
)]
mod sys;

pub use driver::{Hazard, RunningHazard, StormReport, storm};
pub use isolation::{in_unshare, run_as_nobody};
pub use listener::{Listener, Told};
pub use puppets::Puppets;
pub use restricted::without_pidfd_open;
pub use reuse::{HeldPid, set_next_pid, spawn_with_pid};
pub use rng::Rng;
pub use scenario::Scenario;
