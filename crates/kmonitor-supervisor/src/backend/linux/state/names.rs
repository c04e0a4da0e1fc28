//! How the files of a child are called.

/// The longest file name made of a path as it is; longer ones are shortened.
const NAME_BYTES_MAX: usize = 180;

/// Which of a child's pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::linux) enum Pipe {
    Stdout,
    Stderr,
    Notify,
}

impl Pipe {
    pub(super) const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Notify];

    fn suffix(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Notify => "ready",
        }
    }
}

pub(super) fn record_name(child: &str) -> String {
    format!("{}.record", file_name(child))
}

pub(super) fn pipe_name(child: &str, pipe: Pipe) -> String {
    format!("{}.{}", file_name(child), pipe.suffix())
}

/// A child's path as a file's name. `+` and `~` are in no child's name, so no two
/// paths give the same, but for long ones that share the beginning and 64 bits.
pub(in crate::backend::linux) fn file_name(child: &str) -> String {
    let name = child.replace('/', "+");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    // Names are ASCII, so that any place is one between two characters.
    let beginning = name.get(..NAME_BYTES_MAX - 17).unwrap_or_default();
    format!("{beginning}~{:016x}", hash(child.as_bytes()))
}

/// FNV-1a: the same in every version of this program, which is what is needed here.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_file_name_of_its_own() {
        assert_eq!(file_name("a/b"), "a+b");
        let long = |last: char| format!("{}/{last}", "x".repeat(64)).repeat(9);
        assert!(file_name(&long('a')).len() <= NAME_BYTES_MAX);
        assert_ne!(file_name(&long('a')), file_name(&long('b')));
    }
}
