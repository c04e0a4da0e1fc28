//! A program that is its tree: signals end it, or make it read its declaration anew.

use std::io;
use std::sync::Arc;

use futures::StreamExt;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::handle::Handle;
use super::owner::Tree;
use crate::words::Report;

impl Tree {
    /// Runs until the tree ends. SIGTERM and SIGINT shut it down in order; a second one
    /// skips the grace. SIGHUP is caught, and does nothing.
    ///
    /// Also while the tree starts, which then is rolled back: where a signal may come then,
    /// [`begin`](crate::SupervisorBuilder::begin) rather than
    /// [`start`](crate::SupervisorBuilder::start) it, or what was started outlives a
    /// program that is ended in the middle of that. The handlers are there from when this
    /// is first polled.
    ///
    /// That the tree ended otherwise than it should (did not start, gave up, left
    /// something) is in the report, and no error here: see [`Report::result`].
    ///
    /// The handlers stay for as long as the program runs: once this has resolved, or was
    /// dropped, the three signals do nothing until it is called again. A program that
    /// goes on after its tree sets handlers of its own, or ends by itself.
    ///
    /// # Errors
    /// The handlers could not be installed; the tree goes on.
    ///
    /// # Cancel safety
    /// Dropped, the tree goes on, without anybody to hear signals. Can be called again.
    pub async fn run_until_signal(&self) -> io::Result<Arc<Report>> {
        self.run_with_signals(|_| {}).await
    }

    /// As [`run_until_signal`](Self::run_until_signal), and at SIGHUP calls this, which
    /// may read the declaration anew and call [`Handle::reload`]. It must not block.
    ///
    /// # Errors
    /// The handlers could not be installed; the tree goes on.
    ///
    /// # Cancel safety
    /// As [`run_until_signal`](Self::run_until_signal).
    pub async fn run_with_signals(
        &self,
        mut reload: impl FnMut(&Handle),
    ) -> io::Result<Arc<Report>> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = self.handle();
        let mut asked = false;
        loop {
            tokio::select! {
                report = self.wait() => return Ok(report),
                Some(signal) = signals.next() => match signal {
                    SIGHUP => reload(&handle),
                    _ if std::mem::replace(&mut asked, true) => handle.shutdown_now(),
                    _ => handle.shutdown(),
                },
            }
        }
    }
}
