//! Mounting and unmounting. `fuser` speaks the protocol; the mount is ours,
//! because it must hit the very file that was checked, and be recognizable.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::DeviceError;
use super::mountinfo;
use super::mountpoint::{FS_TYPE, Mountpoint, is_ours};

/// A mount that goes with this value, and the file below it after it.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: Mountpoint,
    /// The kernel's number of the mount, so that no other is unmounted.
    id: Option<u64>,
}

impl Mounted {
    /// Mounts a file system whose root is a regular file. With it the connection
    /// that requests come through.
    pub(crate) fn new(point: Mountpoint) -> Result<(Self, OwnedFd), DeviceError> {
        let fuse = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(DeviceError::NoFuse)?;
        // allow_other: whoever the mode lets. default_permissions: the kernel
        // checks that mode, so that no request of others comes here at all.
        let options = format!(
            "fd={},rootmode=100000,user_id={},group_id={},allow_other,default_permissions",
            fuse.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let failed = |source: io::Error| DeviceError::Io {
            action: "mount the device at",
            path: point.path().to_owned(),
            source,
        };
        let options = CString::new(options).map_err(|error| failed(error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let (source, target) = (point.source(), point.target());
        match rustix::mount::mount(source, target, FS_TYPE, flags, options.as_c_str()) {
            Ok(()) => {}
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
                return Err(DeviceError::Denied(errno.into()));
            }
            Err(Errno::NODEV) => return Err(DeviceError::NoFuse(Errno::NODEV.into())),
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut mounted = Self { point, id: None };
        mounted.id = mounted.topmost_of_ours();
        Ok((mounted, fuse.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    fn topmost_of_ours(&self) -> Option<u64> {
        let mount = mountinfo::topmost_at(self.path()).ok()??;
        is_ours(&mount).then_some(mount.id)
    }

    /// Ends the connection and takes the mount away. Returns whether requests
    /// come no longer; not so where something else was mounted over the device.
    pub(crate) fn unmount(&mut self) -> bool {
        let Some(id) = self.id.take() else {
            return true;
        };
        if self.topmost_of_ours() != Some(id) {
            tracing::warn!(path = %self.path().display(), "unmounted or covered by somebody else");
            return false;
        }
        // FORCE answers all who wait with an error (`fuse_abort_conn`), DETACH
        // does not mind files that are still open.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(self.path(), flags) {
            Ok(()) => true,
            Err(errno) => {
                let error = io::Error::from(errno);
                tracing::error!(path = %self.path().display(), %error, "cannot unmount");
                false
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}
