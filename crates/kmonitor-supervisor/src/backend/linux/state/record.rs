//! What a record says, and how it is written: lines of a word and its value. A later
//! version's words are passed over.

use std::num::NonZeroU64;
use std::path::PathBuf;

use kmonitor_event::Pid;

use super::super::identity::Identity;
use crate::spec::KillScope;

const VERSION_LINE: &str = "kmonitor-supervisor 1";

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Record {
    pub(in super::super) path: String,
    pub(in super::super) generation: u64,
    pub(in super::super) scope: KillScope,
    pub(in super::super) cgroup: Option<PathBuf>,
    pub(in super::super) marker: String,
    pub(in super::super) adopted: bool,
    /// Who it is. `None`: no program was executed.
    pub(in super::super) process: Option<Identity>,
    pub(in super::super) ready: bool,
}

impl Record {
    pub(super) fn to_text(&self, boot: &str) -> String {
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
    pub(super) fn parse(text: &str) -> Option<(Self, String)> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record() -> Record {
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
}
