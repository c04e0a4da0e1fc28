//! Starts the `puppet` program from a test, and pulls the strings.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::puppet::Strings;

/// A request that is not answered within this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Processes that fork, exec and end when they are told to. Dropping it ends
/// them all.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use kmonitor_tests::Puppets;
///
/// // In an integration test: env!("CARGO_BIN_EXE_puppet").
/// let mut puppets = Puppets::start("puppet")?;
/// let pid = puppets.spawn()?;
/// let child = puppets.fork(pid)?;
/// puppets.exit(child, 3)?; // A zombie now.
/// assert_eq!(puppets.reap(child)?, 3 << 8);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Puppets {
    strings: Option<Strings>,
    /// The parent of those that [`spawn`](Self::spawn) makes.
    keeper: Child,
    /// How to reach each.
    paths: HashMap<i32, String>,
}

impl Puppets {
    /// Starts their keeper. `program` is the path of the `puppet` binary.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: impl AsRef<Path>) -> io::Result<Self> {
        let (own, theirs) = UnixStream::pair()?;
        own.set_read_timeout(Some(PATIENCE))?;
        let keeper = Command::new(program.as_ref())
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        Ok(Self {
            strings: Some(Strings::new(own)),
            keeper,
            paths: HashMap::new(),
        })
    }

    fn ask(&mut self, path: &str, request: &str) -> io::Result<Option<i32>> {
        let strings = self.strings.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        strings.ask(path, request)
    }

    fn tell(&mut self, pid: i32, request: &str) -> io::Result<Option<i32>> {
        let path = self.paths.get(&pid).ok_or(io::ErrorKind::NotFound)?.clone();
        self.ask(&path, request)
    }

    /// A new process, the keeper's child.
    ///
    /// # Errors
    /// It could not be made, as for all others here.
    pub fn spawn(&mut self) -> io::Result<i32> {
        let pid = self.ask("-", "fork")?.ok_or(io::ErrorKind::InvalidData)?;
        self.paths.insert(pid, pid.to_string());
        Ok(pid)
    }

    /// A process forks: the child's pid.
    ///
    /// # Errors
    /// It has more than one thread, or is no live puppet.
    pub fn fork(&mut self, parent: i32) -> io::Result<i32> {
        let pid = self
            .tell(parent, "fork")?
            .ok_or(io::ErrorKind::InvalidData)?;
        let path = format!("{}/{pid}", self.paths[&parent]);
        self.paths.insert(pid, path);
        Ok(pid)
    }

    /// A process replaces its program. It loses sight of its children.
    ///
    /// # Errors
    /// It is no live puppet.
    pub fn exec(&mut self, pid: i32) -> io::Result<()> {
        self.tell(pid, "exec").map(drop)
    }

    /// A process gets another thread: its tid.
    ///
    /// # Errors
    /// It is no live puppet.
    pub fn thread(&mut self, pid: i32) -> io::Result<i32> {
        Ok(self
            .tell(pid, "thread")?
            .ok_or(io::ErrorKind::InvalidData)?)
    }

    /// Such a thread ends.
    ///
    /// # Errors
    /// There is none.
    pub fn end_thread(&mut self, pid: i32, tid: i32) -> io::Result<()> {
        self.tell(pid, &format!("end-thread {tid}")).map(drop)
    }

    /// A process exits; it is a zombie when this returns.
    ///
    /// # Errors
    /// It is no live puppet.
    pub fn exit(&mut self, pid: i32, code: u8) -> io::Result<()> {
        self.tell(pid, &format!("exit {code}")).map(drop)
    }

    /// A signal ends a process; it is a zombie when this returns.
    ///
    /// # Errors
    /// It is no live puppet.
    pub fn kill(&mut self, pid: i32, signal: i32) -> io::Result<()> {
        self.tell(pid, &format!("kill {signal}")).map(drop)
    }

    /// Its parent waits for a process: what `waitpid` said.
    ///
    /// # Errors
    /// It was reaped before.
    pub fn reap(&mut self, pid: i32) -> io::Result<i32> {
        let status = self.tell(pid, "reap")?;
        self.paths.remove(&pid);
        Ok(status.ok_or(io::ErrorKind::InvalidData)?)
    }
}

impl Drop for Puppets {
    fn drop(&mut self) {
        // The end of its input ends the keeper, and with it all others.
        self.strings = None;
        let _ = self.keeper.wait();
    }
}
