//! `/dev/kmonitor` of 2004, without a kernel module: a FUSE file system whose
//! root is a regular file, mounted over an empty one. Programs that were written
//! for the device work with it as they are.
//!
//! | part | its one purpose |
//! |---|---|
//! | `wire` | the two commands and their structure |
//! | `server` | what happens at `open`, `ioctl` and `close` |
//! | `files` | the open files, within bounds |
//! | `caller` | from the calling thread to its process |
//! | `registry` | the seam to the adapter, and the adapter behind it |
//! | `mountpoint`, `mount`, `mountinfo` | taking the place, and giving it back |
//! | `attributes`, `stats` | mode, owner and group; numbers |
//!
//! # What is not as in 2004
//! * The device is a regular file, not a character device: `stat` says so, and
//!   the commands that Linux answers for any regular file itself (`FIONREAD` and
//!   its like) do not fail.
//! * The end of a file is told after the last `close` has returned, so a signal
//!   can follow it.
//! * A caller waits for the answer even when killed: for a second at most, after
//!   which it gets `ETIMEDOUT`, and cannot know whether it was done.
//! * A bad pointer is `EFAULT` even with a number that is no command.
//! * A caller in another pid namespace gets `EOPNOTSUPP`.
//! * A signal that cannot be caught, a target below 1, and the number of a thread
//!   that is no process's first are `EINVAL`.
//! * The record is that of monitor, target and open file: who opens the device
//!   twice can be told twice.
//! * Files are bounded: `ENFILE`, and `EMFILE` for one user.
//! * Who registers a process that it was told is born is told first what that has
//!   done since ([`SignalAdapter`], "Following a tree"): the way through user
//!   space takes longer than many a process lives.

mod adapter;
mod attributes;
mod caller;
mod error;
mod files;
mod mount;
mod mountinfo;
mod mountpoint;
mod registry;
mod server;
mod stats;
mod wire;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::SignalAdapter;

pub use self::error::DeviceError;
pub use self::stats::DeviceStats;

use self::attributes::Attributes;
use self::files::Bounds;
use self::mount::Mounted;
use self::mountpoint::Mountpoint;
use self::registry::Registry;
use self::server::{Server, Shared};

/// Where 2004 programs look for the device.
pub const DEVICE_PATH: &str = "/dev/kmonitor";

/// Within which each command is answered.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How the device is offered.
///
/// ```no_run
/// # async fn example(adapter: &kmonitor_signal::SignalAdapter) -> Result<(), kmonitor_signal::device::DeviceError> {
/// use kmonitor_signal::device::DeviceOptions;
///
/// let mut device = DeviceOptions::new().group(100).mount(adapter)?;
/// println!("serving {}", device.path().display());
/// device.ended().await
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOptions {
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
    files_max: usize,
    files_per_user_max: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            path: DEVICE_PATH.into(),
            mode: 0o660,
            group: None,
            files_max: 16_384,
            files_per_user_max: 8_192,
        }
    }
}

impl DeviceOptions {
    /// [`DEVICE_PATH`], for owner and group, 16 384 open files, 8 192 of one user.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the device is. The file is made if there is none, and removed at
    /// the end if it was made.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// Who may open it. Only the nine bits of permissions count.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The group that it belongs to, instead of that of this process.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// How many files may be open; another one is `ENFILE`.
    #[must_use]
    pub fn files_max(mut self, max: usize) -> Self {
        self.files_max = max;
        self
    }

    /// How many files of one user may be open; another one is `EMFILE`.
    #[must_use]
    pub fn files_per_user_max(mut self, max: usize) -> Self {
        self.files_per_user_max = max;
        self
    }

    /// Offers the device, until the result is dropped.
    ///
    /// A mount that a killed server left is cleared away; anything else that is
    /// not an empty regular file is refused.
    ///
    /// # Errors
    /// See [`DeviceError`]. Needs `CAP_SYS_ADMIN`, `/dev/fuse`, and a tokio
    /// runtime with time around the call.
    ///
    /// # Minimum kernel version
    /// 5.3, for the pidfds of callers.
    pub fn mount(&self, adapter: &SignalAdapter) -> Result<Device, DeviceError> {
        self.mount_on(adapter.clone(), ANSWER_WITHIN)
    }

    fn mount_on<R: Registry>(
        &self,
        registry: R,
        answer_within: Duration,
    ) -> Result<Device, DeviceError> {
        let runtime = Handle::try_current().map_err(|_| DeviceError::NoRuntime)?;
        if !caller::proc_is_ours() {
            return Err(DeviceError::ForeignProc);
        }
        let point = Mountpoint::claim(&self.path)?;
        let failed = |action| {
            let path = point.path().to_owned();
            move |source| DeviceError::Io {
                action,
                path,
                source,
            }
        };
        let no_protocol = failed("agree with the kernel about");
        let no_thread = failed("start the thread that serves");

        let bounds = Bounds {
            total_max: self.files_max,
            per_user_max: self.files_per_user_max,
        };
        let shared = Arc::new(Shared::new(registry, bounds));
        let user = rustix::process::geteuid().as_raw();
        let group = self.group.unwrap_or(rustix::process::getegid().as_raw());
        let attributes = Attributes::new(self.mode, user, group);
        let server = Server::new(Arc::clone(&shared), attributes, runtime, answer_within);

        let (mounted, fuse) = Mounted::new(point)?;
        let mut config = fuser::Config::default();
        config.acl = fuser::SessionACL::All;
        let session = fuser::Session::from_fd(server, fuse, fuser::SessionACL::All, config)
            .map_err(no_protocol)?;
        let (tell, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("kmonitor-device".into())
            .spawn(move || {
                // Nobody listens after the device was dropped.
                let _ = tell.send(session.run());
            })
            .map_err(no_thread)?;
        Ok(Device {
            mounted,
            thread: Some(thread),
            ended,
            stats: Box::new(move || shared.stats()),
        })
    }
}

/// A device that is being offered. Dropping it unmounts it: callers that wait
/// get an error, and so do those that still have it open.
pub struct Device {
    mounted: Mounted,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<io::Result<()>>,
    stats: Box<dyn Fn() -> DeviceStats + Send + Sync>,
}

impl Device {
    /// Where it is, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> DeviceStats {
        (self.stats)()
    }

    /// Waits until the device is offered no longer, which is an error: somebody
    /// unmounted it, or the kernel ended the connection. Not to be called again
    /// after that.
    ///
    /// # Errors
    /// Always; [`DeviceError::Unmounted`] mostly.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn ended(&mut self) -> Result<(), DeviceError> {
        match (&mut self.ended).await {
            Ok(Err(source)) => Err(DeviceError::Io {
                action: "read requests for",
                path: self.path().to_owned(),
                source,
            }),
            Ok(Ok(())) | Err(_) => Err(DeviceError::Unmounted),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let quiet = self.mounted.unmount();
        // Without the end of requests the thread would read on.
        if let Some(thread) = self.thread.take().filter(|_| quiet)
            && thread.join().is_err()
        {
            tracing::error!("the thread that served the device panicked");
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("path", &self.path())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
