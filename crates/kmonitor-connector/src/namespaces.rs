//! Whether this process is in the namespaces that the proc connector serves.

use std::fs;
use std::path::Path;

use kmonitor_source::StartErrorKind;

/// `PROC_PID_INIT_INO`, `PROC_USER_INIT_INO` (the same on every kernel since 3.8) and
/// `PROC_TIME_INIT_INO` (5.6) of `linux/proc_ns.h`. The initial network namespace has no
/// fixed number; that one shows by `ECONNREFUSED`.
const INITIAL_PID: u64 = 0xEFFF_FFFC;
const INITIAL_USER: u64 = 0xEFFF_FFFD;
const INITIAL_TIME: u64 = 0xEFFF_FFFA;

/// What `/proc` says of the namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// They are the initial ones.
    Initial,
    /// One is not, which is the cause.
    Other(StartErrorKind),
    /// There is no `/proc` to ask, or it tells nothing of use.
    Unknown,
}

impl Namespaces {
    /// Those of the calling process.
    pub(crate) fn current() -> Self {
        Self::of(Path::new("/proc/self/ns"))
    }

    fn of(links: &Path) -> Self {
        let pid = number(&links.join("pid"));
        let user = number(&links.join("user"));
        // Reports are stamped with the clock of the initial one, by which nothing can be
        // told that is looked up by ours.
        let time = number(&links.join("time"));
        match (pid, user) {
            (Some(pid), _) if pid != INITIAL_PID => Self::Other(StartErrorKind::PidNamespace),
            (_, Some(user)) if user != INITIAL_USER => Self::Other(StartErrorKind::UserNamespace),
            _ if time.is_some_and(|time| time != INITIAL_TIME) => {
                Self::Other(StartErrorKind::TimeNamespace)
            }
            (Some(_), Some(_)) => Self::Initial,
            _ => Self::Unknown,
        }
    }
}

/// The number in a link such as `pid:[4026531836]`.
fn number(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    let text = target.to_str()?;
    let (_, behind) = text.split_once(":[")?;
    behind.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn links(name: &str, pid: &str, user: &str) -> Namespaces {
        let unique = format!("kmonitor-namespaces-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(unique);
        fs::create_dir_all(&directory).unwrap();
        symlink(pid, directory.join("pid")).unwrap();
        symlink(user, directory.join("user")).unwrap();
        let found = Namespaces::of(&directory);
        symlink("time:[4026531834]", directory.join("time")).unwrap();
        assert_eq!(Namespaces::of(&directory), found);
        fs::remove_file(directory.join("time")).unwrap();
        symlink("time:[4026532300]", directory.join("time")).unwrap();
        let elsewhere = Namespaces::of(&directory);
        match found {
            Namespaces::Other(_) => assert_eq!(elsewhere, found),
            _ => assert_eq!(elsewhere, Namespaces::Other(StartErrorKind::TimeNamespace)),
        }
        fs::remove_dir_all(&directory).unwrap();
        found
    }

    #[test]
    fn the_cause_is_named_or_unknown() {
        let initial = links("initial", "pid:[4026531836]", "user:[4026531837]");
        assert_eq!(initial, Namespaces::Initial);
        let pid = links("pid", "pid:[4026532177]", "user:[4026532176]");
        assert_eq!(pid, Namespaces::Other(StartErrorKind::PidNamespace));
        let user = links("user", "pid:[4026531836]", "user:[4026532176]");
        assert_eq!(user, Namespaces::Other(StartErrorKind::UserNamespace));
        assert_eq!(links("odd", "pid:[x]", "?"), Namespaces::Unknown);
        let none = Namespaces::of(Path::new("/nonexistent"));
        assert_eq!(none, Namespaces::Unknown);
    }
}
