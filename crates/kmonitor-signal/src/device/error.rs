//! Why there is no device.

use std::io;
use std::path::PathBuf;

/// Why the device could not be offered, or is offered no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is something at the place of the device that is not ours.
    #[error(
        "{} is {what}, and is left alone: the device takes the place of an empty \
         regular file, or of none; remove it or choose another --device",
        path.display()
    )]
    NotOurs {
        /// The place of the device.
        path: PathBuf,
        /// What is there.
        what: String,
    },
    /// Another server offers this device.
    #[error(
        "{} is served already by another kmonitor: stop that one, or choose another --device",
        path.display()
    )]
    InUse {
        /// The place of the device.
        path: PathBuf,
    },
    /// Another server has this device, and does not answer.
    #[error(
        "{} belongs to a kmonitor that does not answer (stopped?): continue or kill it",
        path.display()
    )]
    Unresponsive {
        /// The place of the device.
        path: PathBuf,
    },
    /// The kernel has no FUSE, or it may not be used.
    #[error("/dev/fuse cannot be opened: load the module (modprobe fuse), or allow the device")]
    NoFuse(#[source] io::Error),
    /// Mounting is not allowed.
    #[error("mounting is not permitted: run as root (CAP_SYS_ADMIN) and outside a container")]
    Denied(#[source] io::Error),
    /// `/proc` is that of another pid namespace, so that callers would be mistaken.
    #[error(
        "/proc is missing or shows another pid namespace than this process's own: mount the right one"
    )]
    ForeignProc,
    /// Called outside a tokio runtime.
    #[error("not inside a tokio runtime with time enabled")]
    NoRuntime,
    /// Somebody else unmounted the device.
    #[error("the device was unmounted by somebody else")]
    Unmounted,
    /// Anything else that the system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The place of the device.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
