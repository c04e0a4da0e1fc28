//! From a line of a recording to a fact.

use std::os::unix::process::ExitStatusExt;

use kmonitor_event::{Event, EventKind};

use crate::{Fact, FactKind};

/// The fact of one line; `None` for events that are no fact.
///
/// # Errors
/// The line is no event; in words.
pub(super) fn fact_of_line(line: &[u8]) -> Result<Option<Fact>, String> {
    let event: Event = serde_json::from_slice(line).map_err(|error| {
        // "… at line 1 column 7" speaks of this line, not of the recording.
        let text = error.to_string();
        match text.rsplit_once(" at line ") {
            Some((message, _)) => format!("{message} (column {})", error.column()),
            None => text,
        }
    })?;
    fact_of_event(&event)
}

fn fact_of_event(event: &Event) -> Result<Option<Fact>, String> {
    let named = || {
        let name = event.kind.name();
        event
            .pid()
            .ok_or_else(|| format!("a {name:?} event needs the field \"pid\""))
    };
    let kind = match event.kind {
        EventKind::Fork { child } => FactKind::Forked {
            parent: Some(named()?),
            child: child.pid(),
        },
        EventKind::ThreadCreate { tid } => FactKind::ThreadCreated {
            process: named()?,
            tid,
        },
        EventKind::Exec => FactKind::Execed { process: named()? },
        EventKind::ThreadExit { tid, status } => FactKind::TaskExited {
            process: named()?,
            tid,
            code: status.into_raw(),
            parent: event.parent,
        },
        EventKind::Exit(status) => FactKind::GroupDead {
            process: named()?,
            key: None,
            status,
        },
        EventKind::Uid {
            tid,
            real,
            effective,
        } => FactKind::Uid {
            process: named()?,
            tid,
            real,
            effective,
        },
        EventKind::Gid {
            tid,
            real,
            effective,
        } => FactKind::Gid {
            process: named()?,
            tid,
            real,
            effective,
        },
        EventKind::Sid => FactKind::Sid { process: named()? },
        EventKind::Ptrace { tid, tracer } => FactKind::Ptrace {
            process: named()?,
            tid,
            tracer,
        },
        EventKind::Comm { tid, comm } => FactKind::Comm {
            process: named()?,
            tid,
            comm,
        },
        EventKind::Coredump { tid } => FactKind::Coredump {
            process: named()?,
            tid,
            parent: event.parent,
        },
        EventKind::Lost(lost) => FactKind::Lost { count: lost.count },
        EventKind::Other { what } => FactKind::Other {
            what,
            process: event.pid(),
        },
        // `TrackIncomplete`, `Resync`, and what later versions may add: no facts.
        _ => return Ok(None),
    };
    Ok(Some(Fact::new(event.time, kind)))
}
