//! The command line of `kmonitor trace`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kmonitor::{EventMask, ProcessRef, SourceKind};

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Trace these processes: PID or PID:INODE, several joined by commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    #[arg(allow_negative_numbers = true, conflicts_with = "command")]
    pub(crate) pids: Vec<ProcessRef>,

    /// Trace all that descends from those processes, too
    #[arg(long, requires = "pids")]
    pub(crate) tree: bool,

    /// The events to print, joined by commas: names, or lifecycle, threads, all
    #[arg(short, long, value_name = "LIST", default_value = "lifecycle")]
    pub(crate) events: EventMask,

    /// Print the events of single threads, too
    #[arg(long)]
    pub(crate) threads: bool,

    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Print events to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Which time to print in text
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = TimeArg::Relative)]
    pub(crate) time: TimeArg,

    /// Stop when the command itself has ended, although descendants still run
    #[arg(long, requires = "command")]
    pub(crate) until_exit: bool,

    /// Print no summary and no live line
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Use this event source and no other
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) source: Option<SourceArg>,

    /// Run this command, and trace it with all its descendants until they end
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeArg {
    /// Seconds since the trace began
    Relative,
    /// The time of day, in UTC
    Wall,
    /// Seconds on the kernel's monotonic clock
    Monotonic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceArg {
    /// The kernel's proc connector
    Connector,
    /// One pidfd per process: exits of named processes only
    Pidfd,
}

impl From<SourceArg> for SourceKind {
    fn from(source: SourceArg) -> Self {
        match source {
            SourceArg::Connector => Self::Connector,
            SourceArg::Pidfd => Self::Pidfd,
        }
    }
}

impl TraceArgs {
    /// The events that are to be printed.
    pub(crate) fn mask(&self) -> EventMask {
        if self.threads {
            self.events | EventMask::THREADS
        } else {
            self.events
        }
    }
}
