//! Who is told what of whom: tables only, no system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use kmonitor_event::{EventMask, Pid, ProcessKey, ProcessRef};
use rustc_hash::FxHashMap;

use crate::Signal;

/// The events of 2004, which have a bit that a signal can carry.
pub(crate) const SEVEN: EventMask = EventMask::from_bits_retain(0x7f);

/// An owner of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// A process that is told. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MonitorId(pub(crate) u64);

/// A process that is monitored, or a number that no process had when it was
/// registered (`None`), of which nothing is ever told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subject {
    pid: Pid,
    incarnation: Option<u64>,
}

impl Subject {
    pub(crate) fn live(key: ProcessKey) -> Self {
        Self {
            pid: key.pid(),
            incarnation: Some(key.incarnation()),
        }
    }

    pub(crate) fn dormant(pid: Pid) -> Self {
        let incarnation = None;
        Self { pid, incarnation }
    }

    pub(crate) fn pid(self) -> Pid {
        self.pid
    }

    /// The key of a process, as far as it is known here.
    pub(crate) fn key(self) -> Option<ProcessKey> {
        self.incarnation.map(|it| ProcessKey::new(self.pid, it))
    }

    pub(crate) fn is_live(self) -> bool {
        self.incarnation.is_some()
    }
}

/// One registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) events: EventMask,
    pub(crate) signal: Signal,
}

/// Where a record would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) session: SessionId,
    pub(crate) monitor: MonitorId,
}

#[derive(Debug, Default)]
struct Target {
    inode: Option<NonZeroU64>,
    records: Vec<Record>,
}

/// All records, found by target and by owner.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    targets: FxHashMap<Subject, Target>,
    owners: BTreeMap<Place, BTreeSet<Subject>>,
    /// How many records each monitor has.
    monitors: FxHashMap<MonitorId, usize>,
    /// How many records want each of the seven bits, of live targets only.
    wanted: [usize; 7],
    records: usize,
}

impl Registry {
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// How many records a session has.
    pub(crate) fn records_of(&self, session: SessionId) -> usize {
        self.of_session(session).map(|(_, them)| them.len()).sum()
    }

    pub(crate) fn contains(&self, subject: Subject) -> bool {
        self.targets.contains_key(&subject)
    }

    pub(crate) fn has_monitor(&self, monitor: MonitorId) -> bool {
        self.monitors.contains_key(&monitor)
    }

    /// The events that somebody wants of somebody.
    pub(crate) fn union(&self) -> EventMask {
        let set = self.wanted.iter().enumerate().filter(|(_, n)| **n > 0);
        set.map(|(bit, _)| EventMask::from_bits_retain(1 << bit))
            .collect()
    }

    fn count(&mut self, subject: Subject, before: EventMask, after: EventMask) {
        if !subject.is_live() {
            return;
        }
        for (bit, count) in self.wanted.iter_mut().enumerate() {
            let bit = EventMask::from_bits_retain(1 << bit);
            *count += usize::from(after.contains(bit));
            *count -= usize::from(before.contains(bit));
        }
    }

    /// REGISTER: adds to the events of the record that is there, and replaces
    /// its signal. A record of the number that was dormant becomes this one.
    pub(crate) fn register(
        &mut self,
        place: Place,
        target: Result<ProcessKey, Pid>,
        events: EventMask,
        signal: Signal,
    ) {
        let (subject, inode) = match target {
            Ok(key) => (Subject::live(key), key.inode()),
            Err(pid) => (Subject::dormant(pid), None),
        };
        let mut before = EventMask::empty();
        if subject.is_live()
            && let Some(dormant) = self.take(place, Subject::dormant(subject.pid))
        {
            before = dormant.events;
        }
        if let Some(live) = self.take(place, subject) {
            before |= live.events;
        }
        let record = Record {
            place,
            events: before | events,
            signal,
        };
        let target = self.targets.entry(subject).or_default();
        target.inode = inode;
        target.records.push(record);
        self.owners.entry(place).or_default().insert(subject);
        *self.monitors.entry(place.monitor).or_default() += 1;
        self.records += 1;
        self.count(subject, EventMask::empty(), record.events);
    }

    /// DEREGISTER: clears these events of the record; it goes when none is left.
    /// Says whose record it was and whether that has gone, or nothing where
    /// there is no record.
    pub(crate) fn deregister(
        &mut self,
        place: Place,
        target: ProcessRef,
        events: EventMask,
    ) -> Option<(Subject, bool)> {
        let subject = self.newest(place, target)?;
        let record = self
            .targets
            .get_mut(&subject)?
            .records
            .iter_mut()
            .find(|it| it.place == place)?;
        let before = record.events;
        let after = before - events;
        record.events = after;
        self.count(subject, before, after);
        let gone = after.is_empty();
        if gone {
            self.take(place, subject);
        }
        Some((subject, gone))
    }

    /// Of several owners of a pid whose ends have not all been told, the last.
    fn newest(&self, place: Place, target: ProcessRef) -> Option<Subject> {
        let subjects = self.owners.get(&place)?;
        let first = Subject::dormant(target.pid);
        let last = Subject {
            pid: target.pid,
            incarnation: Some(u64::MAX),
        };
        let mut of_pid = subjects.range(first..=last).rev();
        of_pid
            .find(|subject| {
                let inode = self.targets.get(subject).and_then(|it| it.inode);
                target.inode.is_none() || target.inode == inode
            })
            .copied()
    }

    /// Takes one record out.
    fn take(&mut self, place: Place, subject: Subject) -> Option<Record> {
        let target = self.targets.get_mut(&subject)?;
        let at = target.records.iter().position(|it| it.place == place)?;
        // The order of records is nobody's business.
        let record = target.records.swap_remove(at);
        if target.records.is_empty() {
            self.targets.remove(&subject);
        }
        self.disown(place, subject);
        self.records -= 1;
        self.count(subject, record.events, EventMask::empty());
        Some(record)
    }

    fn disown(&mut self, place: Place, subject: Subject) {
        if let Some(subjects) = self.owners.get_mut(&place) {
            subjects.remove(&subject);
            if subjects.is_empty() {
                self.owners.remove(&place);
            }
        }
        if let Some(records) = self.monitors.get_mut(&place.monitor) {
            *records -= 1;
            if *records == 0 {
                self.monitors.remove(&place.monitor);
            }
        }
    }

    /// Those who are to be told of something that happened to a process.
    pub(crate) fn records_about(&self, subject: Subject) -> &[Record] {
        self.targets
            .get(&subject)
            .map_or(&[], |target| &target.records)
    }

    /// Whether one is to be told of a process.
    pub(crate) fn has_record(&self, place: Place, subject: Subject) -> bool {
        let subjects = self.owners.get(&place);
        subjects.is_some_and(|them| them.contains(&subject))
    }

    /// Whether anybody is to be told of this event of a process.
    pub(crate) fn is_wanted(&self, subject: Subject, event: EventMask) -> bool {
        let records = self.records_about(subject);
        records.iter().any(|it| it.events.contains(event))
    }

    /// A process has ended: its records go.
    pub(crate) fn end(&mut self, subject: Subject) -> Vec<Record> {
        let Some(target) = self.targets.remove(&subject) else {
            return Vec::new();
        };
        for record in &target.records {
            self.disown(record.place, subject);
            self.count(subject, record.events, EventMask::empty());
        }
        self.records -= target.records.len();
        target.records
    }

    fn of_session(&self, session: SessionId) -> impl Iterator<Item = (&Place, &BTreeSet<Subject>)> {
        let place = |monitor| Place {
            session,
            monitor: MonitorId(monitor),
        };
        self.owners.range(place(0)..=place(u64::MAX))
    }

    /// A session has ended: its records go. The monitors that it told.
    pub(crate) fn drop_session(&mut self, session: SessionId) -> (Vec<MonitorId>, Vec<Subject>) {
        let places: Vec<_> = self.of_session(session).map(|(place, _)| *place).collect();
        let monitors = places.iter().map(|place| place.monitor).collect();
        (monitors, self.drop_places(&places))
    }

    /// A monitor has ended: its records go.
    pub(crate) fn drop_monitor(&mut self, monitor: MonitorId) -> Vec<Subject> {
        let owners = self.owners.keys().filter(|place| place.monitor == monitor);
        let places: Vec<_> = owners.copied().collect();
        self.drop_places(&places)
    }

    /// The targets that lost a record.
    fn drop_places(&mut self, places: &[Place]) -> Vec<Subject> {
        let mut dropped = Vec::new();
        for place in places {
            let subjects = self.owners.get(place).cloned().unwrap_or_default();
            for subject in &subjects {
                self.take(*place, *subject);
            }
            dropped.extend(subjects);
        }
        dropped
    }
}

#[cfg(test)]
mod tests;
