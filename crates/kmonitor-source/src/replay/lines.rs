//! Lines of bounded length from any reader.

use std::io::{self, BufRead, ErrorKind};

/// A line of a recording has at most this many bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// One attempt to read a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It is in the buffer.
    Read,
    /// It does not end within [`LINE_BYTES_MAX`].
    TooLong,
    /// There is none any more.
    End,
}

/// Replaces the content of `line` by the next line, without its end.
pub(super) fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok(if line.is_empty() {
                Line::End
            } else {
                Line::Read
            });
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len()));
        let part = part.unwrap_or(available);
        if line.len() + part.len() > LINE_BYTES_MAX {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Line::Read);
        }
    }
}
