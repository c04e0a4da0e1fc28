//! Which group is meant by a name.

use std::io;
use std::process::{Command, Stdio};

/// Why a group is not known.
#[derive(Debug)]
pub(crate) enum GroupError {
    /// There is none of that name.
    Unknown,
    /// The groups could not be read.
    Io(io::Error),
}

/// The number of a group, given by name or number.
///
/// `/etc/group` knows most; `getent` asks the other places that a system may be
/// set up to have groups in.
pub(crate) fn find(group: &str) -> Result<u32, GroupError> {
    if let Ok(number) = group.parse::<u32>() {
        // The highest means "no change" to chown.
        return Some(number)
            .filter(|number| *number != u32::MAX)
            .ok_or(GroupError::Unknown);
    }
    if group.is_empty() || group.starts_with('-') || group.contains([':', '\n']) {
        return Err(GroupError::Unknown);
    }
    let local = match std::fs::read_to_string("/etc/group") {
        Ok(table) => table,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(GroupError::Io(error)),
    };
    number_in(&local, group)
        .or_else(|| ask(group))
        .ok_or(GroupError::Unknown)
}

fn ask(group: &str) -> Option<u32> {
    let output = Command::new("getent")
        .args(["group", group])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    number_in(&String::from_utf8(output.stdout).ok()?, group)
}

/// Lines of name, password, number and members.
fn number_in(table: &str, group: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != group {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let table = "root:x:0:\nrootlike:x:8:a,b\nbroken\nempty:x::\n";
        assert_eq!(number_in(table, "root"), Some(0));
        assert_eq!(number_in(table, "rootlike"), Some(8));
        for name in ["roo", "x", "broken", "empty", ""] {
            assert_eq!(number_in(table, name), None, "{name}");
        }
        assert!(matches!(find("1000"), Ok(1000)));
        assert!(matches!(find("root"), Ok(0)));
        for name in ["no such group", "", "-1", "4294967295", "a:b", "--help"] {
            assert!(matches!(find(name), Err(GroupError::Unknown)), "{name}");
        }
    }
}
