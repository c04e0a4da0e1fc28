//! The command line of `kmonitor wait`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use kmonitor::ProcessRef;

use crate::duration;

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The processes: PID, or PID:INODE, which no reuse of the pid can fool
    #[arg(required = true, value_name = "PID", allow_negative_numbers = true)]
    pub(crate) targets: Vec<ProcessRef>,

    /// Return when any of the processes has ended
    #[arg(short = 'o', long, conflicts_with = "count")]
    pub(crate) any: bool,

    /// Return when N of the processes have ended
    #[arg(short, long, value_name = "N")]
    pub(crate) count: Option<NonZeroUsize>,

    /// Give up after this time and exit with 124: 1.5, 30s, 2m, 1h; 0 is no limit
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,

    /// Take processes that are gone already for ended ones, not for errors
    #[arg(short = 'e', long, visible_alias = "exited")]
    pub(crate) allow_gone: bool,

    /// Print how each process ended, and `timeout` when the time is over
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// At the end, print the pids of the processes that have not ended
    #[arg(short = 'p', long = "print-running")]
    pub(crate) print_running: bool,

    /// Print one JSON object a line for each process that ends
    #[arg(long)]
    pub(crate) json: bool,

    /// How long to wait, after a process's death, for its status to be known
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    #[arg(default_value = "1s", allow_negative_numbers = true)]
    pub(crate) grace: Duration,
}

impl WaitArgs {
    /// How long to wait at most.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.timeout.filter(|limit| !limit.is_zero())
    }
}
