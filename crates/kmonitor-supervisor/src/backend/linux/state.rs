//! What a supervisor writes down, so that the next one finds the children of one
//! that died: a directory with a lock, and per child a record and its pipes.
//!
//! A record is written whole (aside, then renamed) before its child is forked, with
//! everything but who the child is; that the child appends itself (see `child.rs`),
//! and readiness is appended later. A line without its end was not written. Nothing
//! is forced to the disk: a record matters only within its boot.
//!
//! `lock` has two lines: the directory's id, which stays, and the pid of its holder.

mod lock;
mod names;
mod record;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fstat};

pub(super) use self::lock::flocked;
use self::lock::{lock_text, note_holder};
pub(super) use self::names::{Pipe, file_name};
use self::names::{pipe_name, record_name};
pub(super) use self::record::Record;
use super::procfs;

/// A record is some hundred bytes and a child's path.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The directory, locked.
///
/// It is only used if it is our own, and nobody else may write to it: a record says whom
/// to kill. All in it is reached by the directory's descriptor, and no link is followed.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
    boot: String,
    /// One that takes its place has another.
    id: String,
    /// A child between fork and exec holds it too; nobody after exec.
    _lock: File,
}

impl StateDir {
    /// Opens it, and makes it if there is none. Waits so long for another
    /// supervisor's lock, which one that died just now can leave to its children for
    /// the moment until they have executed their programs.
    pub(super) async fn open(path: &Path, patience: Duration) -> Result<Self, StateError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io {
                action,
                path,
                error,
            }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(io("make", path))?;
        let path = path.canonicalize().map_err(io("find", path))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| io("open", &path)(errno.into()))?;
        let stat = fstat(&dir).map_err(|errno| io("look at", &path)(errno.into()))?;
        if let Some(why) = untrusted(&stat) {
            return Err(StateError::Untrusted { path, why });
        }
        let lock_path = path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let lock = open_in(&dir, "lock", flags).map_err(io("open", &lock_path))?;
        if !flocked(&lock, patience)
            .await
            .map_err(io("lock", &lock_path))?
        {
            // Only for the message.
            let (_, holder) = lock_text(&lock);
            return Err(StateError::Locked { dir: path, holder });
        }
        let boot = procfs::boot_id().map_err(io("read", Path::new(procfs::BOOT_ID)))?;
        let id = note_holder(&lock).map_err(io("write", &lock_path))?;
        Ok(Self {
            path,
            dir,
            boot,
            id,
            _lock: lock,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.path
    }

    /// The name of the cgroup that those of the children are in.
    pub(super) fn base_name(&self) -> String {
        format!("kmonitor-{}", self.id)
    }

    /// Whether a cgroup is one that was made for a child of this directory's. Where it
    /// is depends on the cgroup that its supervisor was in.
    fn is_ours(&self, cgroup: &Path) -> bool {
        let base = self.base_name();
        let base = cgroup.parent().and_then(Path::file_name) == Some(base.as_ref());
        let plain = |part| !matches!(part, Component::ParentDir | Component::CurDir);
        base && cgroup.is_absolute() && cgroup.components().all(plain)
    }

    /// All records of this boot; those of others are removed.
    ///
    /// # Errors
    /// One cannot be read, so that it is not known who is to be let alone.
    pub(super) fn records(&self) -> Result<Vec<Record>, StateError> {
        let mut records = Vec::new();
        let entries = rustix::fs::Dir::read_from(&self.dir).and_then(Iterator::collect);
        let entries: Vec<rustix::fs::DirEntry> =
            entries.map_err(|errno| self.unreadable("", io::Error::from(errno)))?;
        for entry in entries {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name.ends_with(".record") {
                records.extend(self.read(name)?);
            } else if name.ends_with(".new") {
                // Its writer died before it was whole.
                self.remove(name);
            }
        }
        Ok(records)
    }

    /// The record of a child, if there is one of this boot.
    ///
    /// # Errors
    /// There is one, and it cannot be read.
    pub(super) fn record(&self, child: &str) -> Result<Option<Record>, StateError> {
        let record = self.read(&record_name(child))?;
        Ok(record.filter(|record| record.path == child))
    }

    fn read(&self, name: &str) -> Result<Option<Record>, StateError> {
        let file = match open_in(&self.dir, name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| self.unreadable(name, error))?,
        };
        let mut text = Vec::new();
        let read = (&file).take(RECORD_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| self.unreadable(name, error))?;
        let parsed = Record::parse(&String::from_utf8_lossy(&text));
        match parsed {
            Some((record, boot)) if boot == self.boot => {
                if record
                    .cgroup
                    .as_deref()
                    .is_some_and(|dir| !self.is_ours(dir))
                {
                    let text = "its cgroup is not one of this directory's";
                    return Err(self.unreadable(name, io::Error::other(text)));
                }
                return Ok(Some(record));
            }
            // What a machine that lost its power left may be anything.
            None if !is_before_boot(&file) => {
                let text = "it is no record that this version understands";
                return Err(self.unreadable(name, io::Error::other(text)));
            }
            _ => {}
        }
        tracing::info!(file = %self.path.join(name).display(), "removing: of another boot");
        self.remove(name);
        Ok(None)
    }

    fn unreadable(&self, name: &str, error: io::Error) -> StateError {
        StateError::Io {
            action: "read",
            path: self.path.join(name),
            error,
        }
    }

    /// Writes a record, in place of any other of that child's.
    pub(super) fn write(&self, record: &Record) -> io::Result<RecordFile> {
        let name = record_name(&record.path);
        let aside = format!("{name}.new");
        self.remove(&aside);
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
        let mut file = open_in(&self.dir, &aside, flags)?;
        file.write_all(record.to_text(&self.boot).as_bytes())?;
        rustix::fs::renameat(&self.dir, &aside, &self.dir, &name)?;
        let path = self.path.join(name);
        Ok(RecordFile { path, file })
    }

    /// Opens a record to go on with it.
    pub(super) fn reopen(&self, child: &str) -> io::Result<RecordFile> {
        let name = record_name(child);
        let file = open_in(&self.dir, &name, OFlags::WRONLY | OFlags::APPEND)?;
        let path = self.path.join(name);
        Ok(RecordFile { path, file })
    }

    /// Removes what there is of a child.
    pub(super) fn forget(&self, child: &str) {
        // Pipes first: without a record nobody looks for them. Mostly there are none.
        for pipe in Pipe::ALL {
            self.remove(&pipe_name(child, pipe));
        }
        self.remove(&record_name(child));
    }

    fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
    }

    /// Makes a pipe for a child: our end, and its own.
    ///
    /// The child gets it for reading *and* writing. So as long as it lives the pipe
    /// has a reader, and no death of ours makes it die of SIGPIPE; what it writes
    /// waits in the pipe until the next supervisor opens it by its name. A full pipe
    /// (64 KiB) makes the child wait.
    pub(super) fn make_pipe(
        &self,
        child: &str,
        pipe: Pipe,
        owner: Option<(u32, u32)>,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let name = pipe_name(child, pipe);
        self.remove(&name);
        rustix::fs::mkfifoat(&self.dir, &name, Mode::RUSR | Mode::WUSR)?;
        let ours = open_in(&self.dir, &name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if let Some((user, group)) = owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            // For those who open /dev/stderr. Who may become a user may do this too.
            let _ = rustix::fs::fchown(&ours, Some(user), Some(group));
        }
        let childs = open_in(&self.dir, &name, OFlags::RDWR)?;
        Ok((ours.into(), childs.into()))
    }

    /// Our end of a pipe that a former supervisor made.
    pub(super) fn reopen_pipe(&self, child: &str, pipe: Pipe) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = open_in(&self.dir, &pipe_name(child, pipe), flags).ok()?;
        let kind = fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        (kind == Ok(FileType::Fifo)).then(|| file.into())
    }
}

fn open_in(dir: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(file.into())
}

/// Why a directory is not to be trusted.
fn untrusted(stat: &rustix::fs::Stat) -> Option<String> {
    let (me, owner) = (rustix::process::geteuid(), stat.st_uid);
    if owner != me.as_raw() {
        return Some(format!("it belongs to user {owner}, and we are user {me}"));
    }
    let others = Mode::from_raw_mode(stat.st_mode) & (Mode::WGRP | Mode::WOTH);
    (!others.is_empty()).then(|| {
        let mode = stat.st_mode & 0o7777;
        format!("others may write to it (mode {mode:o})")
    })
}

/// Whether a file was last changed before this boot, as the clock goes now.
fn is_before_boot(file: &File) -> bool {
    let boot_ns = procfs::wall_ns_of_start(0);
    fstat(file).is_ok_and(|stat| {
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000) < boot_ns
    })
}

/// A record, open to be gone on with.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    file: File,
}

impl RecordFile {
    /// For the child, to append who it is.
    pub(super) fn for_child(&self) -> io::Result<File> {
        Ok(self.file.as_fd().try_clone_to_owned()?.into())
    }

    pub(super) fn mark_ready(&mut self) {
        if let Err(error) = self.file.write_all(b"ready\n") {
            tracing::warn!(file = %self.path.display(), %error, "cannot note readiness");
        }
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another supervisor uses it.
    #[error("another supervisor{} uses {}", holder.map_or_else(String::new, |pid| format!(" (pid {pid})")), dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The other, where it says so.
        holder: Option<i32>,
    },
    /// What processes there are cannot be seen.
    #[error("{why}")]
    NoProcesses {
        /// Why.
        why: String,
    },
    /// Others could have put something there, or could do so now.
    #[error("{} is not to be trusted: {why}", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file system's refusal, or a record that makes no sense.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use kmonitor_event::Pid;

    use super::lock::ID_LENGTH;
    use super::record::tests::record;
    use super::*;

    #[tokio::test]
    async fn one_supervisor_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), Duration::ZERO).await.unwrap();
        let second = StateDir::open(dir.path(), Duration::from_millis(20)).await;
        let Err(StateError::Locked { holder, .. }) = second else {
            panic!("{second:?}");
        };
        assert_eq!(holder, Some(Pid::current().as_raw()));
        drop(first);
        StateDir::open(dir.path(), Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn records_of_another_boot_and_its_garbage_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), Duration::ZERO).await.unwrap();
        let mut record = record();
        record.cgroup = Some(format!("/x/{}/y", state.base_name()).into());
        state.write(&record).unwrap();
        fs::write(dir.path().join("old.record"), record.to_text("other")).unwrap();
        fs::write(dir.path().join("bad.record"), [0xff; 10]).unwrap();
        let bad = File::open(dir.path().join("bad.record")).unwrap();
        bad.set_modified(std::time::UNIX_EPOCH).unwrap();
        fs::write(dir.path().join("half.new"), "").unwrap();
        assert_eq!(state.records().unwrap(), [record]);
        state.forget("app/db");
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.pop().unwrap().file_name(), "lock");
        assert!(left.is_empty(), "{left:?}");
    }

    /// What it says of this boot is not known: somebody may live whom it names.
    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), Duration::ZERO).await.unwrap();
        let file = dir.path().join("c.record");
        let later = record().to_text(&state.boot).replacen('1', "2", 1);
        let plain = || record().to_text(&state.boot);
        for text in [later, String::new(), plain()] {
            fs::write(&file, text).unwrap();
            let error = state.records().unwrap_err().to_string();
            assert!(error.contains("c.record"), "{error}");
            state.record("c").unwrap_err();
            assert!(file.exists());
        }
        // The last names a cgroup that is none of ours.
        let error = state.record("c").unwrap_err().to_string();
        assert!(error.contains("not one of this directory's"), "{error}");
        fs::remove_file(&file).unwrap();
        // It cannot be opened.
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        state.record("c").unwrap_err();
        assert!(file.is_symlink());
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_to_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o720, 0o702, 0o777] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(dir.path(), open).unwrap();
            let opened = StateDir::open(dir.path(), Duration::ZERO).await;
            assert!(
                matches!(opened, Err(StateError::Untrusted { .. })),
                "{opened:?}"
            );
        }
        let mut stat = fstat(File::open(dir.path()).unwrap()).unwrap();
        stat.st_mode = 0o40700;
        assert_eq!(untrusted(&stat), None);
        stat.st_uid += 1;
        assert!(untrusted(&stat).unwrap().contains("belongs to user"));
    }

    /// It would be truncated, or written to.
    #[tokio::test]
    async fn links_in_the_directory_are_not_followed() {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        fs::write(elsewhere.path(), "precious").unwrap();
        for name in ["lock", "app+db.record.new", "app+db.record", "app+db.out"] {
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(name)).unwrap();
            if let Ok(state) = StateDir::open(dir.path(), Duration::ZERO).await {
                drop(state.write(&record()));
                drop(state.reopen_pipe("app/db", Pipe::Stdout));
                drop(state.make_pipe("app/db", Pipe::Stdout, None));
            } else {
                assert_eq!(name, "lock");
            }
            assert_eq!(fs::read_to_string(elsewhere.path()).unwrap(), "precious");
        }
    }

    /// Not even SIGKILL at any moment makes it another: cgroups are named by it.
    #[tokio::test]
    async fn a_directory_keeps_its_name_for_cgroups() {
        let dir = tempfile::tempdir().unwrap();
        let open = async || StateDir::open(dir.path(), Duration::MAX).await.unwrap();
        let name = open().await.base_name();
        assert_eq!(open().await.base_name(), name);
        let lock = dir.path().join("lock");
        let text = fs::read_to_string(&lock).unwrap();
        for cut in ID_LENGTH..text.len() {
            fs::write(&lock, &text[..cut]).unwrap();
            assert_eq!(open().await.base_name(), name, "cut at {cut}");
        }
        fs::remove_dir_all(dir.path()).unwrap();
        assert_ne!(open().await.base_name(), name);
        fs::create_dir_all(dir.path()).unwrap();
    }
}
