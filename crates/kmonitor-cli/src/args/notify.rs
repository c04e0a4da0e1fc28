//! The command line of `kmonitor notify`.

use clap::Args;
use kmonitor::signal::Signal;
use kmonitor::{EventMask, ProcessRef};

/// What a signal can tell: the events of 2004.
const TELLABLE: EventMask = EventMask::from_bits_retain(0x7f);

#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// Whom to tell: PID or PID:INODE
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true)]
    pub(crate) monitor: ProcessRef,

    /// Of whom to tell: PID or PID:INODE, several joined by commas
    #[arg(short = 'p', long = "target", value_name = "PID", required = true)]
    #[arg(value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) targets: Vec<ProcessRef>,

    /// What to tell, joined by commas: fork, exec, exit, abort, or lifecycle,
    /// threads, all
    #[arg(short, long, value_name = "LIST", default_value = "exit")]
    pub(crate) events: EventMask,

    /// By which signal: RTMIN+N, a name or a number
    #[arg(short, long, value_name = "SIGNAL", default_value = "RTMIN")]
    pub(crate) signal: Signal,

    /// Do not look whether the monitor expects the signal
    #[arg(long)]
    pub(crate) force: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Print what was registered, and a summary at the end
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl NotifyArgs {
    /// The events to tell. `all` is all that a signal can.
    pub(crate) fn mask(&self) -> EventMask {
        if self.events == EventMask::all() {
            TELLABLE
        } else {
            self.events
        }
    }
}
