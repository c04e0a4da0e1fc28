//! The command that is traced.

use std::ffi::OsString;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use kmonitor::{Pid, Watch};
use tokio::time::Instant;

use crate::complain::{chain, complain};
use crate::exit::Code;

/// How long a dead command stays a zombie for the hub to ask how it ended. Less
/// than the hub's own patience, so that the hub learns of the reaping.
const ZOMBIE_TIME: Duration = Duration::from_millis(500);

/// How long after the command's death its exit event may take to come. It comes
/// within the hub's grace of a second, unless the kernel had no memory for it.
const EVENT_TIME: Duration = Duration::from_secs(5);

/// How often a command that cannot be watched is asked whether it has ended.
const ASK_PERIOD: Duration = Duration::from_millis(50);

/// A child of ours, from its spawning to its reaping.
pub(crate) struct Traced {
    child: Child,
    pid: Pid,
    watch: Watch,
    died: Option<Instant>,
    status: Option<ExitStatus>,
}

impl Traced {
    /// Runs the command, with our own stdin, stdout and stderr.
    pub(crate) fn spawn(words: &[OsString]) -> Result<Self, Code> {
        let (program, args) = words.split_first().ok_or(Code::Usage)?;
        let child = Command::new(program).args(args).spawn().map_err(|error| {
            let name = program.to_string_lossy();
            if error.kind() == io::ErrorKind::NotFound {
                complain(format_args!("{name}: command not found"));
                Code::NotFound
            } else {
                complain(format_args!(
                    "{name}: cannot be executed: {}",
                    chain(&error)
                ));
                Code::NotExecutable
            }
        })?;
        let watch = kmonitor::watch(&child);
        let pid = Pid::try_from(child.id()).map_err(|error| {
            complain(chain(&error));
            Code::Failure
        })?;
        Ok(Self {
            child,
            pid,
            watch,
            died: None,
            status: None,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Resolves once, when the command is dead; it is a zombie then.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn death(&mut self) {
        if self.died.is_some() {
            return std::future::pending().await;
        }
        if self.watch.exited().await.is_err() {
            // No descriptor was left, for one. A child can always be asked.
            while let Ok(None) = self.child.try_wait() {
                tokio::time::sleep(ASK_PERIOD).await;
            }
        }
        self.died = Some(Instant::now());
    }

    /// When the command is to be reaped at the latest.
    pub(crate) fn reap_by(&self) -> Option<Instant> {
        match self.status {
            None => self.died.map(|died| died + ZOMBIE_TIME),
            Some(_) => None,
        }
    }

    /// When to stop believing that the stream will tell of the command's death.
    pub(crate) fn give_up_by(&self) -> Option<Instant> {
        self.died.map(|died| died + EVENT_TIME)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.died.is_some() || self.is_reaped()
    }

    pub(crate) fn is_reaped(&self) -> bool {
        self.status.is_some()
    }

    /// Takes the command's status; waits for its death if it lives.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}
