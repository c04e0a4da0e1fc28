//! One event as one line: text in columns, or JSON.

use std::fmt::Write as _;
use std::io;

use anstyle::{AnsiColor, Style};
use kmonitor::{Event, EventKind, EventMask, Resync, Timestamp};
use serde::Serialize;

use super::clock::Clock;
use super::enrich::Program;
use super::words;
use crate::args::TraceArgs;
use crate::output::Output;

/// Prints the events that were asked for.
pub(crate) struct View {
    output: Output,
    mask: EventMask,
    /// The number of the next event printed: a reader can tell that it has all.
    next_seq: u64,
    format: Format,
    line: String,
}

enum Format {
    Json,
    Text { clock: Clock, name_width: usize },
}

/// The event's own fields, and what it runs beside them.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    #[serde(flatten)]
    program: Option<&'a Program>,
}

impl View {
    pub(crate) fn new(
        output: Output,
        args: &TraceArgs,
        mask: EventMask,
        started: Timestamp,
    ) -> Self {
        let format = if args.json {
            Format::Json
        } else {
            let lifecycle = EventMask::LIFECYCLE | EventMask::ABORT;
            Format::Text {
                clock: Clock::new(args.time, started),
                name_width: if lifecycle.contains(mask) {
                    "exec".len()
                } else {
                    "thread_create".len()
                },
            }
        };
        Self {
            output,
            mask,
            next_seq: 0,
            format,
            line: String::new(),
        }
    }

    /// Whether the event is among those that were asked for.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        event.is_selected_by(self.mask)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.output.is_closed()
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.output.is_terminal()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Prints an event, with what its process runs or is called.
    pub(crate) fn print(
        &mut self,
        event: &Event,
        program: Option<&Program>,
        name: Option<&str>,
    ) -> io::Result<()> {
        let mut event = *event;
        event.seq = self.next_seq;
        self.next_seq += 1;
        self.line.clear();
        match &self.format {
            Format::Json => {
                let line = Line {
                    event: &event,
                    program,
                };
                self.line = serde_json::to_string(&line)?;
            }
            Format::Text { clock, name_width } => {
                let line = &mut self.line;
                clock.write(event.time, line);
                match event.pid() {
                    Some(pid) => write!(line, " {pid:>7} "),
                    None => write!(line, " {:>7} ", "-"),
                }
                .map_err(io::Error::other)?;
                let before = line.chars().count() + name_width + 1;
                let mut detail = detail(&event, program, name);
                if let Some(columns) = self.output.columns() {
                    words::cut(&mut detail, columns.saturating_sub(before));
                }
                let style = if self.output.has_colours() {
                    style(&event)
                } else {
                    Style::new()
                };
                let name = event.kind.name();
                let padding = name_width.saturating_sub(name.len());
                write!(line, "{style}{name}{style:#}{:padding$} {detail}", "")
                    .map_err(io::Error::other)?;
                let trimmed = line.trim_end().len();
                line.truncate(trimmed);
            }
        }
        self.line.push('\n');
        self.output.write(self.line.as_bytes())
    }
}

fn detail(event: &Event, program: Option<&Program>, name: Option<&str>) -> String {
    let mut text = match (event.kind, program) {
        (EventKind::Exec, Some(program)) if !program.args.is_empty() => words::join(&program.args),
        (EventKind::Exec, Some(program)) => words::join(&[&program.comm]),
        (kind, _) => {
            let text = kind.to_string();
            let text = text.strip_prefix(kind.name()).unwrap_or(&text);
            text.strip_prefix(": ").unwrap_or(text).to_owned()
        }
    };
    if let (EventKind::Exit(_), Some(name)) = (event.kind, name) {
        let _ = write!(text, " ({})", words::join(&[name]));
    }
    if event.inferred {
        text.push_str(" (inferred)");
    }
    text
}

fn style(event: &Event) -> Style {
    let colour = match event.kind {
        EventKind::Fork { .. } => AnsiColor::Blue,
        EventKind::Exec => AnsiColor::Cyan,
        EventKind::Exit(status) if status.success() => AnsiColor::Green,
        EventKind::Exit(status) if status.known().is_none() => AnsiColor::Yellow,
        EventKind::Exit(_) | EventKind::Coredump { .. } => AnsiColor::Red,
        EventKind::Lost(_)
        | EventKind::TrackIncomplete
        | EventKind::Resync(Resync::End { complete: false }) => {
            return AnsiColor::Red.on_default().bold();
        }
        _ => return Style::new(),
    };
    colour.on_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor::{LossOrigin, Lost, Pid, ProcessKey, Status, StatusSource};

    fn event(kind: EventKind) -> Event {
        let key = ProcessKey::new(Pid::new(7).unwrap(), 1);
        Event::new(Timestamp::default(), Some(key), kind)
    }

    #[test]
    fn details_say_what_the_columns_do_not() {
        let program = Program {
            comm: "sh".to_owned(),
            args: vec!["sh".to_owned(), "-c".to_owned(), "exit 3".to_owned()],
            ..Program::default()
        };
        let exec = event(EventKind::Exec);
        assert_eq!(detail(&exec, Some(&program), None), "sh -c 'exit 3'");
        assert_eq!(detail(&exec, None, None), "");
        let mut exit = event(EventKind::Exit(Status::from_raw(
            0x300,
            StatusSource::Event,
        )));
        assert_eq!(detail(&exit, None, Some("sh")), "exited with status 3 (sh)");
        exit.inferred = true;
        assert_eq!(detail(&exit, None, None), "exited with status 3 (inferred)");
        let lost = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(2)));
        assert_eq!(
            detail(&event(lost), None, None),
            "2 events (kernel queue full)"
        );
    }

    #[test]
    fn the_program_stands_beside_the_fields_of_the_event() {
        let program = Program {
            comm: "sh".to_owned(),
            exe: Some("/bin/sh".to_owned()),
            args: vec!["sh".to_owned()],
            args_truncated: false,
        };
        let exec = event(EventKind::Exec);
        let line = Line {
            event: &exec,
            program: Some(&program),
        };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"type":"exec","seq":0,"time_ns":0,"pid":7,"incarnation":1,"comm":"sh","exe":"/bin/sh","args":["sh"]}"#
        );
        let line = Line {
            event: &exec,
            program: None,
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), exec);
    }
}
