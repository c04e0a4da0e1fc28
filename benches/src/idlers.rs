//! Real processes that do nothing, by the thousand.

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use kmonitor_event::Pid;

/// Idle processes, children of the `idlers` program. They end when this is
/// dropped, and also when the program that has it dies in whatever way.
#[derive(Debug)]
pub struct Idlers {
    forker: Child,
    pids: Vec<Pid>,
    /// Where the forker says what it does.
    said: BufReader<ChildStdout>,
}

impl Idlers {
    /// Starts so many, with the `idlers` program that is given.
    ///
    /// # Errors
    /// The system has no room for them.
    pub fn start(program: &Path, count: usize) -> io::Result<Self> {
        let mut forker = Command::new(program)
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = forker.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut idlers = Self {
            forker,
            pids: Vec::with_capacity(count),
            said: BufReader::new(stdout),
        };
        for _ in 0..count {
            let pid = idlers.next_line()?.parse().map_err(io::Error::other)?;
            idlers.pids.push(pid);
        }
        Ok(idlers)
    }

    /// Who they are.
    #[must_use]
    pub fn pids(&self) -> &[Pid] {
        &self.pids
    }

    /// Has all of them killed and reaped, and waits for that.
    ///
    /// # Errors
    /// The forker has died.
    pub fn end(&mut self) -> io::Result<()> {
        // The end of its input is the sign.
        drop(self.forker.stdin.take());
        let status = self.forker.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the forker ended: {status}")))
        }
    }

    fn next_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the forker made fewer than were wanted"));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        // Nobody is left to tell of a failure; the children die with the forker.
        let _ = self.end();
    }
}
