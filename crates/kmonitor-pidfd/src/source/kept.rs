//! What has been told of one followed process, and one that is held by a pidfd.

use std::io;

use kmonitor_event::{ProcessKey, Status, Timestamp};
use kmonitor_source::{Fact, FactKind};

use crate::pidfd::{Pidfd, Readiness};

/// What has been told of one process: its death once, then its reaping once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    dead: bool,
    /// The best status that was told with the death.
    status: Option<Status>,
}

impl Told {
    /// Tells of the death, if that was not done.
    pub(super) fn dead(
        &mut self,
        key: ProcessKey,
        status: Status,
        now: Timestamp,
        push: &mut impl FnMut(Fact),
    ) {
        if self.dead {
            return;
        }
        self.dead = true;
        self.status = Some(status);
        push(Fact::new(
            now,
            FactKind::GroupDead {
                process: key.pid(),
                key: Some(key),
                status,
            },
        ));
    }

    /// Tells of the reaping, and before it of the death if that was not done.
    pub(super) fn reaped(
        &mut self,
        key: ProcessKey,
        status: Status,
        now: Timestamp,
        push: &mut impl FnMut(Fact),
    ) {
        // What was read of the zombie is never worse than what is left of it.
        let status = match self.status {
            Some(known @ Status::Known { .. }) => known,
            _ => status,
        };
        self.dead(key, status, now, push);
        push(Fact::new(
            now,
            FactKind::Reaped {
                process: key.pid(),
                key: Some(key),
                status,
            },
        ));
    }
}

/// A process that is held by a pidfd.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) key: ProcessKey,
    pub(super) pidfd: Pidfd,
    pub(super) told: Told,
}

impl Kept {
    /// Looks at it now and tells what is new; how far it has got.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        push: &mut impl FnMut(Fact),
    ) -> io::Result<Readiness> {
        let readiness = self.pidfd.readiness()?;
        match readiness {
            Readiness::Alive => {}
            Readiness::Zombie if self.told.dead => {}
            Readiness::Zombie => {
                let status = self.pidfd.status_when(readiness)?;
                self.told
                    .dead(self.key, status.unwrap_or(Status::Pending), now, push);
            }
            Readiness::Reaped => {
                self.told
                    .reaped(self.key, self.pidfd.exit_info(), now, push);
            }
        }
        Ok(readiness)
    }
}
