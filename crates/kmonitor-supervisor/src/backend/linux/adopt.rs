//! Whom a specification names: a pid, `PID:INODE`, or what a pid file says.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kmonitor_event::{Pid, ProcessRef};
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::fs::OFlags;

use super::identity::{Identity, is_gone};
use super::{ourselves, procfs};
use crate::spec::{Adopt, ChildPath};

/// A pid, blanks, an end of the line; some daemons add a line or two.
const FILE_BYTES_MAX: u64 = 256;

/// The clock may have been set a little between the start and the writing.
const CLOCK_SLACK_NS: u64 = 1_000_000_000;

/// Whom bare pids were found to mean, per child: a declaration means the process that
/// had the pid when it was first looked for, and nobody who has it later.
#[derive(Debug, Default)]
pub(super) struct Meant(Mutex<HashMap<ChildPath, (Adopt, Option<Identity>)>>);

impl Meant {
    /// Takes hold of who is named.
    ///
    /// # Errors
    /// What to tell a person.
    pub(super) fn find(&self, child: &ChildPath, adopt: &Adopt) -> Result<Arc<Pidfd>, String> {
        match adopt {
            Adopt::Pid(pid) => self.by_pid(child, adopt, *pid),
            Adopt::Process(ProcessRef { pid, inode: None }) => self.by_pid(child, adopt, *pid),
            Adopt::Process(process) => open(*process),
            Adopt::PidFile(path) => {
                in_file(path).map_err(|why| format!("pid file {}: {why}", path.display()))
            }
        }
        .and_then(adoptable)
    }

    /// A former run adopted this one for the child. If that is whom the pid means, it
    /// means nobody else.
    pub(super) fn was(&self, child: &ChildPath, adopt: &Adopt, whom: Identity) {
        let pid = match adopt {
            Adopt::Pid(pid) => *pid,
            Adopt::Process(process) => process.pid,
            Adopt::PidFile(_) => return,
        };
        if pid == whom.pid {
            self.bind(child, adopt, Some(whom));
        }
    }

    fn bind(&self, child: &ChildPath, adopt: &Adopt, whom: Option<Identity>) {
        let mut meant = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        meant.insert(child.clone(), (adopt.clone(), whom));
    }

    fn by_pid(&self, child: &ChildPath, adopt: &Adopt, pid: Pid) -> Result<Pidfd, String> {
        let known = {
            let meant = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = meant.get(child).filter(|(of, _)| of == adopt);
            known.map(|(_, whom)| *whom)
        };
        if let Some(whom) = known {
            let held = whom.map(|whom| whom.open()).transpose();
            let held = held.map_err(|error| format!("process {pid}: {error}"))?;
            return held.flatten().ok_or(format!(
                "process {pid} is not the one that had this pid at the first start, which is gone"
            ));
        }
        match Pidfd::open(pid) {
            Ok(pidfd) => {
                self.bind(child, adopt, Some(Identity::of(&pidfd)));
                Ok(pidfd)
            }
            Err(error) => {
                if is_gone(&error) {
                    self.bind(child, adopt, None);
                }
                Err(format!("process {pid}: {error}"))
            }
        }
    }
}

fn adoptable(pidfd: Pidfd) -> Result<Arc<Pidfd>, String> {
    let pid = pidfd.pid();
    if let Some(why) = ourselves::descended_from(pid) {
        return Err(why);
    }
    match pidfd.readiness() {
        Ok(Readiness::Alive) => Ok(Arc::new(pidfd)),
        Ok(_) => Err(format!("process {pid} is dead already")),
        Err(error) => Err(format!("process {pid}: {error}")),
    }
}

fn open(process: ProcessRef) -> Result<Pidfd, String> {
    Pidfd::open_ref(process).map_err(|error| format!("process {process}: {error}"))
}

fn in_file(path: &Path) -> Result<Pidfd, String> {
    let text = |error: io::Error| error.to_string();
    // A pipe in its place must not make us wait.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags).open(path);
    let file = file.map_err(text)?;
    let data = file.metadata().map_err(text)?;
    if !data.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut beginning = (&file).take(FILE_BYTES_MAX + 1);
    beginning.read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "it is longer than {FILE_BYTES_MAX} bytes, so it holds something else"
        ));
    }
    let pid = pid_in(&bytes)?;
    // Held first, and then compared: the pid may change hands at any time.
    let pidfd = open(ProcessRef::from(pid))?;
    let stat = procfs::stat(pid.as_raw()).ok_or(format!("process {pid} is gone"))?;
    let seconds = u64::try_from(data.mtime()).unwrap_or(0);
    let nanos = u64::try_from(data.mtime_nsec()).unwrap_or(0);
    let written_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    let started_ns = procfs::wall_ns_of_start(stat.start);
    if started_ns > written_ns.saturating_add(CLOCK_SLACK_NS) {
        return Err(format!(
            "process {pid} is younger than the file, so it is not the one that was meant"
        ));
    }
    Ok(pidfd)
}

/// The first word of the file.
fn pid_in(bytes: &[u8]) -> Result<Pid, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it holds no text".to_owned())?;
    let word = text.split_whitespace().next().ok_or("it is empty")?;
    word.parse()
        .map_err(|error: kmonitor_event::ParsePidError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn find(adopt: &Adopt) -> Result<Arc<Pidfd>, String> {
        Meant::default().find(&child(), adopt)
    }

    fn child() -> ChildPath {
        ChildPath::root(&crate::spec::ChildName::new("c").unwrap())
    }

    fn refused(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        fs::write(&path, content).unwrap();
        find(&Adopt::PidFile(path)).unwrap_err()
    }

    #[test]
    fn files_that_name_nobody_say_why() {
        assert!(refused(b"").contains("it is empty"));
        assert!(refused(b" \n").contains("it is empty"));
        assert!(refused(b"nginx\n").contains("not a process id"));
        assert!(refused(b"-1").contains("positive"));
        assert!(refused(b"99999999999999").contains("2147483647"));
        assert!(refused(&[0xff, 0xfe]).contains("no text"));
        assert!(refused(&[b'1'; 4096]).contains("longer than"));
        assert!(refused(b"2147483647").contains("2147483647"));
        let missing = find(&Adopt::PidFile("/nowhere/x.pid".into())).unwrap_err();
        assert!(missing.contains("/nowhere/x.pid") && missing.contains("No such file"));
        let directory = find(&Adopt::PidFile("/".into())).unwrap_err();
        assert!(directory.contains("not a regular file"), "{directory}");
    }

    #[test]
    fn we_and_our_ancestors_are_not_adopted() {
        for pid in [Pid::current(), Pid::new(1).unwrap()] {
            let error = find(&Adopt::Pid(pid)).unwrap_err();
            assert!(error.contains("descends from"), "{error}");
        }
    }

    #[test]
    fn who_is_younger_than_the_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        let fresh = find(&Adopt::PidFile(path.clone()));
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(hour_ago)
            .unwrap();
        let stale = find(&Adopt::PidFile(path));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fresh.unwrap().pid().as_raw(), child.id() as i32);
        assert!(stale.unwrap_err().contains("younger"));
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_adopted() {
        let mut process = std::process::Command::new("sleep");
        let mut process = process.arg("60").spawn().unwrap();
        let pid = Pid::try_from(process.id()).unwrap();
        for adopt in [
            Adopt::Pid(pid),
            Adopt::Process(ProcessRef { pid, inode: None }),
        ] {
            let meant = Meant::default();
            let first = meant.find(&child(), &adopt).unwrap();
            // The same is found again.
            meant.find(&child(), &adopt).unwrap();
            // Another had the pid at the first start, or nobody.
            let now = Identity::of(&first);
            let inode = now.inode.and_then(|inode| inode.checked_add(1));
            let start = now.start - 1;
            let another = Identity { pid, inode, start };
            for former in [Some(another), None] {
                meant.bind(&child(), &adopt, former);
                let error = meant.find(&child(), &adopt).unwrap_err();
                assert!(error.contains("not the one"), "{error}");
            }
            meant.was(&child(), &adopt, another);
            assert!(meant.find(&child(), &adopt).is_err());
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
