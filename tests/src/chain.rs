//! The `chain` program: processes that each create the next and end at once.
//!
//! Its argument says how many. It waits for the end of its input first. Each writes
//! its pid on a line; every third ends by SIGKILL, the others with 0.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};

use crate::sys::{self, Forked};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chain: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let count = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let count: usize = count.parse().map_err(io::Error::other)?;
    io::stdin().read_to_end(&mut Vec::new())?;
    for number in 1..=count {
        // Whole lines, although many write.
        io::stdout().write_all(format!("{}\n", getpid()).as_bytes())?;
        if number < count
            && let Forked::Child = sys::fork()?
        {
            continue;
        }
        if number % 3 == 0 {
            kill_process(getpid(), Signal::KILL)?;
        }
        return Ok(());
    }
    Ok(())
}
