//! The parent's side of the protocol.

use std::io::{self, BufRead, Write};

/// Speaks the protocol on stdin and stdout.
pub(super) struct Report {
    out: io::StdoutLock<'static>,
    input: io::StdinLock<'static>,
}

impl Report {
    pub(super) fn new() -> Self {
        // Stdout is line-buffered whatever it is connected to.
        Self {
            out: io::stdout().lock(),
            input: io::stdin().lock(),
        }
    }

    pub(super) fn announce(&mut self, word: &str, pid: i32) -> io::Result<()> {
        writeln!(self.out, "{word} {pid}")
    }

    pub(super) fn status(&mut self, pid: i32, status: i32) -> io::Result<()> {
        writeln!(self.out, "{pid} {status}")
    }

    pub(super) fn storm(&mut self, count: usize) -> io::Result<()> {
        writeln!(self.out, "storm {count}")
    }

    /// Asks for a line, and waits for it. `UnexpectedEof`: nobody is there.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        writeln!(self.out, "go?")?;
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
