//! A child that is a process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use kmonitor_event::{Pid, ProcessRef};

/// A program and what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandSpec {
    /// A path, or a name to be looked for in `PATH`.
    pub program: OsString,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// Whether it starts without our environment.
    pub env_clear: bool,
    /// Variables to set, or (`None`) to remove.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Its working directory, unless ours.
    pub dir: Option<PathBuf>,
    /// Its user and group, unless ours.
    pub user: Option<(u32, u32)>,
}

impl CommandSpec {
    /// A program without arguments.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            dir: None,
            user: None,
        }
    }
}

/// A process that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adopt {
    /// By pid: whoever has it when the child is started.
    Pid(Pid),
    /// By `PID:INODE`.
    Process(ProcessRef),
    /// By a file that holds its pid. Who is younger than the file is refused: the
    /// pid has been used again.
    PidFile(PathBuf),
}

/// When a child counts as ready. Children declared after it wait for that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Readiness {
    /// As soon as its process exists.
    Immediate,
    /// When its program was executed.
    #[default]
    Exec,
    /// When it writes a newline to this descriptor, which it inherits (s6).
    NotifyFd(i32),
    /// When somebody accepts connections there.
    Tcp(SocketAddr),
    /// When it writes a line that contains this.
    Line(String),
}

/// What becomes of a child's standard output and error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// It writes where we write.
    Inherit,
    /// Nothing.
    Null,
    /// Read by line, into a ring of so many, and to tracing.
    Capture {
        /// How many lines the ring holds.
        lines: usize,
    },
}

impl Default for Output {
    /// Captured, the last 1 000 lines.
    fn default() -> Self {
        Self::Capture { lines: 1000 }
    }
}

/// A child that is a process: adopted, if there is one to adopt, or started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessSpec {
    /// What to start.
    pub command: Option<CommandSpec>,
    /// Whom to take over instead, the first time.
    pub adopt: Option<Adopt>,
    /// When it is ready.
    pub ready: Readiness,
    /// What becomes of what it writes.
    pub output: Output,
}

impl ProcessSpec {
    /// A child that is started.
    pub fn command(command: CommandSpec) -> Self {
        Self {
            command: Some(command),
            ..Self::nothing()
        }
    }

    /// A child that exists already.
    pub fn adopt(adopt: Adopt) -> Self {
        Self {
            adopt: Some(adopt),
            ..Self::nothing()
        }
    }

    fn nothing() -> Self {
        Self {
            command: None,
            adopt: None,
            ready: Readiness::default(),
            output: Output::default(),
        }
    }
}
