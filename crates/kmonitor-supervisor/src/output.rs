//! What a child wrote, by line, in a bounded ring.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Which of a child's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// Where it was written.
    pub stream: Stream,
    /// Its bytes; not necessarily UTF-8.
    pub bytes: Box<[u8]>,
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.push_back(Line {
            stream,
            bytes: bytes.into(),
        });
        while state.lines.len() > self.lines_max {
            state.lines.pop_front();
            state.dropped += 1;
        }
    }

    /// What it holds now.
    pub fn snapshot(&self) -> OutputSnapshot {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        OutputSnapshot {
            lines: state.lines.iter().cloned().collect(),
            dropped: state.dropped,
        }
    }
}
