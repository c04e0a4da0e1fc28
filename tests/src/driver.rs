//! Starts the `hazard` program from a test and speaks its protocol, which
//! [`crate::hazard`] describes.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use kmonitor_tests::{Hazard, Scenario};
//!
//! // In an integration test: env!("CARGO_BIN_EXE_hazard").
//! let program = "hazard";
//! let mut run = Hazard::new(program, Scenario::LeaderFirst)
//!     .count(10)
//!     .hold()
//!     .late()
//!     .start()?;
//! let pids = run.pids()?; // attach early
//! run.release()?;
//! let same_pids = run.late_pids()?; // attach late
//! run.release()?;
//! for (pid, status) in run.finish()? {
//!     assert!(Scenario::LeaderFirst.allows(status));
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::scenario::Scenario;

/// A run of `hazard` that is yet to be started.
#[derive(Debug)]
#[must_use = "does nothing until started"]
pub struct Hazard {
    command: Command,
    scenario: Scenario,
    count: usize,
}

impl Hazard {
    /// One process of this scenario. `program` is the path of the `hazard`
    /// binary: `env!("CARGO_BIN_EXE_hazard")`, which only integration tests
    /// can say.
    pub fn new(program: impl AsRef<Path>, scenario: Scenario) -> Self {
        let program: PathBuf = program.as_ref().into();
        let mut command = Command::new(program);
        command.arg(scenario.to_string());
        Self {
            command,
            scenario,
            count: 1,
        }
    }

    /// So many processes in all.
    pub fn count(mut self, count: usize) -> Self {
        self.count = count;
        self.command.args(["--count", &count.to_string()]);
        self
    }

    /// Up to so many of them alive at once; also the size of a batch.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.command
            .args(["--concurrency", &concurrency.to_string()]);
        self
    }

    /// The delay before the decisive call, in whole milliseconds.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.command
            .args(["--delay-ms", &delay.as_millis().to_string()]);
        self
    }

    /// Announce the processes and hold them before they do anything.
    pub fn hold(mut self) -> Self {
        self.command.arg("--hold");
        self
    }

    /// Announce the processes and hold them at their late point.
    pub fn late(mut self) -> Self {
        self.command.arg("--late");
        self
    }

    /// Run everything on one CPU.
    pub fn pin(mut self) -> Self {
        self.command.arg("--pin");
        self
    }

    /// Report the status of each child of a storm, too.
    pub fn print(mut self) -> Self {
        self.command.arg("--print");
        self
    }

    /// Have the kernel end the run after so many seconds (else 120).
    pub fn timeout_s(mut self, seconds: u32) -> Self {
        self.command.args(["--timeout-s", &seconds.to_string()]);
        self
    }

    /// Run it through another program, for example [`crate::run_as_nobody`],
    /// or `|c| in_unshare(&["--net"], c)`. Call it last: what is set later
    /// would go to the other program.
    pub fn through(mut self, wrap: impl FnOnce(&Command) -> Command) -> Self {
        self.command = wrap(&self.command);
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// What spawning it returned.
    pub fn start(mut self) -> io::Result<RunningHazard> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(RunningHazard {
            child,
            input,
            messages: read_all(output),
            scenario: self.scenario,
            expected: self.count,
            statuses: Vec::new(),
            told: 0,
            held: false,
            stormed: None,
        })
    }
}

/// One line of the protocol.
#[derive(Debug)]
enum Message {
    Ready(i32),
    Late(i32),
    Go,
    Status(i32, i32),
    Storm(usize),
}

fn parse(line: &str) -> Option<Message> {
    if line == "go?" {
        return Some(Message::Go);
    }
    let (first, second) = line.split_once(' ')?;
    Some(match first {
        "ready" => Message::Ready(second.parse().ok()?),
        "late" => Message::Late(second.parse().ok()?),
        "storm" => Message::Storm(second.parse().ok()?),
        pid => Message::Status(pid.parse().ok()?, second.parse().ok()?),
    })
}

/// Reads in a thread, so that a full pipe never keeps the program from
/// reaping. The queue is bounded by the count the test asked for.
fn read_all(output: ChildStdout) -> Receiver<io::Result<Message>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let message = line
                .and_then(|line| parse(&line).ok_or_else(|| protocol(format!("a line {line:?}"))));
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

fn protocol(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("hazard: {what}"))
}

/// A started run. Dropping it kills the program and all its processes.
#[derive(Debug)]
pub struct RunningHazard {
    child: Child,
    input: ChildStdin,
    messages: Receiver<io::Result<Message>>,
    scenario: Scenario,
    expected: usize,
    /// Everything reported so far; the first `told` by `next_status`.
    statuses: Vec<(i32, i32)>,
    told: usize,
    /// The program asked for a line that it has not got yet.
    held: bool,
    stormed: Option<usize>,
}

impl RunningHazard {
    /// The pid of the program: the parent of all its processes, unless it
    /// runs through another one that forks, as `unshare --fork` does.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the next batch is held at its start, and returns its
    /// pids. Empty when there is no further batch; for a storm always, as its
    /// children do not exist yet.
    ///
    /// # Errors
    /// When the program says something else, or is not in `hold` mode.
    pub fn pids(&mut self) -> io::Result<Vec<i32>> {
        self.announced(false)
    }

    /// Waits until the batch is held at its late point, and returns its pids.
    ///
    /// # Errors
    /// When the program says something else, or is not in `late` mode.
    pub fn late_pids(&mut self) -> io::Result<Vec<i32>> {
        self.announced(true)
    }

    fn announced(&mut self, late: bool) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        while let Some(message) = self.receive()? {
            match message {
                Message::Go => return Ok(pids),
                Message::Ready(pid) if !late => pids.push(pid),
                Message::Late(pid) if late => pids.push(pid),
                Message::Status(..) | Message::Storm(_) => {}
                other => return Err(protocol(format!("unexpected {other:?}"))),
            }
        }
        if pids.is_empty() && self.statuses.len() + self.stormed.unwrap_or(0) >= self.expected {
            return Ok(pids);
        }
        Err(protocol("ended without an announcement"))
    }

    /// Lets the announced processes go on.
    ///
    /// # Errors
    /// When the program has gone.
    pub fn release(&mut self) -> io::Result<()> {
        self.held = false;
        self.input.write_all(b"\n")
    }

    /// Starts a program that lets the announced processes go on, by a line that it
    /// writes. For what must happen while the caller itself is stopped.
    ///
    /// # Errors
    /// What spawning it returned.
    pub fn release_by(&mut self, program: &mut Command) -> io::Result<Child> {
        let input = self.input.as_fd().try_clone_to_owned()?;
        self.held = false;
        program.stdin(Stdio::null()).stdout(input).spawn()
    }

    /// Waits for the next process to be reaped: its pid and raw wait status.
    /// Nothing when all are. [`Self::finish`] returns all of them again.
    ///
    /// # Errors
    /// When the program waits for [`Self::release`], or broke the protocol.
    pub fn next_status(&mut self) -> io::Result<Option<(i32, i32)>> {
        if self.held {
            return Err(protocol("no status will come before a release"));
        }
        while self.told == self.statuses.len() {
            match self.receive()? {
                Some(Message::Status(..) | Message::Storm(_)) => {}
                Some(other) => return Err(protocol(format!("unexpected {other:?}"))),
                None => break,
            }
        }
        let next = self.statuses.get(self.told).copied();
        self.told += usize::from(next.is_some());
        Ok(next)
    }

    /// The next message, with statuses and counts also noted down. `None` at
    /// the end of the program's output.
    fn receive(&mut self) -> io::Result<Option<Message>> {
        let Ok(message) = self.messages.recv() else {
            return Ok(None);
        };
        let message = message?;
        match message {
            Message::Status(pid, status) => self.statuses.push((pid, status)),
            Message::Storm(count) => self.stormed = Some(count),
            Message::Go => self.held = true,
            Message::Ready(_) | Message::Late(_) => {}
        }
        Ok(Some(message))
    }

    /// Waits for the end, releasing whatever is still held, and returns pid
    /// and raw wait status of every process in the order of their reaping.
    /// A pid that was reused is there more than once. Empty for a storm
    /// without [`Hazard::print`].
    ///
    /// # Errors
    /// When the program failed, or reported fewer or more processes than it
    /// was asked for.
    pub fn finish(mut self) -> io::Result<Vec<(i32, i32)>> {
        loop {
            if self.held {
                self.release()?;
            }
            if self.receive()?.is_none() {
                break;
            }
        }
        let status = self.child.wait()?;
        if !status.success() {
            return Err(protocol(format!("{}: {status}", self.scenario)));
        }
        let counted = self.stormed.unwrap_or(self.statuses.len());
        if counted != self.expected {
            let expected = self.expected;
            return Err(protocol(format!("{counted} processes, not {expected}")));
        }
        Ok(std::mem::take(&mut self.statuses))
    }

    /// As [`Self::finish`], by pid.
    ///
    /// # Errors
    /// As there, and when a pid was used twice.
    pub fn finish_map(self) -> io::Result<HashMap<i32, i32>> {
        let statuses = self.finish()?;
        let count = statuses.len();
        let map: HashMap<i32, i32> = statuses.into_iter().collect();
        if map.len() == count {
            Ok(map)
        } else {
            Err(protocol("a pid was used twice"))
        }
    }
}

impl Drop for RunningHazard {
    fn drop(&mut self) {
        // Its processes die with it, by PR_SET_PDEATHSIG.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What [`storm`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StormReport {
    /// Children created and reaped.
    pub count: usize,
    /// How long it took, with the start of the helper process.
    pub elapsed: Duration,
}

/// Creates and reaps `count` children as fast as possible, in a helper process
/// pinned to one CPU. To subscribe to the helper first, use [`Hazard`] with
/// [`Scenario::Storm`], [`Hazard::pin`] and [`Hazard::hold`].
///
/// # Errors
/// As [`Hazard::start`] and [`RunningHazard::finish`].
pub fn storm(program: impl AsRef<Path>, count: usize) -> io::Result<StormReport> {
    let start = Instant::now();
    Hazard::new(program, Scenario::Storm)
        .count(count)
        .pin()
        .start()?
        .finish()?;
    Ok(StormReport {
        count,
        elapsed: start.elapsed(),
    })
}
