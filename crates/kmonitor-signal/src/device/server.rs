//! The file system: one regular file that knows `open`, `ioctl` and `close`.
//!
//! One thread reads the requests, and never waits for anything: what takes time
//! goes to the runtime, together with the duty to answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno as Answer, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyIoctl, ReplyOpen, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::attributes::Attributes;
use super::caller::{Caller, CallerError};
use super::files::{Bounds, Files, OpenFile};
use super::registry::{Refused, Registry, Session};
use super::stats::{Counters, DeviceStats};
use super::wire::Command;

/// Attributes are asked for each time. So a dead server is noticed at once, and
/// a changed mode counts at once.
const NOT_CACHED: Duration = Duration::ZERO;

/// The file system.
pub(crate) struct Server<R: Registry> {
    shared: Arc<Shared<R>>,
    attributes: Attributes,
    runtime: Handle,
    /// Within which each command is answered.
    answer_within: Duration,
}

/// What the device's owner and the answering tasks see as well.
pub(crate) struct Shared<R: Registry> {
    registry: R,
    files: Mutex<Files<R::Session>>,
    counters: Counters,
}

impl<R: Registry> Shared<R> {
    pub(crate) fn new(registry: R, bounds: Bounds) -> Self {
        Self {
            registry,
            files: Mutex::new(Files::new(bounds)),
            counters: Counters::default(),
        }
    }

    pub(crate) fn stats(&self) -> DeviceStats {
        self.counters.read(self.files().len())
    }

    fn files(&self) -> MutexGuard<'_, Files<R::Session>> {
        // Nothing panics while it is held, and if so the table is still whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Registry> Server<R> {
    pub(crate) fn new(
        shared: Arc<Shared<R>>,
        attributes: Attributes,
        runtime: Handle,
        answer_within: Duration,
    ) -> Self {
        Self {
            shared,
            attributes,
            runtime,
            answer_within,
        }
    }
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the caller cannot be served: {0}")]
    Caller(#[from] CallerError),
    #[error(transparent)]
    Registry(#[from] Refused),
    #[error("it took too long")]
    TimedOut,
}

impl Refusal {
    fn errno(&self) -> Errno {
        match self {
            Self::Caller(error) => error.errno(),
            Self::Registry(refused) => refused.errno,
            Self::TimedOut => Errno::TIMEDOUT,
        }
    }
}

/// Carries out a command of a thread, within the time.
async fn carry_out<S: Session>(
    session: &S,
    command: Command,
    tid: u32,
    within: Duration,
) -> Result<(), Refusal> {
    let caller = Caller::identify(tid)?;
    let monitor = caller.process();
    let work = async {
        match command {
            Command::Register {
                target,
                mask,
                signal,
            } => session.register(monitor, target, mask, signal).await,
            Command::Deregister { target, mask } => session.deregister(monitor, target, mask).await,
        }
    };
    // The work is over, or dropped, before the answer lets the caller go: so the
    // monitor's pid is its own as long as anybody acts on it.
    match tokio::time::timeout(within, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refused)) => Err(Refusal::Registry(refused)),
        Err(_) => Err(Refusal::TimedOut),
    }
}

/// Tells the log why a command failed: the first of each file loudly.
fn tell<S>(file: &OpenFile<S>, tid: u32, command: Command, refusal: &Refusal) {
    let errno = refusal.errno();
    let unusual = !matches!(errno, Errno::INVAL | Errno::SRCH);
    if unusual && file.is_first_refusal() {
        tracing::warn!(tid, ?command, %errno, "command refused: {refusal}");
    } else {
        tracing::debug!(tid, ?command, %errno, "command refused: {refusal}");
    }
}

fn answer(errno: Errno) -> Answer {
    Answer::from_i32(errno.raw_os_error())
}

impl<R: Registry> Filesystem for Server<R> {
    fn open(&self, request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let shared = &self.shared;
        let opened = shared
            .files()
            .open(request.uid(), || shared.registry.session());
        match opened {
            Ok(handle) => {
                shared.counters.opened.add_one();
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NONSEEKABLE;
                reply.opened(FileHandle(handle), flags);
            }
            Err(errno) => {
                shared.counters.open_refused.add_one();
                tracing::debug!(tid = request.pid(), uid = request.uid(), %errno, "no room");
                reply.error(answer(errno));
            }
        }
    }

    fn ioctl(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: IoctlFlags,
        number: u32,
        bytes: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let Some(command) = Command::decode(number, bytes) else {
            self.shared.counters.refused.add_one();
            tracing::debug!(tid = request.pid(), number, "no command of ours");
            return reply.error(Answer::EINVAL);
        };
        let Some(file) = self.shared.files().get(handle.0) else {
            self.shared.counters.refused.add_one();
            return reply.error(Answer::EBADF);
        };
        let (tid, within) = (request.pid(), self.answer_within);
        let shared = Arc::clone(&self.shared);
        // As many tasks as there are threads that wait for them, and no more.
        self.runtime.spawn(async move {
            let done = carry_out(&file.session, command, tid, within).await;
            if let Err(refusal) = &done {
                tell(&file, tid, command, refusal);
            }
            // Before the answer: after it the caller may close the file, and its
            // records must not outlive that.
            drop(file);
            match done {
                Ok(()) => {
                    shared.counters.done.add_one();
                    reply.ioctl(0, &[]);
                }
                Err(refusal) => {
                    match refusal {
                        Refusal::TimedOut => shared.counters.timed_out.add_one(),
                        Refusal::Caller(_) | Refusal::Registry(_) => {
                            shared.counters.refused.add_one();
                        }
                    }
                    reply.error(answer(refusal.errno()));
                }
            }
        });
    }

    /// One of the descriptors of a file was closed; others may be left. Nothing
    /// is to be done, and after this answer the kernel asks no more: so `close`
    /// and a dying process wait for no server, not even for one that is stopped
    /// (`fuse_flush` waits uninterruptibly).
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Answer::ENOSYS);
    }

    /// The last one was closed. The kernel does not wait for this.
    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let closed = self.shared.files().close(handle.0);
        // Outside the lock: dropping a session is the registry's business.
        drop(closed);
        reply.ok();
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NOT_CACHED, &self.attributes.get());
    }

    /// The kernel has checked that the caller may. Size and times are accepted
    /// and ignored: `O_TRUNC` is no error on a device.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.attributes.change(mode, user, group);
        reply.attr(&NOT_CACHED, &self.attributes.get());
    }

    /// The device of 2004 had no `read` either.
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.error(Answer::EINVAL);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Answer::EINVAL);
    }
}
