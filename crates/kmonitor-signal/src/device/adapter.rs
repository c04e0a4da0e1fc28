//! The adapter as the registry of the device: what its errors are in numbers.

use std::error::Error;
use std::io;

use kmonitor_event::{EventMask, Pid};
use rustix::io::Errno;

use super::registry::{Refused, Registry, Session};
use crate::{DeregisterError, RegisterError, Signal, SignalAdapter, TargetGone};

impl Registry for SignalAdapter {
    type Session = crate::Session;

    /// As in 2004, nobody looks whether a target exists.
    fn session(&self) -> crate::Session {
        SignalAdapter::session(self).target_gone(TargetGone::Accept)
    }
}

impl Session for crate::Session {
    async fn register(
        &self,
        monitor: Pid,
        target: Pid,
        mask: EventMask,
        signal: i32,
    ) -> Result<(), Refused> {
        let signal = Signal::new(signal).map_err(|error| Refused::new(Errno::INVAL, &error))?;
        crate::Session::register(self, monitor, target, mask, signal)
            .await
            .map_err(|error| Refused::new(of_register(&error), &error))
    }

    async fn deregister(&self, monitor: Pid, target: Pid, mask: EventMask) -> Result<(), Refused> {
        crate::Session::deregister(self, monitor, target, mask)
            .await
            .map_err(|error| Refused::new(of_deregister(&error), &error))
    }
}

fn of_register(error: &RegisterError) -> Errno {
    match error {
        RegisterError::NoSuchMonitor { .. } | RegisterError::NoSuchTarget { .. } => Errno::SRCH,
        RegisterError::NotPermitted { .. } => Errno::PERM,
        RegisterError::ForeignNamespace { .. } | RegisterError::Subscribe { .. } => {
            Errno::OPNOTSUPP
        }
        RegisterError::TooMany { .. } => Errno::NOSPC,
        RegisterError::Closed { .. } => Errno::NODEV,
        RegisterError::Events(_) | RegisterError::Target { .. } => Errno::INVAL,
        RegisterError::Monitor { .. } | RegisterError::Io { .. } => of_cause(error),
    }
}

fn of_deregister(error: &DeregisterError) -> Errno {
    match error {
        DeregisterError::NoRecord { .. } => Errno::INVAL,
        DeregisterError::Closed { .. } => Errno::NODEV,
    }
}

/// What the system said, at the bottom of it all.
fn of_cause(error: &dyn Error) -> Errno {
    let mut cause = error.source();
    while let Some(error) = cause {
        let number = error.downcast_ref::<io::Error>();
        if let Some(errno) = number.and_then(Errno::from_io_error) {
            return errno;
        }
        cause = error.source();
    }
    Errno::IO
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::ProcessRef;

    #[test]
    fn the_number_is_that_of_the_cause() {
        let error = |number| RegisterError::Io {
            action: "try",
            source: io::Error::from_raw_os_error(number),
        };
        assert_eq!(of_register(&error(24)), Errno::MFILE);
        let nameless = RegisterError::Io {
            action: "try",
            source: io::ErrorKind::Other.into(),
        };
        assert_eq!(of_register(&nameless), Errno::IO);
        let process = ProcessRef::from(Pid::current());
        let none = DeregisterError::NoRecord {
            monitor: process,
            target: process,
        };
        assert_eq!(of_deregister(&none), Errno::INVAL);
    }
}
