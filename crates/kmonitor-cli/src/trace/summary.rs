//! What a trace amounts to, in one line at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kmonitor::{Event, EventKind, Status, Timestamp};

use super::table::Table;
use crate::complain::complain;

/// How a process ended, to count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Code(i32),
    Signal(i32),
    Unknown,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// Counts of what was in the stream.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    events: u64,
    execs: u64,
    /// Bounded: there are 256 codes and 64 signals.
    exits: BTreeMap<Outcome, u64>,
    lost: u64,
    /// Losses that nobody counted.
    lost_uncounted: u64,
}

impl Summary {
    pub(crate) fn count(&mut self, event: &Event) {
        match event.kind {
            EventKind::Lost(lost) => {
                match lost.count {
                    Some(count) => self.lost += count,
                    None => self.lost_uncounted += 1,
                }
                return;
            }
            // Nothing that happened.
            EventKind::Resync(_) => return,
            EventKind::Exec => self.execs += 1,
            EventKind::Exit(status) => *self.exits.entry(status.into()).or_default() += 1,
            _ => {}
        }
        self.events += 1;
    }

    /// For the live line.
    pub(crate) fn live(&self, table: &Table) -> String {
        let mut line = count(self.events, "event");
        if let Some(alive) = table.alive() {
            let _ = write!(line, ", {} alive", count(alive as u64, "process"));
        }
        let _ = write!(line, ", {}", self.losses());
        line
    }

    /// The last words, on stderr.
    pub(crate) fn print(&self, table: &Table, started: Timestamp) {
        complain(self.line(table, started, Timestamp::now()));
    }

    fn line(&self, table: &Table, started: Timestamp, now: Timestamp) -> String {
        let mut line = match table.seen() {
            Some(seen) => format!("{}, ", count(seen, "process")),
            None => String::new(),
        };
        let _ = write!(line, "{}, ", count(self.execs, "exec"));
        let exits: u64 = self.exits.values().sum();
        line.push_str(&count(exits, "exit"));
        let mut separator = " (";
        for (outcome, number) in &self.exits {
            line.push_str(separator);
            separator = ", ";
            let _ = match outcome {
                Outcome::Code(code) => write!(line, "{number} with status {code}"),
                Outcome::Signal(signal) => write!(line, "{number} by signal {signal}"),
                Outcome::Unknown => write!(line, "{number} unknown"),
            };
        }
        if exits > 0 {
            line.push(')');
        }
        let took = now.saturating_since(started).as_secs_f64();
        let _ = write!(line, ", {} in {took:.3} s", self.losses());
        line
    }

    fn losses(&self) -> String {
        match (self.lost, self.lost_uncounted) {
            (lost, 0) => format!("{lost} lost"),
            (0, _) => "an unknown number lost".to_owned(),
            (lost, _) => format!("more than {lost} lost"),
        }
    }
}

fn count(number: u64, what: &str) -> String {
    let ending = match (number, what) {
        (1, _) => "",
        (_, "process") => "es",
        _ => "s",
    };
    format!("{number} {what}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor::{LossOrigin, Lost, StatusSource, UnknownReason};

    #[test]
    fn all_that_was_counted_is_told() {
        let mut summary = Summary::default();
        let known = |raw| EventKind::Exit(Status::from_raw(raw, StatusSource::Event));
        let kinds = [
            EventKind::Exec,
            known(0),
            known(0),
            known(0x100),
            known(9),
            EventKind::Exit(Status::Unknown(UnknownReason::EventLost)),
            EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(3))),
        ];
        for kind in kinds {
            summary.count(&Event::new(Timestamp::default(), None, kind));
        }
        let (from, to) = (Timestamp::default(), Timestamp::from_nanos(1_500_000_000));
        assert_eq!(
            summary.line(&Table::of_all(false), from, to),
            "1 exec, 5 exits (2 with status 0, 1 with status 1, 1 by signal 9, 1 unknown), \
             3 lost in 1.500 s"
        );
        let uncounted = EventKind::Lost(Lost::new(LossOrigin::Kernel, None));
        summary.count(&Event::new(Timestamp::default(), None, uncounted));
        assert_eq!(
            summary.live(&Table::of_all(true)),
            "6 events, 0 processes alive, more than 3 lost"
        );
    }
}
