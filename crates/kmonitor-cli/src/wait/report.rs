//! What `kmonitor wait` prints, line by line as it happens.

use std::io;

use kmonitor::{Exit, ProcessKey, ProcessRef, Status, Timestamp, UnknownReason};
use serde::Serialize;

use crate::output::Output;

/// How ends are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Not at all.
    None,
    /// As FreeBSD's `pwait -v` does.
    Text,
    Json,
}

/// Prints each line at once: there are few, and who waits wants to know. A
/// closed pipe ends the printing, not the waiting.
pub(crate) struct Report {
    output: Output,
    format: Format,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notice {
    Running {
        pid: kmonitor::Pid,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    Timeout {
        time_ns: Timestamp,
    },
}

impl Report {
    pub(crate) fn new(output: Output, format: Format) -> Self {
        Self { output, format }
    }

    /// A process ended.
    pub(crate) fn ended(&mut self, exit: &Exit) -> io::Result<()> {
        match self.format {
            Format::None => Ok(()),
            Format::Text => self.line(&text(exit)),
            Format::Json => self.json(exit),
        }
    }

    /// A process had ended before it was looked for.
    pub(crate) fn gone(&mut self, process: ProcessRef) -> io::Result<()> {
        let key = ProcessKey::new(process.pid, 0).with_inode(process.inode);
        let status = Status::Unknown(UnknownReason::ReapedUnseen);
        self.ended(&Exit::new(key, status, Timestamp::now()))
    }

    /// The time is over.
    pub(crate) fn timeout(&mut self) -> io::Result<()> {
        match self.format {
            Format::None => Ok(()),
            Format::Text => self.line("timeout"),
            Format::Json => self.json(&Notice::Timeout {
                time_ns: Timestamp::now(),
            }),
        }
    }

    /// A process has not ended.
    pub(crate) fn running(&mut self, key: ProcessKey) -> io::Result<()> {
        match self.format {
            Format::None | Format::Text => self.line(&key.pid().to_string()),
            Format::Json => self.json(&Notice::Running {
                pid: key.pid(),
                key: key.inode().map(|_| key.to_string()),
            }),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn json(&mut self, what: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(what)?;
        self.line(&line)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.output.write(line.as_bytes())?;
        self.output.write(b"\n")?;
        self.output.flush()
    }
}

fn text(exit: &Exit) -> String {
    let pid = exit.process.pid();
    if let Some(code) = exit.status.code() {
        format!("{pid}: exited with status {code}.")
    } else if let Some(signal) = exit.status.signal() {
        format!("{pid}: killed by signal {signal}.")
    } else {
        format!("{pid}: terminated.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor::{Pid, StatusSource};

    #[test]
    fn ends_read_as_those_of_pwait() {
        let key = ProcessKey::new(Pid::new(7).unwrap(), 0);
        let line = |status| text(&Exit::new(key, status, Timestamp::default()));
        let known = |raw| Status::from_raw(raw, StatusSource::PidfdInfo);
        assert_eq!(line(known(0x300)), "7: exited with status 3.");
        assert_eq!(line(known(9)), "7: killed by signal 9.");
        assert_eq!(line(known(0x8b)), "7: killed by signal 11.");
        let unknown = Status::Unknown(UnknownReason::NotReaped);
        assert_eq!(line(unknown), "7: terminated.");
    }
}
