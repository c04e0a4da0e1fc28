//! Cgroups (v2): one per incarnation, below a directory of our own.
//!
//! Nothing is asked of a controller, so that none needs to be delegated, and processes
//! may live beside our directory. `cgroup.kill` ends all members at once, also those
//! that fork; `cgroup.events` says when the last one, in nested cgroups too, is dead.
//! Zombies do not count, and do not hinder removal (run on 6.18).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::procfs::{self, Stat};
use super::state::{StateError, flocked};
use crate::sys;

/// How often removal is tried where the kernel is not done yet, and how long between.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// Where our cgroups are.
#[derive(Debug)]
pub(super) struct CgroupBase {
    dir: PathBuf,
    /// To be locked: who holds it may clear away what is there.
    held: File,
}

impl CgroupBase {
    /// Makes the directory, below `given` or below our own cgroup.
    pub(super) fn create(given: Option<&Path>, name: &str) -> Result<Self, String> {
        let parent = match given {
            // One name for one directory: the next run may come to it by another way.
            Some(parent) => fs::canonicalize(parent)
                .map_err(|error| format!("the cgroup {}: {error}", parent.display()))?,
            None => own_directory()?,
        };
        if !parent.join("cgroup.procs").exists() {
            return Err(format!("{} is not a cgroup (v2)", parent.display()));
        }
        let dir = parent.join(name);
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(format!("cannot make the cgroup {}: {error}", dir.display()));
            }
        }
        let held = File::open(&dir);
        let held = held.map_err(|error| format!("cannot open {}: {error}", dir.display()))?;
        Ok(Self { dir, held })
    }

    /// Makes sure that no other supervisor has its children there, also where its state
    /// directory is a copy of ours.
    pub(super) async fn lock(&self, patience: Duration) -> Result<(), StateError> {
        match flocked(&self.held, patience).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StateError::Locked {
                dir: self.dir.clone(),
                holder: None,
            }),
            Err(error) => Err(StateError::Io {
                action: "lock",
                path: self.dir.clone(),
                error,
            }),
        }
    }

    /// Makes one for an incarnation, and opens what its child will join it by.
    pub(super) fn begin(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let path = self.dir.join(name);
        fs::create_dir(&path)?;
        match File::options().write(true).open(path.join("cgroup.procs")) {
            Ok(procs) => Ok((path, procs)),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Those that there are.
    pub(super) fn existing(&self) -> Vec<PathBuf> {
        subdirectories(&self.dir).unwrap_or_default()
    }
}

impl Drop for CgroupBase {
    fn drop(&mut self) {
        // Fails as long as there is one below: that is another run's to find.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// One incarnation's.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    events: AsyncFd<File>,
    /// `cgroup.kill`, opened when there was a descriptor left. `None` where the kernel
    /// (before 5.14) has none.
    kill: Option<File>,
}

impl Cgroup {
    /// Opens one that exists. Within a runtime.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let events = sys::register_notified(File::open(path.join("cgroup.events"))?)?;
        let kill = File::options().write(true).open(path.join("cgroup.kill"));
        let kill = match kill {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, events, kill })
    }

    /// Waits until it has no living member.
    pub(super) async fn emptied(&self) -> io::Result<()> {
        loop {
            if !self.is_populated()? {
                return Ok(());
            }
            // The reading above armed the file: what changes after it is told.
            let mut told = self.events.ready(Interest::PRIORITY).await?;
            told.clear_ready();
        }
    }

    fn is_populated(&self) -> io::Result<bool> {
        let mut text = [0; 256];
        let length = match self.events.get_ref().read_at(&mut text, 0) {
            // It was removed, by somebody else, so nobody is in it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => return Ok(false),
            length => length?,
        };
        let text = text.get(..length).unwrap_or_default();
        Ok(text
            .split(|byte| *byte == b'\n')
            .any(|l| l == b"populated 1"))
    }

    /// Whether the kernel can end all members at once (Linux 5.14).
    pub(super) fn kills_at_once(&self) -> bool {
        self.kill.is_some()
    }

    /// Ends all members at once. `false` where the kernel cannot.
    pub(super) fn kill(&self) -> io::Result<bool> {
        match &self.kill {
            Some(file) => file.write_at(b"1", 0).map(|_| true),
            None => {
                // Who cannot run cannot fork; SIGKILL works on the frozen too.
                let _ = fs::write(self.path.join("cgroup.freeze"), "1");
                Ok(false)
            }
        }
    }

    /// Its members and those of nested ones, the dead left out.
    ///
    /// # Errors
    /// It could not be looked at.
    pub(super) fn members(&self) -> io::Result<Vec<Stat>> {
        let mut members = Vec::new();
        let mut todo = vec![self.path.clone()];
        while let Some(dir) = todo.pop() {
            // What was removed meanwhile has none.
            for pid in if_there(pids_in(&dir))?.unwrap_or_default() {
                let stat = procfs::look_at(pid)?;
                members.extend(stat.filter(|stat| !stat.is_dead()));
            }
            todo.extend(if_there(subdirectories(&dir))?.unwrap_or_default());
        }
        Ok(members)
    }

    /// Whether a process is in it, or in a nested one.
    ///
    /// # Errors
    /// It could not be looked at.
    pub(super) fn has(&self, pid: i32) -> io::Result<bool> {
        let text = if_there(fs::read_to_string(format!("/proc/{pid}/cgroup")))?;
        let mut lines = text.iter().flat_map(|text| text.lines());
        let theirs = lines.find_map(|line| line.strip_prefix("0::"));
        let names: Vec<_> = theirs.map(Path::new).into_iter().flatten().collect();
        let [base, own] = last_names(&self.path);
        Ok(names
            .windows(2)
            .any(|pair| [base, own] == [Some(pair[0]), Some(pair[1])]))
    }

    /// Removes it with those its members made in it.
    pub(super) async fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            match remove_all(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {}
                Err(error) => {
                    tracing::warn!(cgroup = %self.path.display(), %error, "cannot remove");
                    return;
                }
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        tracing::warn!(cgroup = %self.path.display(), "cannot remove: somebody is in it");
    }
}

/// A cgroup's two last names: our base's and the incarnation's. They are the same whatever
/// way leads there, and whatever part of the hierarchy is mounted.
pub(super) fn last_names(path: &Path) -> [Option<&OsStr>; 2] {
    let mut names = path.iter().rev();
    let own = names.next();
    [names.next(), own]
}

/// As for processes; and what is open of a cgroup that is removed is not there, either.
fn if_there<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        looked => procfs::if_there(looked),
    }
}

fn pids_in(dir: &Path) -> io::Result<Vec<i32>> {
    match numbers(&dir.join("cgroup.procs")) {
        // That of a threaded one, as a member may make it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {
            let threads = numbers(&dir.join("cgroup.threads"))?;
            let pids = threads.into_iter().filter_map(procfs::process_of);
            Ok(pids.collect::<BTreeSet<_>>().into_iter().collect())
        }
        pids => pids,
    }
}

fn numbers(file: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(file)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Removes a cgroup, the innermost first.
pub(super) fn remove_all(dir: &Path) -> io::Result<()> {
    // Not by recursion: a member may have nested them deeply.
    let mut found = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(dir) = found.get(at) {
        // What is there hinders the removal, which tells of it.
        let below = subdirectories(dir);
        found.extend(below.unwrap_or_default());
        at += 1;
    }
    found.iter().rev().try_for_each(fs::remove_dir)
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The directory of the cgroup that we are in.
fn own_directory() -> Result<PathBuf, String> {
    let read = |path| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let mounts = read("/proc/self/mountinfo")?;
    let (root, mount) = mounts
        .lines()
        .find_map(cgroup_mount)
        .ok_or("cgroup v2 is not mounted")?;
    let groups = read("/proc/self/cgroup")?;
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("this kernel has no cgroup v2")?;
    // The mount may show only a part of the hierarchy.
    let below = Path::new(own)
        .strip_prefix(&root)
        .map_err(|_| format!("our cgroup {own} is outside what is mounted at {mount}"))?;
    Ok(Path::new(&mount).join(below))
}

/// Root and mount point, if the line of `mountinfo` is that of a cgroup v2 mount.
fn cgroup_mount(line: &str) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    if after.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = before.split(' ').skip(3);
    Some((unescape(fields.next()?), unescape(fields.next()?)))
}

/// Blanks and the like are written in octal there.
fn unescape(field: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let plain = |text: String, (code, plain): (&str, &str)| text.replace(code, plain);
    codes.into_iter().fold(field.to_owned(), plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let line = "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let at = ("/".to_owned(), "/sys/fs/cgroup/unified".to_owned());
        assert_eq!(cgroup_mount(line), Some(at));
        let line = r"3 1 0:3 /a\040b /x rw,relatime shared:4 - cgroup2 none rw";
        assert_eq!(cgroup_mount(line), Some(("/a b".into(), "/x".into())));
        for other in [
            "",
            "1 2 - cgroup2",
            "1 2 0:3 / /x rw - cgroup cgroup rw,cpu",
        ] {
            assert_eq!(cgroup_mount(other), None, "{other}");
        }
    }
}
