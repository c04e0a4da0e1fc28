//! The `listener` program: a monitor in C's way, which is told of events by
//! queued signals and says what it got.
//!
//! It blocks all signals that it may be told by, and takes them with
//! `sigtimedwait` when it is asked to; until then it sleeps.
//!
//! # Protocol
//! First it says `ready`. One line on stdin is a request: `take N` waits for that
//! many signals, a minute for each, and `drain` takes those that are there.
//! Answers are one line a signal, `SIGNAL CODE PID UID INT`, and then `end`. At
//! the end of its input it exits with 0.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::Duration;

use crate::sys;

/// More than any signal takes to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A signal as it arrived: the fields of its siginfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// `si_signo`.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_pid`.
    pub pid: i32,
    /// `si_uid`.
    pub uid: u32,
    /// `si_int`.
    pub int: i32,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            signal,
            code,
            pid,
            uid,
            int,
        } = self;
        write!(f, "{signal} {code} {pid} {uid} {int}")
    }
}

impl FromStr for Told {
    type Err = io::Error;
    fn from_str(line: &str) -> io::Result<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or(io::ErrorKind::InvalidData);
        let number = |word: &str| word.parse::<i32>().map_err(io::Error::other);
        Ok(Self {
            signal: number(word()?)?,
            code: number(word()?)?,
            pid: number(word()?)?,
            uid: word()?.parse().map_err(io::Error::other)?,
            int: number(word()?)?,
        })
    }
}

/// The program. Its arguments, if it has any, are the `RLIMIT_SIGPENDING` that it
/// sets for itself and the user that it becomes: the kernel counts the signals
/// that are queued for all processes of a user.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("listener: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    sys::block_monitor_signals()?;
    if let [_, pending, uid] = &std::env::args().collect::<Vec<_>>()[..] {
        let pending = Some(pending.parse().map_err(io::Error::other)?);
        let limit = rustix::process::Rlimit {
            current: pending,
            maximum: pending,
        };
        rustix::process::setrlimit(rustix::process::Resource::Sigpending, limit)?;
        let uid = rustix::process::Uid::from_raw(uid.parse().map_err(io::Error::other)?);
        // There is no other thread.
        rustix::thread::set_thread_uid(uid)?;
    }
    let mut output = BufWriter::new(io::stdout().lock());
    writeln!(output, "ready")?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("take", count) => {
                for _ in 0..count.parse::<usize>().map_err(io::Error::other)? {
                    match sys::take_signal(PATIENCE)? {
                        Some(told) => writeln!(output, "{told}")?,
                        None => break,
                    }
                }
            }
            ("drain", _) => {
                while let Some(told) = sys::take_signal(Duration::ZERO)? {
                    writeln!(output, "{told}")?;
                }
            }
            _ => return Err(io::Error::other(format!("cannot {line:?}"))),
        }
        writeln!(output, "end")?;
        output.flush()?;
    }
    Ok(())
}

/// A running `listener`. Killed when dropped.
#[derive(Debug)]
pub struct Listener {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Listener {
    /// Starts one; it is ready to be told when this returns. `program` is the
    /// path of the `listener` binary.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_command(Command::new(program.as_ref()))
    }

    /// One that has room for so many signals, and is the only process of this
    /// user. Needs root.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn with_room(program: impl AsRef<Path>, pending: u32, uid: u32) -> io::Result<Self> {
        let mut command = Command::new(program.as_ref());
        command.args([pending.to_string(), uid.to_string()]);
        Self::from_command(command)
    }

    /// One that a command starts.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn from_command(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut listener = Self {
            child,
            requests,
            answers: BufReader::new(answers),
        };
        match listener.line()?.as_str() {
            "ready" => Ok(listener),
            line => Err(io::Error::other(format!("said {line:?}"))),
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        // The kernel's numbers are positive and fit.
        self.child.id().cast_signed()
    }

    /// The next so many signals; fewer if they do not come.
    ///
    /// # Errors
    /// It has ended.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<Told>> {
        writeln!(self.requests, "take {count}")?;
        self.told()
    }

    /// The signals that are queued now.
    ///
    /// # Errors
    /// It has ended.
    pub fn drain(&mut self) -> io::Result<Vec<Told>> {
        writeln!(self.requests, "drain")?;
        self.told()
    }

    /// Kills and reaps it: its pid is free.
    ///
    /// # Errors
    /// It was reaped before.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn told(&mut self) -> io::Result<Vec<Told>> {
        let mut told = Vec::new();
        loop {
            match self.line()?.as_str() {
                "end" => return Ok(told),
                line => told.push(line.parse()?),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
