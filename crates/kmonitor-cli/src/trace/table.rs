//! Who is traced, and who of them lives.

use kmonitor::{Event, EventKind, Pid, ProcessKey, Timestamp};
use rustc_hash::FxHashMap;

use super::enrich;

/// The processes that are known to live. Bounded by the system's processes, since
/// an entry leaves with its process, and after a loss at the next look.
pub(crate) struct Table {
    scope: Scope,
    alive: FxHashMap<ProcessKey, Entry>,
    seen: u64,
    /// Whether events are missing, so that an entry may outlive its process.
    doubtful: bool,
}

enum Scope {
    /// The command and its descendants; whatever else we may have is not meant.
    Tree {
        own: Pid,
        root: Pid,
        root_seen: bool,
        root_ended: bool,
    },
    /// Everybody in the stream.
    All { keeps_account: bool },
}

#[derive(Default)]
struct Entry {
    name: Option<String>,
    since: Timestamp,
}

impl Table {
    /// Only the process `root`, a child of `own`, and its descendants.
    pub(crate) fn of_tree(own: Pid, root: Pid) -> Self {
        Self::new(Scope::Tree {
            own,
            root,
            root_seen: false,
            root_ended: false,
        })
    }

    /// Whoever comes. Without account nobody is remembered.
    pub(crate) fn of_all(keeps_account: bool) -> Self {
        Self::new(Scope::All { keeps_account })
    }

    fn new(scope: Scope) -> Self {
        Self {
            scope,
            alive: FxHashMap::default(),
            seen: 0,
            doubtful: false,
        }
    }

    /// Takes note of who comes with an event. Whether the event is to be shown.
    pub(crate) fn enter(&mut self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Lost(_)) {
            self.doubt();
            return true;
        }
        if matches!(event.kind, EventKind::Resync(_)) {
            return true;
        }
        let Some(process) = event.process else {
            return matches!(self.scope, Scope::All { .. });
        };
        match &mut self.scope {
            Scope::Tree {
                own,
                root,
                root_seen,
                ..
            } => {
                if let EventKind::Fork { child } = event.kind
                    && process.pid() == *own
                {
                    // How we came to have the child is nobody's business.
                    if child.pid() == *root && !*root_seen {
                        *root_seen = true;
                        self.add(child, event.time, None);
                    }
                    return false;
                }
                if !self.alive.contains_key(&process) {
                    return false;
                }
            }
            Scope::All {
                keeps_account: true,
            } => {
                if !self.alive.contains_key(&process) {
                    self.add(process, event.time, None);
                }
            }
            Scope::All {
                keeps_account: false,
            } => return true,
        }
        if let EventKind::Fork { child } = event.kind {
            // Until it executes it runs what its parent runs.
            let name = self.name(process).map(str::to_owned);
            self.add(child, event.time, name);
        }
        true
    }

    /// Strikes off who ended with an event, after it was shown.
    pub(crate) fn leave(&mut self, event: &Event) {
        let (EventKind::Exit(_), Some(process)) = (event.kind, event.process) else {
            return;
        };
        self.alive.remove(&process);
        if let Scope::Tree {
            root, root_ended, ..
        } = &mut self.scope
            && process.pid() == *root
        {
            *root_ended = true;
        }
    }

    fn add(&mut self, key: ProcessKey, since: Timestamp, name: Option<String>) {
        self.seen += 1;
        self.alive.insert(key, Entry { name, since });
    }

    pub(crate) fn name(&self, key: ProcessKey) -> Option<&str> {
        self.alive.get(&key)?.name.as_deref()
    }

    pub(crate) fn set_name(&mut self, key: ProcessKey, name: &str) {
        if let Some(entry) = self.alive.get_mut(&key) {
            entry.name = Some(name.to_owned());
        }
    }

    /// How many processes were seen, where that is counted.
    pub(crate) fn seen(&self) -> Option<u64> {
        self.keeps_account().then_some(self.seen)
    }

    /// How many live, as far as is known and where that is counted.
    pub(crate) fn alive(&self) -> Option<usize> {
        self.keeps_account().then_some(self.alive.len())
    }

    fn keeps_account(&self) -> bool {
        !matches!(
            self.scope,
            Scope::All {
                keeps_account: false
            }
        )
    }

    /// Whether the exit of the command itself was told.
    pub(crate) fn root_ended(&self) -> bool {
        matches!(
            self.scope,
            Scope::Tree {
                root_ended: true,
                ..
            }
        )
    }

    /// Whether entries may be there that should not.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Notes that events are missing.
    pub(crate) fn doubt(&mut self) {
        match self.scope {
            Scope::Tree { .. } => self.doubtful = true,
            // Names and the number of the living are a courtesy there, and begin anew.
            Scope::All { .. } => self.alive.clear(),
        }
    }

    /// The command has ended, and its exit event is not to be expected any more.
    pub(crate) fn give_up_root(&mut self) {
        self.doubt();
        if let Scope::Tree { root_ended, .. } = &mut self.scope {
            *root_ended = true;
        }
    }

    /// Looks who is still there, and strikes off the others. Their exits were
    /// lost, and that was told.
    pub(crate) fn look(&mut self) {
        self.alive
            .retain(|key, entry| enrich::is_there(key.pid(), entry.since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor::{LossOrigin, Lost, Resync, Status, StatusSource};

    fn key(pid: i32, incarnation: u64) -> ProcessKey {
        ProcessKey::new(Pid::new(pid).unwrap(), incarnation)
    }

    fn event(process: ProcessKey, kind: EventKind) -> Event {
        Event::new(Timestamp::from_nanos(1), Some(process), kind)
    }

    fn exit(process: ProcessKey) -> Event {
        let status = Status::from_raw(0, StatusSource::Event);
        event(process, EventKind::Exit(status))
    }

    #[test]
    fn only_the_tree_of_the_command_counts() {
        let (own, root) = (key(10, 1), key(20, 2));
        let mut table = Table::of_tree(own.pid(), root.pid());
        let earlier = key(11, 3);
        // A child that we had before, and what it does.
        assert!(!table.enter(&event(own, EventKind::Fork { child: earlier })));
        assert!(!table.enter(&event(earlier, EventKind::Exec)));
        assert_eq!(table.alive(), Some(0));

        assert!(!table.enter(&event(own, EventKind::Fork { child: root })));
        assert!(table.enter(&event(root, EventKind::Exec)));
        table.set_name(root, "sh");
        let child = key(21, 4);
        assert!(table.enter(&event(root, EventKind::Fork { child })));
        assert_eq!(table.name(child), Some("sh"));
        assert!(table.enter(&exit(root)));
        table.leave(&exit(root));
        assert!(table.root_ended());
        assert_eq!((table.alive(), table.seen()), (Some(1), Some(2)));
        assert!(table.enter(&exit(child)));
        table.leave(&exit(child));
        assert_eq!(table.alive(), Some(0));
        assert!(!table.enter(&exit(child)), "told twice");
    }

    #[test]
    fn after_a_loss_the_dead_are_struck_off_by_looking() {
        let (own, root) = (Pid::current(), key(i32::MAX, 2));
        let mut table = Table::of_tree(own, root.pid());
        table.enter(&event(
            key(own.as_raw(), 1),
            EventKind::Fork { child: root },
        ));
        let lost = EventKind::Lost(Lost::new(LossOrigin::Subscription, Some(3)));
        assert!(table.enter(&Event::new(Timestamp::default(), None, lost)));
        assert!(table.is_doubtful());
        let end = EventKind::Resync(Resync::End { complete: true });
        assert!(table.enter(&Event::new(Timestamp::default(), None, end)));
        table.look();
        assert_eq!(table.alive(), Some(0));
    }

    #[test]
    fn without_account_nobody_is_remembered() {
        let mut table = Table::of_all(false);
        assert!(table.enter(&event(key(5, 1), EventKind::Exec)));
        assert_eq!((table.alive(), table.seen()), (None, None));
    }
}
