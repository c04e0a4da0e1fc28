//! The live line: what has come so far, at the bottom of the terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Often enough to look alive, seldom enough to cost nothing.
const PERIOD: Duration = Duration::from_millis(250);

/// Begins the line anew, and empties it.
const ERASE: &str = "\r\x1b[2K";

/// A line on stderr that is written over again and again, on a terminal only.
///
/// Not while a command runs: what that prints to the same terminal would be
/// mixed into the line.
pub(crate) struct Live {
    interval: Option<Interval>,
    shown: bool,
}

impl Live {
    pub(crate) fn new(off: bool) -> Self {
        let interval = (!off && io::stderr().is_terminal()).then(|| {
            let mut interval = tokio::time::interval_at(Instant::now() + PERIOD, PERIOD);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self {
            interval,
            shown: false,
        }
    }

    /// Resolves when the line is due; never where there is none.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Shows the line. A terminal that cannot be written to is no error.
    pub(crate) fn show(&mut self, line: &str) {
        let _ = write!(io::stderr(), "{ERASE}{line}");
        self.shown = true;
    }

    /// Makes room for other output.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "{ERASE}");
            self.shown = false;
        }
    }
}
