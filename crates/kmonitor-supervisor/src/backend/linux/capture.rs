//! Reading what a child writes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::lines::Lines;
use crate::ask::ask;
use crate::output::{OutputRing, Stream};
use crate::spec::ChildPath;

/// No pipe holds more unless the system's limit was raised, so that reading so much
/// reads all that was written before.
const PIPE_BYTES_MAX: usize = 1 << 20;

const READ_BYTES: usize = 16 << 10;

/// Our ends of a child's pipes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// A line that is waited for.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) text: String,
    pub(super) seen: oneshot::Sender<()>,
}

/// A task that reads what a child writes, until all ends are closed or it is told to
/// finish.
#[derive(Debug)]
pub(super) struct Capture {
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Ask {
    /// Nobody is left who would write: read what there is, and end.
    last: bool,
    done: oneshot::Sender<()>,
}

impl Capture {
    /// Begins to read. Within a runtime.
    pub(super) fn start(
        ends: Ends,
        path: ChildPath,
        ring: Arc<OutputRing>,
        awaited: Option<Awaited>,
    ) -> io::Result<Self> {
        let input = |fd: Option<OwnedFd>, stream| {
            let receiver = fd.map(pipe::Receiver::from_owned_fd).transpose()?;
            Ok::<_, io::Error>(Input {
                receiver,
                stream,
                lines: Lines::default(),
            })
        };
        let reader = Reader {
            stdout: input(ends.stdout, Stream::Stdout)?,
            stderr: input(ends.stderr, Stream::Stderr)?,
            sink: Sink {
                path,
                ring,
                awaited,
            },
        };
        let (asks, asked) = mpsc::channel(1);
        tokio::spawn(reader.run(asked));
        Ok(Self { asks })
    }

    /// Returns when all that was written before has been read.
    pub(super) async fn catch_up(&self) {
        self.ask(false).await;
    }

    /// The same, and ends the reading: whoever still has the pipe is not waited for.
    pub(super) async fn finish(self) {
        self.ask(true).await;
    }

    async fn ask(&self, last: bool) {
        // If it has ended all ends are closed, and everything was read.
        let _ = ask(&self.asks, |done| Ask { last, done }).await;
    }
}

struct Reader {
    stdout: Input,
    stderr: Input,
    sink: Sink,
}

struct Input {
    receiver: Option<pipe::Receiver>,
    stream: Stream,
    lines: Lines,
}

struct Sink {
    path: ChildPath,
    ring: Arc<OutputRing>,
    awaited: Option<Awaited>,
}

impl Reader {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let mut listening = true;
        while self.stdout.receiver.is_some() || self.stderr.receiver.is_some() {
            let ask = tokio::select! {
                () = self.stdout.readable() => {
                    self.stdout.read(false, &mut self.sink);
                    continue;
                }
                () = self.stderr.readable() => {
                    self.stderr.read(false, &mut self.sink);
                    continue;
                }
                ask = asked.recv(), if listening => ask,
            };
            let Some(ask) = ask else {
                // Its incarnation goes on unsupervised.
                listening = false;
                continue;
            };
            for input in [&mut self.stdout, &mut self.stderr] {
                input.read(true, &mut self.sink);
                if ask.last {
                    input.end(&mut self.sink);
                }
            }
            // Who asked may be gone.
            let _ = ask.done.send(());
        }
    }
}

impl Input {
    /// Never, once it has ended.
    async fn readable(&self) {
        match &self.receiver {
            // An error is told by the reading.
            Some(receiver) => drop(receiver.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Reads what is there: some of it as the reactor tells of it, or all that was
    /// written before `now`.
    fn read(&mut self, now: bool, sink: &mut Sink) {
        // Here, and not kept: there may be thousands of children, most of them silent.
        let mut buffer = [0; READ_BYTES];
        let mut bytes_max = if now { PIPE_BYTES_MAX } else { READ_BYTES };
        while bytes_max > 0 {
            let Some(receiver) = &self.receiver else {
                return;
            };
            let result = match receiver.try_read(&mut buffer) {
                // The reactor may not have told yet of what was written just now.
                Err(error) if now && error.kind() == io::ErrorKind::WouldBlock => {
                    rustix::io::read(receiver, &mut buffer).map_err(io::Error::from)
                }
                result => result,
            };
            match result {
                Ok(0) => return self.end(sink),
                Ok(length) => {
                    let stream = self.stream;
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.lines
                        .take(bytes, |line, cut| sink.line(stream, line, cut));
                    bytes_max = bytes_max.saturating_sub(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(child = %sink.path, %error, "cannot read its output");
                    return self.end(sink);
                }
            }
        }
    }

    fn end(&mut self, sink: &mut Sink) {
        self.receiver = None;
        let stream = self.stream;
        self.lines.finish(|line, cut| sink.line(stream, line, cut));
    }
}

impl Sink {
    fn line(&mut self, stream: Stream, line: &[u8], cut: bool) {
        if cut {
            self.ring.push_cut(stream, line);
        } else {
            self.ring.push(stream, line);
        }
        let text = String::from_utf8_lossy(line);
        tracing::info!(
            target: "kmonitor_supervisor::output",
            child = %self.path,
            stream = stream.name(),
            cut,
            "{text}"
        );
        if let Some(awaited) = self.awaited.take_if(|awaited| text.contains(&awaited.text)) {
            let _ = awaited.seen.send(());
        }
    }
}
