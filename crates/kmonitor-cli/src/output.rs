//! Where results go: stdout or a file, buffered, and quiet when nobody reads.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

/// Large enough that under load some hundred events share one system call.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffered output that remembers that its reader has gone.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    terminal: bool,
    colours: bool,
    closed: bool,
}

impl Output {
    /// The standard output.
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            // Honours NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM=dumb.
            colours: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            // Not `Stdout` itself, which flushes at each line.
            writer: BufWriter::with_capacity(BUFFER_BYTES, stdout_file()),
            closed: false,
        }
    }

    /// A file, which is made or emptied.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self::to(Box::new(file)))
    }

    pub(crate) fn to(writer: Box<dyn Write>) -> Self {
        Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, writer),
            terminal: false,
            colours: false,
            closed: false,
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether styles are wanted.
    pub(crate) fn has_colours(&self) -> bool {
        self.colours
    }

    /// Whether the reader has closed its end. Writing goes on without effect.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The columns of the terminal, where it is one.
    pub(crate) fn columns(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        (size.ws_col > 0).then_some(size.ws_col.into())
    }

    /// Adds to the buffer.
    ///
    /// # Errors
    /// What writing says, except that the reader is gone: see
    /// [`is_closed`](Self::is_closed).
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = self.writer.write_all(bytes);
        self.note(written)
    }

    /// Empties the buffer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.closed || self.writer.buffer().is_empty() {
            return Ok(());
        }
        let flushed = self.writer.flush();
        self.note(flushed)
    }

    fn note(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                // What is buffered must not be tried again when this is dropped.
                self.writer = BufWriter::new(Box::new(io::sink()));
                Ok(())
            }
            other => other,
        }
    }
}

/// Stdout as a plain descriptor. The standard library's own handle splits what
/// it is given at line ends.
fn stdout_file() -> Box<dyn Write> {
    match rustix::io::dup(io::stdout()) {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stdout()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_is_remembered() {
        let mut output = Output::to(Box::new(Gone));
        output.write(b"line\n").unwrap();
        assert!(!output.is_closed());
        output.flush().unwrap();
        assert!(output.is_closed());
        output.write(b"line\n").unwrap();
        output.flush().unwrap();
    }
}
