//! Whose child a process is, and whose descendants there are, as `/proc` shows it.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::path::Path;

use super::procfs::{Listing, Stat, all, is_gone, is_hidden, look_at, own_pid, tasks};

/// The children of a process, zombies among them, whichever thread they hang on.
///
/// The kernel may leave one out while another ends. `None` where it has no such list
/// (`CONFIG_PROC_CHILDREN`). Who is gone has none.
pub(super) fn children(pid: i32) -> io::Result<Option<Vec<i32>>> {
    let mut children = Vec::new();
    for task in tasks(pid)?.unwrap_or_default() {
        match std::fs::read_to_string(format!("{task}/children")) {
            Ok(text) => {
                let pids = text.split_ascii_whitespace();
                children.extend(pids.filter_map(|word| word.parse::<i32>().ok()));
            }
            Err(error) if !is_gone(&error) && !is_hidden(&error) => return Err(error),
            Err(_) if Path::new(&task).try_exists()? => return Ok(None),
            // The thread has ended.
            Err(_) => {}
        }
    }
    Ok(Some(children))
}

/// The children of this process.
pub(super) fn own_children() -> io::Result<Vec<i32>> {
    let me = own_pid();
    if let Some(children) = children(me)? {
        return Ok(children);
    }
    let mine = all()?.found.into_iter().filter(|stat| stat.parent == me);
    Ok(mine.map(|stat| stat.pid).collect())
}

/// Some processes and all that descend from them, by lists of children: the cost is
/// that of those found, however many others there are. `None` where the kernel has no
/// such lists.
///
/// Of a list it is known only which pids were in it: who has one of them when it is looked
/// at, and another parent, is another, or was handed on.
pub(super) fn descending_from(
    roots: impl IntoIterator<Item = Stat>,
) -> io::Result<Option<Vec<Stat>>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut todo: Vec<Stat> = roots.into_iter().collect();
    while let Some(stat) = todo.pop() {
        if !seen.insert(stat.pid) {
            continue;
        }
        found.push(stat);
        let children = children(stat.pid)?;
        if children.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        // Asked after it: whose list that was.
        if look_at(stat.pid)?.is_none_or(|now| now.id() != stat.id()) {
            continue;
        }
        let Some(children) = children else {
            return Ok(None);
        };
        for child in children {
            todo.extend(look_at(child)?.filter(|child| child.parent == stat.pid));
        }
    }
    Ok(Some(found))
}

/// Processes by pid, with what was seen of each; `None` of who is hidden from us.
pub(super) type Ancestry = HashMap<i32, Option<Stat>>;

/// This process and all its ancestors; and the first of the PID namespace, with whom we
/// would end too, also where we came in from outside (`nsenter(1)`).
pub(super) fn own_ancestry() -> io::Result<Ancestry> {
    let mut found = ancestry(own_pid(), look_at)?;
    if let Entry::Vacant(first) = found.entry(FIRST) {
        first.insert(look_at(FIRST)?);
    }
    Ok(found)
}

/// The first process of a PID namespace.
const FIRST: i32 = 1;

/// How often an ancestor may end while one looks.
const ANCESTRY_TRIES: u32 = 100;

fn ancestry(of: i32, look: impl Fn(i32) -> io::Result<Option<Stat>>) -> io::Result<Ancestry> {
    for _ in 0..ANCESTRY_TRIES {
        let (mut found, mut below, mut at) = (Ancestry::new(), of, of);
        while at > 0 && !found.contains_key(&at) {
            let seen = look(at)?;
            found.insert(at, seen);
            let is_its_parent = |stat: Stat| stat.parent == at;
            match seen {
                Some(stat) => (below, at) = (at, stat.parent),
                // Hidden from us: who is above it is not to be seen.
                None if below == at || look(below)?.is_some_and(is_its_parent) => {
                    return Ok(found);
                }
                // It ended, and its child has another parent now.
                None => break,
            }
        }
        if at <= 0 {
            return Ok(found);
        }
    }
    let text = "its ancestors end faster than one can look";
    Err(io::Error::new(io::ErrorKind::WouldBlock, text))
}

/// Whose child each process is, to find descendants.
pub(super) struct Table {
    all: Vec<Stat>,
    by_parent: HashMap<i32, Vec<usize>>,
    pub(super) any_vanished: bool,
}

impl Table {
    pub(super) fn read() -> io::Result<Self> {
        let Listing {
            found,
            any_vanished,
        } = all()?;
        Ok(Self {
            any_vanished,
            ..Self::of(found)
        })
    }

    pub(super) fn of(all: Vec<Stat>) -> Self {
        let mut by_parent: HashMap<i32, Vec<usize>> = HashMap::new();
        for (index, stat) in all.iter().enumerate() {
            by_parent.entry(stat.parent).or_default().push(index);
        }
        Self {
            all,
            by_parent,
            any_vanished: false,
        }
    }

    pub(super) fn all(&self) -> &[Stat] {
        &self.all
    }

    /// Those for whom `is_root` says so, and all their descendants; each once.
    pub(super) fn descending_from(&self, is_root: impl Fn(&Stat) -> bool) -> Vec<Stat> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut todo: Vec<&Stat> = self.all.iter().filter(|stat| is_root(stat)).collect();
        while let Some(stat) = todo.pop() {
            if !seen.insert(stat.pid) {
                continue;
            }
            found.push(*stat);
            let children = self.by_parent.get(&stat.pid).into_iter().flatten();
            todo.extend(children.filter_map(|index| self.all.get(*index)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::procfs::stat;
    use super::*;

    /// A pid in a list may be another's when it is looked at.
    #[test]
    fn only_children_of_who_is_meant_descend_from_it() {
        let program = "sleep 60 & echo; wait";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", program])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = shell.stdout.as_mut().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let stat = look_at(pid).unwrap().unwrap();
        let found = descending_from([stat]).unwrap().expect("lists of children");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1].parent, pid);
        let another = Stat {
            start: stat.start + 1,
            ..stat
        };
        assert_eq!(descending_from([another]).unwrap(), Some(vec![another]));
        let child = rustix::process::Pid::from_raw(found[1].pid).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn descendants_are_found_each_once() {
        let made = |pid, parent| Stat {
            pid,
            state: b'S',
            parent,
            group: 1,
            session: 1,
            threads: 1,
            start: 1,
        };
        let table = Table::of(vec![made(2, 1), made(3, 2), made(4, 3), made(5, 1)]);
        let mut found: Vec<i32> = table
            .descending_from(|stat| stat.pid == 2 || stat.pid == 3)
            .iter()
            .map(|stat| stat.pid)
            .collect();
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }

    #[test]
    fn an_ancestor_that_ends_or_is_hidden_ends_no_ancestry() {
        let parents = |parents: [(i32, i32); 3]| {
            let parents = HashMap::from(parents);
            move |pid| {
                let with = |parent: &i32| {
                    stat(own_pid()).map(|own| Stat {
                        parent: *parent,
                        ..own
                    })
                };
                Ok(parents.get(&pid).and_then(with))
            }
        };
        let hidden = parents([(4, 3), (3, 2), (1, 0)]);
        let pids = |found: io::Result<Ancestry>| HashSet::from_iter(found.unwrap().into_keys());
        assert_eq!(pids(ancestry(4, hidden)), HashSet::from([4, 3, 2]));
        // 3 ends once it was looked at: 2 took its child.
        let looks = std::cell::Cell::new(0);
        let ended = |pid| {
            looks.set(looks.get() + 1);
            let of_3 = looks.get() == 1;
            parents([(4, if of_3 { 3 } else { 2 }), (2, 1), (1, 0)])(pid)
        };
        assert_eq!(pids(ancestry(4, ended)), HashSet::from([4, 2, 1]));
        let never_the_same = |pid| {
            looks.set(looks.get() + 1);
            parents([(4, 100 + looks.get()), (2, 1), (1, 0)])(pid)
        };
        assert!(ancestry(4, never_the_same).is_err());
    }

    #[test]
    fn we_and_the_first_are_above_us() {
        let above = own_ancestry().unwrap();
        assert!(above.contains_key(&own_pid()) && above.contains_key(&FIRST));
    }
}
