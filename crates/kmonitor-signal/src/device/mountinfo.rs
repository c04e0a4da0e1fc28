//! What is mounted where: `/proc/self/mountinfo`. The parser is pure.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The kernel's number for it, used again only after it is gone.
    pub(crate) id: u64,
    /// Where it is.
    pub(crate) point: PathBuf,
    /// The type of the file system, with its subtype.
    pub(crate) fs_type: String,
    /// What is mounted, by its own name.
    pub(crate) source: String,
}

/// The mount that is on top at this place, if any is exactly there. The place
/// must be named without links.
pub(crate) fn topmost_at(point: &Path) -> io::Result<Option<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(find_topmost(&table, point))
}

/// Later lines of one place lie above the earlier ones.
fn find_topmost(table: &[u8], point: &Path) -> Option<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .rev()
        .filter_map(parse)
        .find(|mount| mount.point == point)
}

/// `proc_pid_mountinfo(5)`: id, parent, device, root, place, options, any number
/// of optional fields, a dash, type, source, options.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| unescape(field).to_string_lossy().into_owned();
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    Some(Mount {
        id,
        point: PathBuf::from(point),
        fs_type,
        source,
    })
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        match digits.and_then(octal) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// A path without links, of a file that need not exist in a directory that must.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().filter(|name| !name.as_bytes().is_empty());
    let Some(name) = name else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(directory.canonicalize()?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"27 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
        28 27 0:6 / /dev rw,nosuid shared:2 master:1 - devtmpfs devtmpfs rw,size=1\n\
        42 28 0:39 / /dev/kmonitor rw,nosuid - fuse.kmonitor kmonitor rw,user_id=0\n\
        43 27 0:40 / /a\\040b\\134c rw - tmpfs some\\040name rw\n\
        44 28 0:41 / /dev/kmonitor ro - tmpfs over rw\n";

    #[test]
    fn the_last_mount_at_a_place_is_on_top() {
        let top = |path: &str| find_topmost(TABLE, Path::new(path));
        let mount = top("/dev/kmonitor").unwrap();
        assert_eq!((mount.id, mount.fs_type.as_str()), (44, "tmpfs"));
        assert_eq!(top("/dev").unwrap().fs_type, "devtmpfs");
        assert_eq!(top("/dev/km"), None);
        assert_eq!(top("/a b\\c").unwrap().source, "some name");
    }

    #[test]
    fn lines_cut_short_are_no_mounts_and_never_panic() {
        let line = TABLE.split(|byte| *byte == b'\n').nth(3).unwrap();
        for end in 0..line.len() {
            let _ = parse(&line[..end]);
        }
        for broken in [
            &b""[..],
            b" ",
            b"x y z",
            b"1 2 3 4 5",
            b"1 2 3 4 \\9\\77\\ 6 - a",
        ] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn the_table_of_this_system_is_read() {
        let root = topmost_at(Path::new("/")).unwrap().unwrap();
        assert!(!root.fs_type.is_empty());
    }

    #[test]
    fn a_path_needs_a_name_and_a_directory() {
        assert!(resolve(Path::new("/")).is_err());
        assert!(resolve(Path::new("..")).is_err());
        assert!(resolve(Path::new("/no such directory/x")).is_err());
        assert_eq!(resolve(Path::new("/./x")).unwrap(), Path::new("/x"));
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(resolve(Path::new("x")).unwrap(), here.join("x"));
    }
}
