//! Mode, owner and group of the device. The kernel checks them; here they are
//! only kept, so that `chmod` and `chown` work as on any device file.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

/// What `stat` says of the device.
#[derive(Debug)]
pub(crate) struct Attributes {
    mode: AtomicU32,
    user: AtomicU32,
    group: AtomicU32,
    since: SystemTime,
}

impl Attributes {
    pub(crate) fn new(mode: u32, user: u32, group: u32) -> Self {
        Self {
            mode: AtomicU32::new(mode & 0o777),
            user: AtomicU32::new(user),
            group: AtomicU32::new(group),
            since: SystemTime::now(),
        }
    }

    /// What `chmod` and `chown` do. There is no set-user-id here.
    pub(crate) fn change(&self, mode: Option<u32>, user: Option<u32>, group: Option<u32>) {
        let set = |to: &AtomicU32, value: Option<u32>| {
            if let Some(value) = value {
                to.store(value, Ordering::Relaxed);
            }
        };
        set(&self.mode, mode.map(|mode| mode & 0o777));
        set(&self.user, user);
        set(&self.group, group);
    }

    pub(crate) fn get(&self) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: FileType::RegularFile,
            // Masked to nine bits above.
            perm: u16::try_from(self.mode.load(Ordering::Relaxed)).unwrap_or(0),
            nlink: 1,
            uid: self.user.load(Ordering::Relaxed),
            gid: self.group.load(Ordering::Relaxed),
            rdev: 0,
            blksize: 512,
            flags: 0,
        }
    }
}
