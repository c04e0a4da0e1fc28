//! The words in which a tree tells what happened.

mod ending;
mod error;
mod event;
mod report;
mod status;

pub use ending::{End, Ending, StartFailure, TaskEnd};
pub use error::{BuildError, ControlError, Gone, StartTreeError};
pub use event::{Cause, Event, EventKind};
pub use report::{ChildReport, Report, TreeFailed};
pub use status::{ChildState, ChildStatus, Snapshot};
