//! Who is not for us to supervise or to stop: a signal to them would reach this program,
//! one that it descends from, or the application's other children.
//!
//! A supervisor can come to run below what a former run started or adopted: it is started
//! again from a login, and the server of logins is one of its children.

use std::io;
use std::path::Path;

use kmonitor_event::Pid;

use super::MARK;
use super::cgroup::Cgroup;
use super::environment::{self, NoWords};
use super::kin::{self, Ancestry, Table};
use super::procfs::{self, Stat};
use super::state::Record;
use crate::spec::KillScope;

/// Why a process is not for us, whatever its scope.
pub(super) fn descended_from(pid: Pid) -> Option<String> {
    match kin::own_ancestry() {
        Ok(above) => is_above(&above, pid),
        Err(error) => Some(not_known(&error)),
    }
}

fn is_above(above: &Ancestry, pid: Pid) -> Option<String> {
    let why = || format!("process {pid} is this program, or one it descends from");
    above.contains_key(&pid.as_raw()).then(why)
}

/// Why the living process that a record tells of is not for us, with its scope.
pub(super) fn reached_with(record: &Record) -> Option<String> {
    let pid = record.process?.pid;
    let above = match kin::own_ancestry() {
        Ok(above) => above,
        Err(error) => return Some(not_known(&error)),
    };
    if let Some(why) = is_above(&above, pid) {
        return Some(why);
    }
    let is_in = |what| {
        format!("this program, or one that it descends from, is in the {what} of process {pid}")
    };
    let shares = |id: fn(&Stat) -> i32| {
        let mut seen = above.values().flatten();
        seen.any(|stat| id(stat) == pid.as_raw())
    };
    match (record.scope, &record.cgroup) {
        (KillScope::Leader, _) => None,
        (KillScope::Group, _) => shares(|stat| stat.group).then(|| is_in("group")),
        (KillScope::Cgroup, Some(dir)) if dir.exists() => match Cgroup::open(dir.clone()) {
            Ok(cgroup) => within(&cgroup, dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(not_known(&error)),
        },
        // By descent only.
        _ if record.adopted => None,
        _ if shares(|stat| stat.session) => Some(is_in("session")),
        _ => match any_has_word(&above, &record.marker) {
            Ok(any) => any.then(|| is_in("tree")),
            Err(error) => Some(not_known(&error)),
        },
    }
}

/// Why those in a cgroup are not for us.
pub(super) fn within(cgroup: &Cgroup, dir: &Path) -> Option<String> {
    let above = match kin::own_ancestry() {
        Ok(above) => above,
        Err(error) => return Some(not_known(&error)),
    };
    for pid in above.into_keys() {
        match cgroup.has(pid) {
            Ok(true) => {
                return Some(format!(
                    "process {pid} in the cgroup {} is this program, or one it descends from",
                    dir.display()
                ));
            }
            Ok(false) => {}
            Err(error) => return Some(not_known(&error)),
        }
    }
    None
}

/// Leaves out of those who were found by a mark, or as descendants of such, who is not
/// for us. If we are below them ourselves, all that is below us is the application's.
///
/// # Errors
/// It is not known who that is.
pub(super) fn spare(found: &mut Vec<Stat>, word: &str) -> io::Result<()> {
    let above = kin::own_ancestry()?;
    let is_above = |stat: &Stat| above.contains_key(&stat.pid);
    if !we_have_word(word) && !found.iter().any(is_above) {
        return Ok(());
    }
    let me = procfs::own_pid();
    let below = Table::read()?.descending_from(|stat| stat.pid == me);
    found.retain(|stat| !is_above(stat) && below.iter().all(|own| own.pid != stat.pid));
    Ok(())
}

fn not_known(error: &io::Error) -> String {
    format!("it is not known whom this program descends from: {error}")
}

/// Whether one of them was started with it, as far as can be seen.
fn any_has_word(above: &Ancestry, word: &str) -> io::Result<bool> {
    let mut untold = None;
    for pid in above.keys().filter(|pid| **pid != procfs::own_pid()) {
        match environment::marks(*pid) {
            Ok(marks) if marks.iter().any(|it| it == word) => return Ok(true),
            Ok(_) | Err(NoWords::None | NoWords::Gone) => {}
            Err(NoWords::Unknown(errno)) => untold = Some(errno.into()),
            Err(NoWords::NotYet | NoWords::Dying) => {
                let text = format!("process {pid} is executing a program, or dying");
                untold = Some(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
        }
    }
    match untold {
        _ if we_have_word(word) => Ok(true),
        Some(error) => Err(error),
        None => Ok(false),
    }
}

/// Whether this program was started with it. Who may not be dumped cannot read its own file.
fn we_have_word(word: &str) -> bool {
    let words = std::env::var(MARK).unwrap_or_default();
    words.split(':').any(|it| it == word)
}
