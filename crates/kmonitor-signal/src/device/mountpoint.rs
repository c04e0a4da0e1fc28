//! The file that the device is mounted over: made or checked, locked, and
//! removed at the end if we made it.
//!
//! What is ours is known by type and source of the mount alone. The lock on the
//! file below tells two servers apart that start at the same time; the one that
//! comes later sees the mount.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::DeviceError;
use super::mountinfo::{self, Mount};

/// The type of our mounts, with the subtype that nobody else uses.
pub(crate) const FS_TYPE: &str = "fuse.kmonitor";
/// The source of a mount over a file that was there before.
pub(crate) const SOURCE: &str = "kmonitor";
/// The source of a mount over a file that the server made. So the next server
/// knows, after a crash, that the file may be removed.
pub(crate) const SOURCE_MADE: &str = "kmonitor:made";

/// How long another server may take to say that it lives.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often to look again when the place changes under our eyes.
const ATTEMPTS_MAX: usize = 16;

/// An empty regular file that is ours alone while this lives.
#[derive(Debug)]
pub(crate) struct Mountpoint {
    path: PathBuf,
    /// Names the very file, whatever the path names later. Closing it frees the
    /// lock.
    file: OwnedFd,
    made: bool,
}

impl Mountpoint {
    /// Takes a place, after clearing away what a killed server left there.
    pub(crate) fn claim(path: &Path) -> Result<Self, DeviceError> {
        let path = mountinfo::resolve(path).map_err(|source| DeviceError::Io {
            action: "find the directory of",
            path: path.to_owned(),
            source,
        })?;
        let mut made = false;
        for _ in 0..ATTEMPTS_MAX {
            made |= clear(&path)?;
            match take(&path)? {
                Some((file, just_made)) => {
                    let made = made || just_made;
                    return Ok(Self { path, file, made });
                }
                None => tracing::debug!(path = %path.display(), "it changed meanwhile"),
            }
        }
        Err(DeviceError::Io {
            action: "take hold of",
            path,
            source: io::Error::other("it changes all the time"),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path to the file itself, which no rename can turn elsewhere.
    pub(crate) fn target(&self) -> String {
        by_descriptor(self.file.as_fd())
    }

    /// What the mount over it is to be called.
    pub(crate) fn source(&self) -> &'static str {
        if self.made { SOURCE_MADE } else { SOURCE }
    }
}

impl Drop for Mountpoint {
    /// Removes the file, if we made it and it is what the path names now.
    fn drop(&mut self) {
        if !self.made || !is_named(&self.path, self.file.as_fd()) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the file below");
        }
    }
}

/// Unmounts what a killed server left; other mounts are an error. Returns whether
/// that server had made the file.
fn clear(path: &Path) -> Result<bool, DeviceError> {
    let io = |action| {
        move |source| DeviceError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let mut made = false;
    for _ in 0..ATTEMPTS_MAX {
        let Some(mount) = mountinfo::topmost_at(path).map_err(io("look for mounts at"))? else {
            return Ok(made);
        };
        if !is_ours(&mount) {
            return Err(DeviceError::NotOurs {
                path: path.to_owned(),
                what: format!("a mount of {} (type {})", mount.source, mount.fs_type),
            });
        }
        match ask(path) {
            Answer::Alive => return Err(DeviceError::InUse { path: path.into() }),
            Answer::Silent => return Err(DeviceError::Unresponsive { path: path.into() }),
            // Unmounted by its server just now, perhaps.
            Answer::Other => continue,
            Answer::Dead => {}
        }
        tracing::warn!(path = %path.display(), "a killed server left its mount: unmounting");
        made |= mount.source == SOURCE_MADE;
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(path, flags) {
            // Not a mount any more: another server was quicker.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::PERM) => return Err(DeviceError::Denied(Errno::PERM.into())),
            Err(errno) => return Err(io("unmount what a killed server left at")(errno.into())),
        }
    }
    Err(io("clear away the mounts at")(io::Error::other(
        "there are always more",
    )))
}

pub(crate) fn is_ours(mount: &Mount) -> bool {
    mount.fs_type == FS_TYPE && [SOURCE, SOURCE_MADE].contains(&mount.source.as_str())
}

/// What becomes of a question to the server that mounted a file.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Alive,
    /// Its end of the connection is closed.
    Dead,
    /// Neither, for a while.
    Silent,
    Other,
}

/// Asks from a thread of its own, because a stopped server lets one wait. The
/// kernel passes the question on each time: our attributes are not cached.
fn ask(path: &Path) -> Answer {
    let (sender, receiver) = mpsc::sync_channel(1);
    let asked = path.to_owned();
    let thread = std::thread::Builder::new().name("kmonitor-ask".into());
    let spawned = thread.spawn(move || {
        let _ = sender.send(rustix::fs::stat(&asked));
    });
    if spawned.is_err() {
        return Answer::Silent;
    }
    match receiver.recv_timeout(ANSWER_WITHIN) {
        Ok(Ok(_)) => Answer::Alive,
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Answer::Dead,
        Ok(Err(_)) => Answer::Other,
        Err(_) => Answer::Silent,
    }
}

/// Opens and locks the file, or makes it. `None` where it changed meanwhile.
/// With whether it was made.
fn take(path: &Path) -> Result<Option<(OwnedFd, bool)>, DeviceError> {
    let io = |action| {
        move |errno: Errno| DeviceError::Io {
            action,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    // Only a name: opening a device can do things.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (named, made) = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(named) => (named, false),
        Err(Errno::NOENT) => match make(path) {
            Ok(made) => (made, true),
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(io("create")(errno)),
        },
        Err(Errno::NOTCONN) => return Ok(None),
        Err(errno) => return Err(io("open")(errno)),
    };
    let found = match rustix::fs::fstat(&named) {
        Ok(found) => found,
        Err(Errno::NOTCONN | Errno::CONNABORTED) => return Ok(None),
        Err(errno) => return Err(io("look at")(errno)),
    };
    if let Some(what) = objection(&found) {
        return Err(DeviceError::NotOurs {
            path: path.to_owned(),
            what,
        });
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(by_descriptor(named.as_fd()), flags, Mode::empty()).map_err(io("open"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(DeviceError::InUse { path: path.into() }),
        Err(errno) => return Err(io("lock")(errno)),
    }
    // A server that ended meanwhile removed it, one that started is mounted over it.
    Ok(is_named(path, file.as_fd()).then_some((file, made)))
}

fn make(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
}

/// What is wrong with a file, in words.
fn objection(found: &Stat) -> Option<String> {
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile if found.st_size == 0 => return None,
        FileType::RegularFile => return Some(format!("a file of {} bytes", found.st_size)),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "of an unknown kind",
    };
    Some(what.to_owned())
}

/// Whether the path names this very file, with nothing mounted over it.
fn is_named(path: &Path, file: BorrowedFd<'_>) -> bool {
    // Not asking a server: were one mounted there, its file is another anyway.
    let named = rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC,
        rustix::fs::StatxFlags::INO,
    );
    let held = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::INO);
    match (named, held) {
        (Ok(named), Ok(held)) => {
            (named.stx_dev_major, named.stx_dev_minor, named.stx_ino)
                == (held.stx_dev_major, held.stx_dev_minor, held.stx_ino)
        }
        _ => false,
    }
}

fn by_descriptor(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn refused(path: &Path) -> String {
        Mountpoint::claim(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("full"), "x").unwrap();
        symlink("full", place("link")).unwrap();
        symlink("nowhere", place("dangling")).unwrap();
        std::fs::create_dir(place("directory")).unwrap();
        for (name, what) in [
            ("full", "a file of 1 bytes"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("directory", "a directory"),
        ] {
            let error = refused(&place(name));
            assert!(error.contains(what), "{error}");
            assert!(error.contains("--device"), "{error}");
            assert!(place(name).symlink_metadata().is_ok());
        }
        assert_eq!(std::fs::read(place("full")).unwrap(), b"x");
        assert!(refused(Path::new("/dev/null")).contains("a character device"));
        assert!(refused(Path::new("/proc")).contains("a mount of proc (type proc)"));
        assert!(refused(&place("missing/x")).contains("find the directory"));
    }

    #[test]
    fn only_a_file_that_was_made_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a name with spaces");
        let point = Mountpoint::claim(&path).unwrap();
        assert_eq!(point.source(), SOURCE_MADE);
        assert!(path.exists());
        drop(point);
        assert!(!path.exists());

        std::fs::write(&path, "").unwrap();
        let point = Mountpoint::claim(&path).unwrap();
        assert_eq!(point.source(), SOURCE);
        drop(point);
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kmonitor");
        let point = Mountpoint::claim(&path).unwrap();
        let other = directory.path().join("other");
        std::fs::write(&other, "precious").unwrap();
        std::fs::rename(&other, &path).unwrap();
        drop(point);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn of_many_that_start_at_once_one_gets_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = &directory.path().join("kmonitor");
        for round in 0..20 {
            let barrier = &std::sync::Barrier::new(8);
            let claims: Vec<_> = std::thread::scope(|scope| {
                let claim = || {
                    barrier.wait();
                    Mountpoint::claim(path)
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let won = claims.iter().filter(|claim| claim.is_ok()).count();
            assert_eq!(won, 1, "round {round}: {claims:?}");
            for claim in claims {
                if let Err(error) = claim {
                    assert!(matches!(error, DeviceError::InUse { .. }), "{error}");
                }
            }
        }
    }
}
