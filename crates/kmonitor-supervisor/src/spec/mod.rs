//! What is to run, and how it is to be kept running.

mod name;
mod policy;
mod process;

pub use name::{ChildName, ChildPath, NameError};
pub use policy::{AutoShutdown, Backoff, Codes, Intensity, KillScope, Restart, Stop, Strategy};
pub use process::{Adopt, CommandSpec, Output, ProcessSpec, Readiness};
