//! The source that plays a recording.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::task::{Context, Poll, Waker};

use kmonitor_event::EventMask;

use super::ReplayProbe;
use super::convert::fact_of_line;
use super::lines::{LINE_BYTES_MAX, Line, read_line};
use crate::{
    BATCH_FACTS_MAX, Capabilities, EventSource, Fact, FactKind, KernelInterest, LossReport, Reach,
    SourceError, SourceKind, SourceStats, StartError, StartErrorKind,
};

/// Plays recorded events: as fast as it is polled, from the first line on, and
/// nothing while nothing is wanted, so that nothing is missed. Then it ends
/// ([`SourceError::Ended`]).
///
/// Everything in the recording is told, whatever the interest says in detail.
///
/// Reading blocks. That is right for files, which are always ready; a pipe or a
/// terminal would hold up whoever polls until its next line is there.
pub struct ReplaySource {
    reader: Box<dyn BufRead + Send>,
    capabilities: Capabilities,
    /// The number of the line read last, from 1.
    line: u64,
    buffer: Vec<u8>,
    playing: bool,
    ending: Option<SourceError>,
    ended: bool,
    waker: Option<Waker>,
    stats: SourceStats,
}

impl ReplaySource {
    /// Plays what this reader gives.
    #[must_use]
    pub fn new(reader: impl BufRead + Send + 'static) -> Self {
        Self {
            reader: Box::new(reader),
            capabilities: Capabilities::new(
                SourceKind::Replay,
                EventMask::all(),
                Reach::Host,
                LossReport::Exact,
            ),
            line: 0,
            buffer: Vec::new(),
            playing: false,
            ending: None,
            ended: false,
            waker: None,
            stats: SourceStats::default(),
        }
    }

    /// Plays a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StartError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| {
            let message = format!("cannot open {}: {error}", path.display());
            StartError::new(SourceKind::Replay, StartErrorKind::Io, message, Some(error))
        })?;
        Ok(Self::new(BufReader::new(file)))
    }

    /// The probe to stand beside it.
    #[must_use]
    pub fn probe(&self) -> ReplayProbe {
        ReplayProbe::new()
    }

    /// The number of the line read last, from 1; 0 before the first.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The fact of the next line that is one.
    fn next_fact(&mut self) -> Result<Fact, SourceError> {
        loop {
            let line = read_line(self.reader.as_mut(), &mut self.buffer)
                .map_err(|error| SourceError::io("read the recording", error))?;
            if line == Line::End {
                return Err(SourceError::Ended);
            }
            self.line += 1;
            if line == Line::TooLong {
                return Err(self.malformed(format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            let text = self.buffer.trim_ascii();
            if text.is_empty() {
                continue;
            }
            match fact_of_line(text) {
                Ok(Some(fact)) => return Ok(fact),
                Ok(None) => {}
                Err(message) => return Err(self.malformed(message)),
            }
        }
    }

    fn malformed(&mut self, message: String) -> SourceError {
        self.stats.malformed += 1;
        SourceError::Malformed {
            line: self.line,
            message,
        }
    }

    fn count(&mut self, fact: &Fact) {
        if let FactKind::Lost { count } = fact.kind {
            self.stats.overflows += 1;
            let count = count.unwrap_or_default();
            self.stats.dropped = self.stats.dropped.saturating_add(count);
        } else {
            self.stats.received += 1;
        }
    }
}

impl EventSource for ReplaySource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll_interest(
        &mut self,
        _cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.playing = !interest.is_empty();
        if self.playing
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// The error that ends a recording comes once, after the facts before it;
    /// from then on it has ended.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        if !self.playing {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut appended = 0;
        while !self.ended && appended < BATCH_FACTS_MAX {
            match self.next_fact() {
                Ok(fact) => {
                    self.count(&fact);
                    facts.push(fact);
                    appended += 1;
                }
                Err(error) => {
                    self.ended = true;
                    self.ending = Some(error);
                }
            }
        }
        Poll::Ready(if appended > 0 {
            Ok(())
        } else {
            Err(self.ending.take().unwrap_or(SourceError::Ended))
        })
    }

    /// Nothing is queued in a recording: what was not read stays unread.
    fn close(&mut self, _facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.playing = false;
        Ok(())
    }

    fn stats(&self) -> SourceStats {
        self.stats
    }
}

impl fmt::Debug for ReplaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplaySource")
            .field("line", &self.line)
            .field("playing", &self.playing)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
