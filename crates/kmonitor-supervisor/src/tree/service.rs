//! Declaring a process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::plan::{ChildSpec, Common, Declared, common_settings};
use crate::spec::{Adopt, Codes, CommandSpec, Output, ProcessSpec, Readiness};

/// What most programs are ready within, if they will be at all.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A child that is a process.
///
/// ```
/// use std::time::Duration;
/// use kmonitor_supervisor::{Service, Signal, spec::{KillScope, Readiness, Stop}};
///
/// let db = Service::command("db", "postgres")
///     .args(["-D", "/data"])
///     .ready(Readiness::Tcp(([127, 0, 0, 1], 5432).into()), Duration::from_secs(60))
///     .stop(Stop::signal(Signal::INT).grace(Duration::from_secs(30)).scope(KillScope::Tree));
/// # let _ = db;
/// ```
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    common: Common,
    spec: ProcessSpec,
}

impl Service {
    /// A child of this name: this program, a path or to be found in `PATH`. It is
    /// ready when it was executed, unless told.
    pub fn command(name: impl Into<String>, program: impl Into<OsString>) -> Self {
        Self::new(name, ProcessSpec::command(CommandSpec::new(program)))
    }

    /// A child of this name: a process that is there already. When it has ended there
    /// is nothing to start, unless [`or_command`](Self::or_command) says what.
    pub fn adopt(name: impl Into<String>, whom: Adopt) -> Self {
        Self::new(name, ProcessSpec::adopt(whom))
    }

    /// A child of this name, specified.
    pub fn new(name: impl Into<String>, spec: ProcessSpec) -> Self {
        Self {
            name: name.into(),
            common: Common {
                ready_within: Some(READY_WITHIN),
                ..Common::default()
            },
            spec,
        }
    }

    common_settings!();

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.args.extend(args.into_iter().map(Into::into));
        }
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(self, arg: impl Into<OsString>) -> Self {
        self.args([arg])
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.env.push((key.into(), Some(value.into())));
        }
        self
    }

    /// It does not get this variable from us.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.env.push((key.into(), None));
        }
        self
    }

    /// It gets none of our variables.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.env_clear = true;
        }
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.dir = Some(dir.into());
        }
        self
    }

    /// Its user and group.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        if let Some(command) = &mut self.spec.command {
            command.user = Some((uid, gid));
        }
        self
    }

    /// When it is ready, and how long that may take.
    #[must_use]
    pub fn ready(mut self, ready: Readiness, within: Duration) -> Self {
        self.spec.ready = ready;
        self.common.ready_within = Some(within);
        self
    }

    /// What becomes of what it writes.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.spec.output = output;
        self
    }

    /// Ends that count otherwise than usual.
    #[must_use]
    pub fn codes(mut self, codes: Codes) -> Self {
        self.common.codes = codes;
        self
    }

    /// The first time, takes over this process instead of starting one, if it is
    /// there.
    #[must_use]
    pub fn adopting(mut self, whom: Adopt) -> Self {
        self.spec.adopt = Some(whom);
        self
    }

    /// What to start when there is nobody to adopt, or who was adopted has ended. For
    /// [`args`](Self::args) and the like to follow.
    #[must_use]
    pub fn or_command(mut self, program: impl Into<OsString>) -> Self {
        self.spec.command = Some(CommandSpec::new(program));
        self
    }
}

impl From<Service> for ChildSpec {
    fn from(service: Service) -> Self {
        Self {
            name: service.name,
            common: service.common,
            body: Declared::Process(service.spec),
        }
    }
}
