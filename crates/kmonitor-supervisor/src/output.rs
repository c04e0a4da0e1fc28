//! What a child wrote, by line, in a bounded ring.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which of a child's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// Where it was written.
    pub stream: Stream,
    /// Its bytes; not necessarily UTF-8.
    pub bytes: Box<[u8]>,
    /// Whether it was longer, and its end left out.
    pub cut: bool,
}

impl Line {
    /// Its text; what is not UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// The last lines of a child, across its incarnations.
#[derive(Debug)]
pub struct OutputRing {
    lines_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    dropped: u64,
}

/// What an [`OutputRing`] holds at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputSnapshot {
    /// The lines, oldest first.
    pub lines: Vec<Line>,
    /// How many older ones there were that did not fit.
    pub dropped: u64,
}

impl OutputRing {
    /// An empty ring for so many lines.
    pub fn new(lines_max: usize) -> Self {
        Self {
            lines_max,
            state: Mutex::default(),
        }
    }

    /// Adds a line; the oldest goes if there is no room.
    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        self.add(stream, bytes, false);
    }

    /// Adds the beginning of a line that was too long.
    pub fn push_cut(&self, stream: Stream, bytes: &[u8]) {
        self.add(stream, bytes, true);
    }

    fn add(&self, stream: Stream, bytes: &[u8], cut: bool) {
        let line = Line {
            stream,
            bytes: bytes.into(),
            cut,
        };
        let mut state = self.state();
        state.lines.push_back(line);
        while state.lines.len() > self.lines_max {
            state.lines.pop_front();
            state.dropped += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds now.
    pub fn snapshot(&self) -> OutputSnapshot {
        let state = self.state();
        OutputSnapshot {
            lines: state.lines.iter().cloned().collect(),
            dropped: state.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let ring = OutputRing::new(2);
        for line in ["a", "b", "c", "d", "e"] {
            ring.push(Stream::Stdout, line.as_bytes());
        }
        let held = ring.snapshot();
        let lines: Vec<_> = held.lines.iter().map(Line::text).collect();
        assert_eq!(
            (lines.as_slice(), held.dropped),
            (&["d".into(), "e".into()][..], 3)
        );
    }

    #[test]
    fn a_ring_for_nothing_only_counts() {
        let ring = OutputRing::new(0);
        ring.push_cut(Stream::Stderr, b"x");
        assert_eq!(
            (ring.snapshot().lines.len(), ring.snapshot().dropped),
            (0, 1)
        );
    }
}
