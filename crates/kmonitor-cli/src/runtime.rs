//! The runtime that a command runs on.

use crate::complain::{chain, complain};
use crate::exit::Code;

/// A runtime on this thread; a complaint and the exit code if there is none.
pub(crate) fn start() -> Result<tokio::runtime::Runtime, Code> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(|error| {
        complain(format_args!("cannot start the runtime: {}", chain(&error)));
        Code::Failure
    })
}
