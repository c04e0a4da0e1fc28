//! The `hazard` program: processes that end in the ways that are hard to
//! watch, created, reaped and reported by their own parent.
//!
//! ```text
//! hazard SCENARIO [--count N] [--concurrency C] [--delay-ms D]
//!                 [--hold] [--late] [--pin] [--print] [--timeout-s T]
//! ```
//!
//! # Protocol
//! One line a message, on stdout, flushed line by line:
//!
//! | line | meaning |
//! |---|---|
//! | `ready PID` | `--hold`: the process exists and has done nothing yet |
//! | `late PID` | `--late`: the process is at its late point and waits there |
//! | `go?` | all of the batch are announced; a line on stdin lets them go on |
//! | `PID STATUS` | reaped by `waitpid` with this raw status, in decimal |
//! | `storm N` | `storm` only, at the end: so many children were created and reaped |
//!
//! Without `--hold` and `--late`, up to C processes are alive at any time, and
//! nothing but `PID STATUS` is printed. With one of them, processes come in
//! batches of up to C: all `ready` lines, `go?`, then (with `--late`) all
//! `late` lines, `go?`, then a status line for each, then the next batch.
//! Processes are reaped as they die, not in the order of their creation; a pid
//! can appear again in a later batch.
//!
//! The *late point* is, for the scenarios whose leader exits alone, when the
//! leader is a zombie (its EXIT event may still be on its way: the kernel sends
//! it afterwards); for the races, when all threads exist; for `thread-exec`,
//! when the second thread is about to exec. `plain`, `signal`, `reuse` and
//! `storm` have none and refuse `--late`.
//!
//! Races need a CPU for each racer to be close: a small C gives fewer processes
//! a second, but more that hit the window (`thread-exit7-group5`: on
//! two CPUs a fifth to two fifths have code 7 in their last EXIT at C = 1, three
//! per cent at C = 64). With `--hold`, C is also the size of a batch.
//!
//! `storm` never prints `ready`, only (with `--hold`) one `go?` before it
//! begins, and `PID STATUS` lines only with `--print`. `reuse` keeps one
//! process alive at a time.
//!
//! Exit codes: 0; 1 when something failed (told on stderr); 2 for wrong usage;
//! 3 when stdin closed where a line was due. SIGALRM ends a run that hangs.
//! However it ends, its processes die with it (`PR_SET_PDEATHSIG`).

mod child;
mod parent;
mod report;

use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::scenario::Scenario;
use crate::sys;

/// Where stdin ended although a line was due.
const EXIT_ABANDONED: u8 = 3;

/// First argument of the program that the `thread-exec*` scenarios execute:
/// this one, which then does nothing but exit with the code that follows.
const EXEC_MARK: &str = "__exit";

/// Forces the hazards of process lifecycles, and reports what waitpid said
#[derive(Debug, Parser)]
#[command(name = "hazard")]
struct Args {
    /// What each process does
    scenario: Scenario,
    /// How many processes
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// How many of them may be alive at once [default: 64; storm,
    /// thread-exit7-group5 1; reuse is always 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Delay before the decisive call [default: leader-first 300, others 0]
    #[arg(long)]
    delay_ms: Option<u64>,
    /// Announce processes before they do anything; wait for a line on stdin
    #[arg(long)]
    hold: bool,
    /// Announce them again at their late point; wait for a line on stdin
    #[arg(long)]
    late: bool,
    /// Run on one CPU, the highest that is allowed
    #[arg(long)]
    pin: bool,
    /// storm: print each status, too
    #[arg(long)]
    print: bool,
    /// Die after so many seconds, with all processes (0: never)
    #[arg(long, default_value_t = 120)]
    timeout_s: u32,
}

impl Args {
    fn concurrency(&self) -> usize {
        match self.scenario {
            // Only one can have the pid.
            Scenario::Reuse => 1,
            // Measured on two CPUs: one by one, the two ends overlap in half of
            // the processes or more; with 64 alive, in a tenth.
            Scenario::Storm | Scenario::ThreadExit7Group5 => self.concurrency.unwrap_or(1) as usize,
            _ => self.concurrency.unwrap_or(64) as usize,
        }
    }

    fn delay_ms(&self) -> u64 {
        self.delay_ms
            .unwrap_or_else(|| self.scenario.default_delay_ms())
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let mut raw = std::env::args().skip(1);
    if raw.next().as_deref() == Some(EXEC_MARK) {
        let code = raw.next().and_then(|code| code.parse().ok());
        sys::exit_group(code.unwrap_or(child::EXIT_BROKEN));
    }

    let args = Args::parse();
    if args.late && !args.scenario.has_late_point() {
        let what = format!("{} has no late point", args.scenario);
        Args::command()
            .error(ErrorKind::ArgumentConflict, what)
            .exit();
    }
    match parent::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ExitCode::from(EXIT_ABANDONED)
        }
        Err(error) => {
            eprintln!("hazard: {}: {error}", args.scenario);
            ExitCode::FAILURE
        }
    }
}
