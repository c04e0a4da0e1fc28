//! What happened to a process.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::status::fmt_exit_status;
use crate::{EventMask, Pid, ProcessKey, Status, Tid, Timestamp};

/// One event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The place in this stream, from 0, without gaps.
    pub seq: u64,
    /// When it happened, or when it was inferred.
    pub time: Timestamp,
    /// Whom it concerns: for a fork, the parent. `None` only where it concerns
    /// no process in particular ([`Lost`], [`Resync`], an unnamed event).
    pub process: Option<ProcessKey>,
    /// The process's parent, where that is known.
    pub parent: Option<Pid>,
    /// What happened.
    pub kind: EventKind,
    /// Whether it was concluded from the state of the system after a loss, and
    /// not reported by the kernel.
    pub inferred: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The process created a process.
    Fork {
        /// The new process.
        child: ProcessKey,
    },
    /// The process got another thread. The kernel does not tell which of its
    /// threads created it.
    ThreadCreate {
        /// The new thread.
        tid: Tid,
    },
    /// The process replaced its program. All its other threads are gone.
    Exec,
    /// A thread other than the first ended, and the process may live on.
    ThreadExit {
        /// The thread.
        tid: Tid,
        /// The code it ended with. It need not be the process's.
        status: ExitStatus,
    },
    /// The process ended: all its threads are dead. Comes once per process.
    Exit(Status),
    /// A task changed a user id.
    Uid {
        /// The task.
        tid: Tid,
        /// Its real user id now.
        real: u32,
        /// Its effective user id now.
        effective: u32,
    },
    /// A task changed a group id.
    Gid {
        /// The task.
        tid: Tid,
        /// Its real group id now.
        real: u32,
        /// Its effective group id now.
        effective: u32,
    },
    /// The process leads a new session.
    Sid,
    /// A tracer attached to a task, or (`None`) explicitly left it.
    Ptrace {
        /// The task.
        tid: Tid,
        /// The tracing process.
        tracer: Option<Pid>,
    },
    /// A task changed its name.
    Comm {
        /// The task.
        tid: Tid,
        /// Its name now.
        comm: Comm,
    },
    /// A signal of the core-dumping kind is ending the process. Whether a core
    /// was written, the exit's status tells.
    Coredump {
        /// The task that got the signal.
        tid: Tid,
    },
    /// Events are missing here.
    Lost(Lost),
    /// Following the tree of the named process may have missed some of the
    /// descendants that it had when following began: they were handed to
    /// another parent while the tree was being read. Comes at most once per
    /// call that follows a tree.
    TrackIncomplete,
    /// What the kernel lost is being found out, or has been: see [`Resync`].
    Resync(Resync),
    /// An event of the kernel's that this version has no name for.
    Other {
        /// The kernel's number for it.
        what: u32,
    },
}

impl EventKind {
    /// The stable name, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fork { .. } => "fork",
            Self::ThreadCreate { .. } => "thread_create",
            Self::Exec => "exec",
            Self::ThreadExit { .. } => "thread_exit",
            Self::Exit(_) => "exit",
            Self::Uid { .. } => "uid",
            Self::Gid { .. } => "gid",
            Self::Sid => "sid",
            Self::Ptrace { .. } => "ptrace",
            Self::Comm { .. } => "comm",
            Self::Coredump { .. } => "coredump",
            Self::Lost(_) => "lost",
            Self::TrackIncomplete => "track_incomplete",
            Self::Resync(_) => "resync",
            Self::Other { .. } => "other",
        }
    }

    /// The bits that select this event; empty for what every subscription gets.
    #[must_use]
    pub fn mask(&self) -> EventMask {
        match self {
            Self::Fork { .. } => EventMask::FORK,
            Self::ThreadCreate { .. } => EventMask::THREAD_CREATE,
            Self::Exec => EventMask::EXEC,
            Self::ThreadExit { status, .. } if status.signal().is_some() => {
                EventMask::THREAD_EXIT | EventMask::THREAD_ABORT
            }
            Self::ThreadExit { .. } => EventMask::THREAD_EXIT,
            Self::Exit(Status::Known { status, .. }) if status.signal().is_none() => {
                EventMask::EXIT
            }
            // An unknown status may hide an abnormal death: never filter it away.
            Self::Exit(_) => EventMask::EXIT | EventMask::ABORT,
            Self::Uid { .. } => EventMask::UID,
            Self::Gid { .. } => EventMask::GID,
            Self::Sid => EventMask::SID,
            Self::Ptrace { .. } => EventMask::PTRACE,
            Self::Comm { .. } => EventMask::COMM,
            Self::Coredump { .. } => EventMask::COREDUMP,
            Self::Other { .. } => EventMask::OTHER,
            Self::Lost(_) | Self::TrackIncomplete | Self::Resync(_) => EventMask::empty(),
        }
    }

    /// The thread in question, where the event is a thread's.
    #[must_use]
    pub const fn tid(&self) -> Option<Tid> {
        match self {
            Self::ThreadCreate { tid }
            | Self::ThreadExit { tid, .. }
            | Self::Uid { tid, .. }
            | Self::Gid { tid, .. }
            | Self::Ptrace { tid, .. }
            | Self::Comm { tid, .. }
            | Self::Coredump { tid } => Some(*tid),
            _ => None,
        }
    }
}

impl Event {
    /// An event with number 0, no known parent, and not inferred.
    #[must_use]
    pub const fn new(time: Timestamp, process: Option<ProcessKey>, kind: EventKind) -> Self {
        Self {
            seq: 0,
            time,
            process,
            parent: None,
            kind,
            inferred: false,
        }
    }

    /// The pid of the process it concerns.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process.map(|key| key.pid())
    }

    /// Whether a subscription with this mask gets this event.
    #[must_use]
    pub fn is_selected_by(&self, mask: EventMask) -> bool {
        let own = self.kind.mask();
        own.is_empty() || own.intersects(mask)
    }
}

/// One line for people: `12.000345 4711 exit: exited with status 3`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.time)?;
        match self.process {
            Some(key) => write!(f, "{key} ")?,
            None => f.write_str("- ")?,
        }
        write!(f, "{}", self.kind)?;
        if self.inferred {
            f.write_str(" (inferred)")?;
        }
        Ok(())
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Fork { child } => write!(f, ": child {child}"),
            Self::ThreadCreate { tid } | Self::Coredump { tid } => write!(f, ": thread {tid}"),
            Self::ThreadExit { tid, status } => {
                write!(f, ": thread {tid} ")?;
                fmt_exit_status(*status, f)
            }
            Self::Exit(status) => write!(f, ": {status}"),
            Self::Uid {
                tid,
                real,
                effective,
            }
            | Self::Gid {
                tid,
                real,
                effective,
            } => write!(f, ": thread {tid} real {real} effective {effective}"),
            Self::Ptrace {
                tid,
                tracer: Some(tracer),
            } => write!(f, ": thread {tid} traced by {tracer}"),
            Self::Ptrace { tid, tracer: None } => write!(f, ": thread {tid} no longer traced"),
            Self::Comm { tid, comm } => write!(f, ": thread {tid} is {comm}"),
            Self::Lost(lost) => write!(f, ": {lost}"),
            Self::Resync(resync) => write!(f, ": {resync}"),
            Self::Other { what } => write!(f, ": {what:#x}"),
            Self::Exec | Self::Sid | Self::TrackIncomplete => Ok(()),
        }
    }
}

/// Events that are missing from a stream at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Lost {
    /// Which queue was full.
    pub origin: LossOrigin,
    /// How many are missing; `None` where the kernel does not count them. A loss
    /// of the kernel's is counted over all events, wanted or not.
    pub count: Option<u64>,
}

impl Lost {
    /// A loss of `count` events.
    #[must_use]
    pub const fn new(origin: LossOrigin, count: Option<u64>) -> Self {
        Self { origin, count }
    }
}

/// The marks between which a stream tells what was missed in a loss of the kernel's.
///
/// `Begin` stands right after the [`Lost`] (of origin
/// [`Kernel`](LossOrigin::Kernel)) that made it necessary, `End` after the last
/// event that was found out, whose [`inferred`](Event::inferred) is true. Other
/// events and further losses stand between them as they come. The two take turns in
/// every stream, whatever its mask; a stream that ends meanwhile gets its `End`
/// first. A full queue sums marks up, as it does losses, and drops none that
/// would leave the two unpaired.
///
/// Found out are: of the processes that the stream tells of, the ends; and where it
/// follows a tree or tells of the whole host, the births (`Fork`) of those that were
/// born within the loss and live. The parent is then who it was when that was found
/// out. Who was born and died within the loss stays untold, and so do execs,
/// threads and all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resync {
    /// From here on the stream may lack something.
    Begin,
    /// From here on it lacks nothing again.
    End {
        /// Whether surely nobody who lives was missed. Not so where losses went on
        /// for too long, the system's processes could not be looked at, or, in a
        /// stream that follows a tree, a process that was born within the loss may
        /// have come from the tree and been handed to a parent above it; or, in one of
        /// the whole host, the parent of one is not known and so cannot be named.
        complete: bool,
    },
}

impl Resync {
    /// The stable name, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::End { .. } => "end",
        }
    }
}

impl fmt::Display for Resync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "finding out what was lost",
            Self::End { complete: true } => "found out what was lost",
            Self::End { complete: false } => "found out what was lost, perhaps not all",
        })
    }
}

/// Which queue was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossOrigin {
    /// The kernel's queue to us: the source was not read fast enough.
    Kernel,
    /// This subscription's own queue: its reader was not fast enough.
    Subscription,
}

impl LossOrigin {
    /// The stable name, as in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Subscription => "subscription",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            Some(1) => f.write_str("1 event")?,
            Some(count) => write!(f, "{count} events")?,
            None => f.write_str("an unknown number of events")?,
        }
        match self.origin {
            LossOrigin::Kernel => f.write_str(" (kernel queue full)"),
            LossOrigin::Subscription => f.write_str(" (this subscription's queue full)"),
        }
    }
}

/// A task's name: at most 15 bytes, not always UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Comm([u8; 16]);

impl Comm {
    /// The name up to the first NUL; what exceeds 15 bytes is cut off.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut comm = [0; 16];
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        for (to, from) in comm[..15].iter_mut().zip(text) {
            *to = *from;
        }
        Self(comm)
    }

    /// The bytes of the name, without a NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Comm({:?})", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// Printable on one line: what is no plain text is escaped.
impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.as_bytes());
        for character in text.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// The end of a watched process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The process.
    pub process: ProcessKey,
    /// How it ended.
    pub status: Status,
    /// When that was noticed.
    pub time: Timestamp,
    /// Whether it was concluded after a loss, and not reported by the kernel.
    pub inferred: bool,
}

impl Exit {
    /// The end of `process`, reported by the kernel.
    #[must_use]
    pub const fn new(process: ProcessKey, status: Status, time: Timestamp) -> Self {
        Self {
            process,
            status,
            time,
            inferred: false,
        }
    }
}

/// `4711:99 exited with status 3`.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.process, self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StatusSource, UnknownReason};

    fn exit(raw: i32) -> EventKind {
        EventKind::Exit(Status::from_raw(raw, StatusSource::Event))
    }

    #[test]
    fn abort_selects_abnormal_and_unknown_exits_only() {
        let unknown = EventKind::Exit(Status::Unknown(UnknownReason::EventLost));
        for (kind, aborted) in [(exit(0), false), (exit(9), true), (unknown, true)] {
            let event = Event::new(Timestamp::default(), None, kind);
            assert_eq!(event.is_selected_by(EventMask::ABORT), aborted, "{kind}");
            assert!(event.is_selected_by(EventMask::EXIT));
        }
    }

    #[test]
    fn a_loss_passes_every_mask() {
        let lost = EventKind::Lost(Lost::new(LossOrigin::Kernel, Some(2)));
        let event = Event::new(Timestamp::default(), None, lost);
        assert!(event.is_selected_by(EventMask::empty()));
        assert_eq!(
            event.to_string(),
            "0.000000 - lost: 2 events (kernel queue full)"
        );
    }

    #[test]
    fn names_of_kinds_are_names_of_masks() {
        let tid = Pid::new(5).unwrap().leader();
        let kinds = [
            EventKind::ThreadCreate { tid },
            EventKind::Exec,
            EventKind::Sid,
            exit(0),
            EventKind::Coredump { tid },
            EventKind::Other { what: 8 },
        ];
        for kind in kinds {
            assert_eq!(kind.mask().to_string(), kind.name());
        }
    }

    #[test]
    fn a_hostile_comm_stays_on_its_line() {
        let comm = Comm::new(b"a\n\x1b[2Jb\0tail");
        assert_eq!(comm.to_string(), "a\\n\\u{1b}[2Jb");
        assert_eq!(Comm::new(&[b'x'; 40]).as_bytes().len(), 15);
    }

    #[test]
    fn an_event_stays_small() {
        // Queues hold thousands of them.
        assert!(size_of::<Event>() <= 96, "{}", size_of::<Event>());
    }
}
