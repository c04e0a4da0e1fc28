//! Whether an end asks for a restart, and who caused it.

use crate::Signal;
use crate::spec::{Codes, Restart};
use crate::words::{Cause, End, Ending, TaskEnd};

/// What follows from an end that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Restart,
    /// It stays down, unless a sibling's restart takes it along.
    Rest,
    /// It stays down.
    Barred,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Success,
    Failure,
    Abnormal,
    /// Nobody could know.
    Unknown,
}

pub(crate) fn class(codes: &Codes, ending: &Ending) -> Class {
    match ending {
        Ending::Process(status) => match (status.code(), status.signal()) {
            (Some(code), _) if code == 0 || codes.success.contains(&code) => Class::Success,
            (Some(_), _) => Class::Failure,
            (None, Some(signal)) if codes.success_signals.contains(&signal) => Class::Success,
            (None, Some(_)) => Class::Abnormal,
            (None, None) => Class::Unknown,
        },
        Ending::Task(TaskEnd::Done) => Class::Success,
        Ending::Task(TaskEnd::Failed(_)) => Class::Failure,
        Ending::Task(TaskEnd::Panicked(_) | TaskEnd::Aborted) => Class::Abnormal,
        Ending::Supervisor(End::Shutdown | End::AutoShutdown { .. }) => Class::Success,
        Ending::Supervisor(End::GaveUp { .. } | End::StartFailed { .. } | End::Lost) => {
            Class::Abnormal
        }
    }
}

/// Forbidding goes before forcing, and both go before the restart type.
pub(crate) fn verdict(restart: Restart, codes: &Codes, ending: &Ending) -> Verdict {
    let code = ending.status().and_then(|status| status.code());
    if code.is_some_and(|code| codes.forbid.contains(&code)) {
        return Verdict::Barred;
    }
    let forced = code.is_some_and(|code| codes.force.contains(&code));
    let wanted = match restart {
        Restart::Always => true,
        Restart::OnFailure => class(codes, ending) != Class::Success,
        Restart::OnAbnormal => class(codes, ending) == Class::Abnormal,
        Restart::Never => false,
    };
    if forced || wanted {
        Verdict::Restart
    } else {
        Verdict::Rest
    }
}

/// Signals that a process brings upon itself. SIGABRT and SIGPIPE can be sent from
/// outside as well, but hardly ever are.
const OWN_FAULTS: [Signal; 8] = [
    Signal::SEGV,
    Signal::BUS,
    Signal::FPE,
    Signal::ILL,
    Signal::TRAP,
    Signal::ABRT,
    Signal::PIPE,
    Signal::ALRM,
];

/// Why an end that was no stop of ours happened, given the last signal that a
/// request had us send.
pub(crate) fn cause(ending: &Ending, sent: Option<Signal>) -> Cause {
    let Some(signal) = ending.status().and_then(|status| status.signal()) else {
        return Cause::Itself;
    };
    if sent.is_some_and(|sent| sent.as_raw() == signal) {
        Cause::User
    } else if OWN_FAULTS.iter().any(|own| own.as_raw() == signal) {
        Cause::Itself
    } else {
        Cause::Outside
    }
}
