//! What `kmonitor notify` prints.

use std::io;

use kmonitor::ProcessRef;
use kmonitor::signal::SignalStats;
use serde::Serialize;

use crate::args::NotifyArgs;
use crate::output::Output;

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    TargetsEnded,
    MonitorEnded,
    Interrupted,
    Failed,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Registered {
        monitor: String,
        target: String,
        events: String,
        signal: String,
        signal_number: i32,
    },
    Finished {
        reason: Reason,
        sent: u64,
        dropped: u64,
        withdrawn: u64,
        refused: u64,
        lost: u64,
    },
}

/// Prints each line at once: scripts wait for the first ones.
pub(crate) struct Report<'a> {
    output: Output,
    args: &'a NotifyArgs,
}

impl<'a> Report<'a> {
    pub(crate) fn new(args: &'a NotifyArgs) -> Self {
        let output = Output::stdout();
        Self { output, args }
    }

    pub(crate) fn registered(&mut self, target: ProcessRef) -> io::Result<()> {
        let NotifyArgs {
            monitor, signal, ..
        } = self.args;
        let events = self.args.mask();
        let text = format!("{monitor} is told by {signal} of {target}: {events}");
        let line = Line::Registered {
            monitor: monitor.to_string(),
            target: target.to_string(),
            events: events.to_string(),
            signal: signal.to_string(),
            signal_number: signal.as_raw(),
        };
        self.line(&line, &text)
    }

    pub(crate) fn finished(&mut self, reason: Reason, stats: &SignalStats) -> io::Result<()> {
        let lost = lost(stats);
        let why = match reason {
            Reason::TargetsEnded => "all have ended",
            Reason::MonitorEnded => "the monitor has ended",
            Reason::Interrupted => "interrupted",
            Reason::Failed => "failed",
        };
        let text = format!(
            "{why}: {} sent, {} dropped, {} withdrawn, {} refused, {lost} events lost",
            stats.sent, stats.dropped, stats.withdrawn, stats.refused
        );
        let line = Line::Finished {
            reason,
            sent: stats.sent,
            dropped: stats.dropped,
            withdrawn: stats.withdrawn,
            refused: stats.refused,
            lost,
        };
        self.line(&line, &text)
    }

    fn line(&mut self, line: &Line, text: &str) -> io::Result<()> {
        let mut bytes = if self.args.json {
            serde_json::to_vec(line)?
        } else if self.args.verbose {
            text.as_bytes().to_vec()
        } else {
            return Ok(());
        };
        bytes.push(b'\n');
        self.output.write(&bytes)?;
        self.output.flush()
    }
}

/// Events that were not seen, as far as anybody counted them.
pub(crate) fn lost(stats: &SignalStats) -> u64 {
    stats
        .lost_by_kernel
        .saturating_add(stats.lost_by_adapter)
        .saturating_add(stats.losses_uncounted)
}
