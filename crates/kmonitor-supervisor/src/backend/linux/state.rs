//! What a supervisor writes down, so that the next one finds the children of one
//! that died: a directory with a lock, and per child a record and its pipes.
//!
//! A record is written whole (aside, then renamed) before its child is forked, with
//! everything but who the child is; that the child appends itself (see `child.rs`),
//! and readiness is appended later. A line without its end was not written. Nothing
//! is forced to the disk: a record matters only within its boot.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kmonitor_event::Pid;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock};

use super::identity::Identity;
use super::procfs;
use crate::spec::KillScope;

const VERSION_LINE: &str = "kmonitor-supervisor 1";

/// A record is some hundred bytes and a child's path.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The longest file name made of a path as it is; longer ones are shortened.
const NAME_BYTES_MAX: usize = 180;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) path: String,
    pub(super) generation: u64,
    pub(super) scope: KillScope,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) marker: String,
    pub(super) adopted: bool,
    /// Who it is. `None`: no program was executed.
    pub(super) process: Option<Identity>,
    pub(super) ready: bool,
}

impl Record {
    fn to_text(&self, boot: &str) -> String {
        let mut text = format!(
            "{VERSION_LINE}\nboot {boot}\npath {}\ngeneration {}\nscope {}\nmarker {}\n",
            self.path,
            self.generation,
            scope_name(self.scope),
            self.marker
        );
        if let Some(cgroup) = &self.cgroup {
            text.push_str(&format!("cgroup {}\n", cgroup.display()));
        }
        if self.adopted {
            text.push_str("adopted\n");
        }
        if let Some(Identity { pid, inode, start }) = self.process {
            let inode = inode.map_or(0, NonZeroU64::get);
            text.push_str(&format!("process {pid} {inode} {start}\n"));
        }
        if self.ready {
            text.push_str("ready\n");
        }
        text
    }

    /// Reads a record; the second is the boot it belongs to.
    fn parse(text: &str) -> Option<(Self, String)> {
        // What follows the last end of a line was not written to its end.
        let (whole, _) = text.rsplit_once('\n')?;
        let mut lines = whole.lines();
        if lines.next()? != VERSION_LINE {
            return None;
        }
        let mut boot = None;
        let mut path = None;
        let mut generation = None;
        let mut scope = None;
        let mut marker = None;
        let mut record = Self {
            path: String::new(),
            generation: 0,
            scope: KillScope::Leader,
            cgroup: None,
            marker: String::new(),
            adopted: false,
            process: None,
            ready: false,
        };
        for line in lines {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "boot" => boot = Some(value.to_owned()),
                "path" => path = Some(value.to_owned()),
                "generation" => generation = Some(value.parse().ok()?),
                "scope" => scope = Some(scope_named(value)?),
                "marker" => marker = Some(value.to_owned()),
                "cgroup" => record.cgroup = Some(value.into()),
                "adopted" => record.adopted = true,
                "process" => record.process = Some(parse_process(value)?),
                "ready" => record.ready = true,
                // A later version's.
                _ => {}
            }
        }
        record.path = path?;
        record.generation = generation?;
        record.scope = scope?;
        record.marker = marker?;
        Some((record, boot?))
    }
}

fn parse_process(value: &str) -> Option<Identity> {
    let mut words = value.split(' ');
    let pid = Pid::new(words.next()?.parse().ok()?)?;
    let inode = NonZeroU64::new(words.next()?.parse().ok()?);
    let start = words.next()?.parse().ok()?;
    Some(Identity { pid, inode, start })
}

const SCOPES: [(KillScope, &str); 4] = [
    (KillScope::Cgroup, "cgroup"),
    (KillScope::Tree, "tree"),
    (KillScope::Group, "group"),
    (KillScope::Leader, "leader"),
];

fn scope_name(scope: KillScope) -> &'static str {
    let found = SCOPES.iter().find(|(known, _)| *known == scope);
    // `Best` is resolved before anything is written.
    found.map_or("leader", |(_, name)| name)
}

fn scope_named(name: &str) -> Option<KillScope> {
    let found = SCOPES.iter().find(|(_, known)| *known == name);
    found.map(|(scope, _)| *scope)
}

/// Which of a child's pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipe {
    Stdout,
    Stderr,
    Notify,
}

impl Pipe {
    const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Notify];

    fn suffix(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Notify => "ready",
        }
    }
}

/// The directory, locked.
#[derive(Debug)]
pub(super) struct StateDir {
    dir: PathBuf,
    boot: String,
    /// A child between fork and exec holds it too; nobody after exec.
    _lock: File,
}

impl StateDir {
    /// Opens it, and makes it if there is none. Waits so long for another
    /// supervisor's lock, which one that died just now can leave to its children for
    /// the moment until they have executed their programs.
    pub(super) async fn open(dir: &Path, patience: Duration) -> Result<Self, StateError> {
        let io = |action| {
            let path = dir.to_owned();
            move |error| StateError::Io {
                action,
                path,
                error,
            }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(io("make"))?;
        let dir = dir.canonicalize().map_err(io("find"))?;
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io {
                action,
                path,
                error,
            }
        };
        let path = dir.join("lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open", &path))?;
        let until = Instant::now() + patience;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    // Only for the message.
                    let _ = (&mut lock).take(32).read_to_string(&mut holder);
                    return Err(StateError::Locked {
                        dir,
                        holder: holder.trim().parse().ok(),
                    });
                }
                Err(errno) => return Err(io("lock", &path)(errno.into())),
            }
        }
        let note = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        note.map_err(io("write", &path))?;
        Ok(Self {
            dir,
            boot: procfs::boot_id(),
            _lock: lock,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All records of this boot that make sense; the others are removed.
    pub(super) fn records(&self) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            match path.extension().and_then(|ext| ext.to_str()) {
                Some("record") => match self.read(&path) {
                    Some(record) => records.push(record),
                    None => {
                        tracing::warn!(file = %path.display(), "removing: not a record of this boot");
                        let _ = fs::remove_file(&path);
                    }
                },
                // Its writer died before it was whole.
                Some("new") => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        records
    }

    /// The record of a child, if there is one of this boot.
    pub(super) fn record(&self, child: &str) -> Option<Record> {
        let record = self.read(&self.record_path(child))?;
        (record.path == child).then_some(record)
    }

    fn read(&self, path: &Path) -> Option<Record> {
        let mut text = String::new();
        let file = File::open(path).ok()?;
        file.take(RECORD_BYTES_MAX).read_to_string(&mut text).ok()?;
        let (record, boot) = Record::parse(&text)?;
        (boot == self.boot).then_some(record)
    }

    /// Writes a record, in place of any other of that child's.
    pub(super) fn write(&self, record: &Record) -> io::Result<RecordFile> {
        let path = self.record_path(&record.path);
        let aside = path.with_extension("new");
        let mut file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&aside)?;
        file.set_len(0)?;
        file.write_all(record.to_text(&self.boot).as_bytes())?;
        fs::rename(&aside, &path)?;
        Ok(RecordFile { path, file })
    }

    /// Opens a record to go on with it.
    pub(super) fn reopen(&self, child: &str) -> io::Result<RecordFile> {
        let path = self.record_path(child);
        let file = File::options().append(true).open(&path)?;
        Ok(RecordFile { path, file })
    }

    /// Removes what there is of a child.
    pub(super) fn forget(&self, child: &str) {
        // Pipes first: without a record nobody looks for them. Mostly there are none.
        for pipe in Pipe::ALL {
            let _ = fs::remove_file(self.pipe_path(child, pipe));
        }
        let _ = fs::remove_file(self.record_path(child));
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
        let path = self.pipe_path(child, pipe);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
        if let Some((user, group)) = owner {
            // For those who open /dev/stderr. Who may become a user may do this too.
            let _ = std::os::unix::fs::chown(&path, Some(user), Some(group));
        }
        let ours = open_reading(&path)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let childs = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok((ours, childs))
    }

    /// Our end of a pipe that a former supervisor made.
    pub(super) fn reopen_pipe(&self, child: &str, pipe: Pipe) -> Option<OwnedFd> {
        let path = self.pipe_path(child, pipe);
        let is_fifo = |path: &Path| {
            let kind = fs::symlink_metadata(path).map(|data| data.mode() & 0o170_000);
            kind.is_ok_and(|kind| kind == 0o010_000)
        };
        is_fifo(&path).then(|| open_reading(&path).ok())?
    }

    fn record_path(&self, child: &str) -> PathBuf {
        self.dir.join(format!("{}.record", file_name(child)))
    }

    fn pipe_path(&self, child: &str, pipe: Pipe) -> PathBuf {
        self.dir
            .join(format!("{}.{}", file_name(child), pipe.suffix()))
    }
}

fn open_reading(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
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

/// A child's path as a file's name. `+` and `~` are in no child's name, so no two
/// paths give the same, but for long ones that share the beginning and 64 bits.
pub(super) fn file_name(child: &str) -> String {
    let name = child.replace('/', "+");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    // Names are ASCII, so that any place is one between two characters.
    let beginning = name.get(..NAME_BYTES_MAX - 17).unwrap_or_default();
    format!("{beginning}~{:016x}", hash(child.as_bytes()))
}

/// FNV-1a: the same in every version of this program, which is what is needed here.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
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
    /// A file system's refusal.
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
    use super::*;

    fn record() -> Record {
        Record {
            path: "app/db".into(),
            generation: 7,
            scope: KillScope::Cgroup,
            cgroup: Some("/sys/fs/cgroup/x y".into()),
            marker: "abc".into(),
            adopted: true,
            process: Some(Identity {
                pid: Pid::new(42).unwrap(),
                inode: NonZeroU64::new(9),
                start: 5,
            }),
            ready: true,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let text = record().to_text("boot-1");
        assert_eq!(Record::parse(&text), Some((record(), "boot-1".into())));
    }

    #[test]
    fn a_record_cut_anywhere_says_less_and_never_something_else() {
        let text = record().to_text("b");
        for end in 0..text.len() {
            if let Some((cut, _)) = Record::parse(&text[..end]) {
                assert_eq!(cut.path, "app/db");
                assert!(
                    cut.process.is_none() || cut.process == record().process,
                    "{end}"
                );
            }
        }
        // The child's line without its end: it has not executed anything.
        let cut = text.find("process 42 9 5").unwrap() + "process 42 9 5".len();
        assert_eq!(Record::parse(&text[..cut]).unwrap().0.process, None);
    }

    #[test]
    fn garbage_is_no_record() {
        for text in [
            "",
            "\n",
            "x\n",
            "kmonitor-supervisor 2\n",
            "kmonitor-supervisor 1\n",
        ] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
        let text = record().to_text("b").replace("process 42", "process -1");
        assert_eq!(Record::parse(&text), None);
    }

    #[test]
    fn every_path_has_a_file_name_of_its_own() {
        assert_eq!(file_name("a/b"), "a+b");
        let long = |last: char| format!("{}/{last}", "x".repeat(64)).repeat(9);
        assert!(file_name(&long('a')).len() <= NAME_BYTES_MAX);
        assert_ne!(file_name(&long('a')), file_name(&long('b')));
    }

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
    async fn records_of_another_boot_and_garbage_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), Duration::ZERO).await.unwrap();
        state.write(&record()).unwrap();
        fs::write(dir.path().join("old.record"), record().to_text("other")).unwrap();
        fs::write(dir.path().join("bad.record"), [0xff; 10]).unwrap();
        fs::write(dir.path().join("half.new"), "").unwrap();
        assert_eq!(state.records(), [record()]);
        state.forget("app/db");
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.pop().unwrap().file_name(), "lock");
        assert!(left.is_empty(), "{left:?}");
    }
}
