//! The tables against a plain list of what was registered.

use proptest::prelude::*;

use super::*;

const KEEPS: EventMask = SEVEN;

fn place(session: u64, monitor: u64) -> Place {
    Place {
        session: SessionId(session),
        monitor: MonitorId(monitor),
    }
}

fn pid(raw: i32) -> Pid {
    Pid::new(raw).unwrap()
}

fn key(raw: i32, incarnation: u64) -> ProcessKey {
    ProcessKey::new(pid(raw), incarnation).with_inode(NonZeroU64::new(incarnation + 1000))
}

fn signal(number: i32) -> Signal {
    Signal::new(number).unwrap()
}

#[test]
fn register_again_adds_events_and_replaces_the_signal() {
    let mut registry = Registry::default();
    let (place, key) = (place(1, 1), key(5, 0));
    registry.register(place, Ok(key), EventMask::EXIT, signal(34));
    registry.register(place, Ok(key), EventMask::FORK, signal(35));
    let [record] = registry.records_about(Subject::live(key)) else {
        panic!("one record was due");
    };
    assert_eq!(record.events, EventMask::EXIT | EventMask::FORK);
    assert_eq!(record.signal, signal(35));
    assert_eq!((registry.records(), registry.union()), (1, record.events));
}

#[test]
fn a_record_goes_with_its_last_event() {
    let mut registry = Registry::default();
    let (place, key) = (place(1, 1), key(5, 0));
    let named = ProcessRef::from(pid(5));
    registry.register(
        place,
        Ok(key),
        EventMask::EXIT | EventMask::FORK,
        signal(34),
    );
    let live = Subject::live(key);
    assert_eq!(
        registry.deregister(place, named, EventMask::FORK),
        Some((live, false))
    );
    assert_eq!(registry.union(), EventMask::EXIT);
    assert_eq!(registry.deregister(place, named, KEEPS), Some((live, true)));
    assert_eq!(registry.deregister(place, named, KEEPS), None);
    assert!(registry.records() == 0 && !registry.contains(live));
}

#[test]
fn a_number_that_was_nobodys_is_not_the_process_that_gets_it() {
    let mut registry = Registry::default();
    let place = place(1, 1);
    registry.register(place, Err(pid(5)), EventMask::EXIT, signal(34));
    assert_eq!(
        registry.union(),
        EventMask::empty(),
        "nothing to listen for"
    );
    assert!(registry.records_about(Subject::live(key(5, 0))).is_empty());
    // Until it is registered again.
    registry.register(place, Ok(key(5, 0)), EventMask::FORK, signal(34));
    assert_eq!(registry.records(), 1);
    assert_eq!(registry.union(), EventMask::EXIT | EventMask::FORK);
}

#[test]
fn a_number_with_two_owners_means_the_last() {
    let mut registry = Registry::default();
    let place = place(1, 1);
    let (old, new) = (key(5, 1), key(5, 2));
    registry.register(place, Ok(old), EventMask::EXIT, signal(34));
    registry.register(place, Ok(new), EventMask::EXIT, signal(34));
    let named = ProcessRef::from(pid(5));
    let gone = registry.deregister(place, named, KEEPS);
    assert_eq!(gone, Some((Subject::live(new), true)));
    let exactly = ProcessRef::from(old);
    assert_eq!(
        registry.deregister(place, ProcessRef::from(new), KEEPS),
        None
    );
    let gone = registry.deregister(place, exactly, KEEPS);
    assert_eq!(gone, Some((Subject::live(old), true)));
}

#[derive(Debug, Clone)]
enum Operation {
    Register(u64, u64, i32, u64, u32),
    Deregister(u64, u64, i32, u32),
    End(i32, u64),
    DropSession(u64),
    DropMonitor(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (session, monitor, pid) = (0..3_u64, 0..3_u64, 1..4_i32);
    let who = (session.clone(), monitor.clone(), pid.clone());
    prop_oneof![
        6 => (who.clone(), 0..3_u64, 0..0x80_u32)
            .prop_map(|((s, m, p), i, e)| Operation::Register(s, m, p, i, e)),
        4 => (who, 0..0x80_u32).prop_map(|((s, m, p), e)| Operation::Deregister(s, m, p, e)),
        2 => (pid, 1..3_u64).prop_map(|(p, i)| Operation::End(p, i)),
        1 => session.prop_map(Operation::DropSession),
        1 => monitor.prop_map(Operation::DropMonitor),
    ]
}

/// Incarnation 0 stands for a number that is nobody's.
type Line = ((u64, u64), (i32, u64), EventMask);

#[derive(Default)]
struct Model(Vec<Line>);

impl Model {
    fn apply(&mut self, operation: &Operation) -> Option<bool> {
        match *operation {
            Operation::Register(session, monitor, pid, incarnation, events) => {
                let owner = (session, monitor);
                let mut events = EventMask::from_bits_retain(events);
                self.0.retain(|(who, whom, old)| {
                    let same = *who == owner && (*whom == (pid, incarnation) || *whom == (pid, 0));
                    if same {
                        events |= *old;
                    }
                    !same
                });
                self.0.push((owner, (pid, incarnation), events));
                None
            }
            Operation::Deregister(session, monitor, pid, events) => {
                let of_pid = |line: &&mut Line| line.0 == (session, monitor) && line.1.0 == pid;
                let mut lines: Vec<_> = self.0.iter_mut().filter(of_pid).collect();
                lines.sort_by_key(|line| line.1.1);
                let Some(line) = lines.pop() else {
                    return Some(false);
                };
                line.2 -= EventMask::from_bits_retain(events);
                let gone = line.2.is_empty().then_some((line.0, line.1));
                self.0.retain(|line| gone != Some((line.0, line.1)));
                Some(true)
            }
            Operation::End(pid, incarnation) => {
                self.0.retain(|line| line.1 != (pid, incarnation));
                None
            }
            Operation::DropSession(session) => {
                self.0.retain(|line| line.0.0 != session);
                None
            }
            Operation::DropMonitor(monitor) => {
                self.0.retain(|line| line.0.1 != monitor);
                None
            }
        }
    }
}

fn apply(registry: &mut Registry, operation: &Operation) -> Option<bool> {
    match *operation {
        Operation::Register(session, monitor, raw, incarnation, events) => {
            let target = match incarnation {
                0 => Err(pid(raw)),
                n => Ok(key(raw, n)),
            };
            let events = EventMask::from_bits_retain(events);
            registry.register(place(session, monitor), target, events, signal(34));
            None
        }
        Operation::Deregister(session, monitor, raw, events) => {
            let events = EventMask::from_bits_retain(events);
            let target = ProcessRef::from(pid(raw));
            let had = registry.deregister(place(session, monitor), target, events);
            Some(had.is_some())
        }
        Operation::End(raw, incarnation) => {
            registry.end(Subject::live(key(raw, incarnation)));
            None
        }
        Operation::DropSession(session) => {
            registry.drop_session(SessionId(session));
            None
        }
        Operation::DropMonitor(monitor) => {
            registry.drop_monitor(MonitorId(monitor));
            None
        }
    }
}

proptest! {
    #[test]
    fn the_tables_say_what_a_list_says(operations in prop::collection::vec(operation(), 0..60)) {
        let mut registry = Registry::default();
        let mut model = Model::default();
        for operation in &operations {
            prop_assert_eq!(apply(&mut registry, operation), model.apply(operation));
            let mut lines = Vec::new();
            for (subject, target) in &registry.targets {
                prop_assert!(!target.records.is_empty());
                for it in &target.records {
                    let whom = (subject.pid.as_raw(), subject.incarnation.unwrap_or(0));
                    lines.push(((it.place.session.0, it.place.monitor.0), whom, it.events));
                }
            }
            let sorted = |mut lines: Vec<Line>| {
                lines.sort_by_key(|line| (line.0, line.1));
                lines
            };
            prop_assert_eq!(sorted(lines), sorted(model.0.clone()));
            prop_assert_eq!(registry.records(), model.0.len());
            let live = model.0.iter().filter(|line| line.1.1 != 0);
            let union: EventMask = live.map(|line| line.2).collect();
            prop_assert_eq!(registry.union(), union);
            for session in 0..3 {
                let lines = model.0.iter().filter(|line| line.0.0 == session).count();
                prop_assert_eq!(registry.records_of(SessionId(session)), lines);
            }
            for monitor in 0..3 {
                let has = model.0.iter().any(|line| line.0.1 == monitor);
                prop_assert_eq!(registry.has_monitor(MonitorId(monitor)), has);
            }
        }
    }
}
