//! Declaring a tree, starting it, and what one holds then.

mod board;
mod builder;
mod child_handle;
mod command;
mod driver;
mod events;
mod handle;
mod nested;
mod outcome;
mod owner;
mod plan;
mod schedule;
mod service;
#[cfg(feature = "signals")]
mod signals;
mod task;

pub use builder::{Supervisor, SupervisorBuilder};
pub use child_handle::ChildHandle;
pub use command::Requested;
pub use events::Events;
pub use handle::Handle;
pub use owner::Tree;
pub use plan::ChildSpec;
pub use schedule::{Schedule, Scheduled};
pub use service::Service;
pub use task::{Task, TaskError};
