use kmonitor_event::{ProcessKey, StatusSource};

use super::*;

const SMALL: Limits = Limits {
    window: Duration::from_secs(2),
    grace: Duration::from_millis(200),
    processes: 6,
    holds: 3,
    events: 8,
    events_of_one: 4,
};
const UID: u32 = 7;
const TREE: u64 = 1;

fn subject(raw: i32, incarnation: u64) -> Subject {
    Subject::live(ProcessKey::new(Pid::new(raw).unwrap(), incarnation))
}

fn place(session: u64, monitor: u64) -> Place {
    Place {
        session: SessionId(session),
        monitor: MonitorId(monitor),
    }
}

fn exited() -> Status {
    Status::from_raw(0, StatusSource::Event)
}

struct Stage {
    memory: Memory,
    root: Subject,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        Self {
            memory: Memory::new(SMALL),
            root: subject(1, 1),
            now: Instant::now(),
        }
    }

    fn born(&mut self, parent: Subject, child: Subject, told: &[Place]) -> bool {
        self.memory.tick();
        self.memory.born(parent, child, (UID, TREE), told, self.now)
    }

    fn note(&mut self, subject: Subject, event: EventMask) {
        self.memory.tick();
        self.memory.note(subject, event, subject.pid().as_raw());
    }

    fn end(&mut self, subject: Subject) -> u64 {
        let at = self.memory.tick();
        self.memory.end(subject, exited());
        at
    }

    fn claim(&mut self, place: Place, subject: Subject) -> Option<Vec<(EventMask, i32)>> {
        let story = self.memory.claim(place, subject, self.now)?;
        for child in story.events.iter().filter_map(|it| it.child) {
            self.memory.hold(place, child, self.now);
        }
        self.memory.release(subject);
        let events = story.events.iter().map(|it| (it.event, it.pid));
        Some(events.collect())
    }

    fn pass(&mut self, time: Duration) -> Vec<MonitorId> {
        self.now += time;
        self.memory.expire(self.now, |_| false)
    }

    fn assert_empty(&self) {
        let memory = &self.memory;
        assert!(memory.newborns.is_empty() && memory.held.is_empty());
        assert!(memory.places.is_empty() && memory.monitors.is_empty());
        assert!(memory.due.is_empty() && memory.answers.is_empty());
        assert_eq!((memory.events, memory.next_expiry()), (0, None));
    }
}

#[test]
fn a_chain_is_told_link_by_link_in_order() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let (a, b) = (subject(2, 2), subject(3, 3));
    assert!(stage.born(stage.root, a, &[me]));
    stage.note(a, EventMask::EXEC);
    assert!(stage.born(a, b, &[]));
    stage.note(b, EventMask::EXEC);
    stage.end(b);
    stage.end(a);
    assert_eq!(stage.claim(me, b), None, "not told of it yet");
    let due = vec![(EventMask::EXEC, 2), (EventMask::FORK, 3)];
    assert_eq!(stage.claim(me, a), Some(due));
    assert_eq!(stage.claim(me, a), None, "once");
    assert!(stage.memory.has_ended(b));
    assert_eq!(stage.claim(me, b), Some(vec![(EventMask::EXEC, 3)]));
    assert_eq!(stage.memory.take_dropped(), [], "both have ended");
    stage.assert_empty();
}

#[test]
fn births_that_nobody_was_told_of_are_not_remembered() {
    let mut stage = Stage::new();
    assert!(!stage.born(stage.root, subject(2, 2), &[]));
    stage.assert_empty();
}

#[test]
fn who_does_not_answer_in_time_loses_it_and_all_below() {
    let mut stage = Stage::new();
    let (one, other) = (place(1, 1), place(2, 2));
    let (a, b) = (subject(2, 2), subject(3, 3));
    stage.born(stage.root, a, &[one]);
    stage.born(a, b, &[]);
    stage.now += Duration::from_secs(1);
    let c = subject(4, 4);
    stage.born(stage.root, c, &[other]);
    assert_eq!(stage.pass(Duration::from_millis(900)), []);
    assert!(stage.memory.contains(b));
    assert_eq!(stage.pass(Duration::from_millis(100)), [MonitorId(1)]);
    assert!(!stage.memory.contains(a) && !stage.memory.contains(b));
    assert_eq!(stage.memory.take_dropped(), [a, b], "they may live");
    assert_eq!(stage.claim(one, a), None);
    assert_eq!(stage.pass(Duration::from_secs(1)), [MonitorId(2)]);
    stage.assert_empty();
}

#[test]
fn the_time_begins_when_the_birth_is_told() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let (a, b) = (subject(2, 2), subject(3, 3));
    stage.born(stage.root, a, &[me]);
    stage.born(a, b, &[]);
    stage.now += Duration::from_millis(1900);
    stage.claim(me, a).unwrap();
    assert_eq!(stage.pass(Duration::from_millis(1900)), []);
    assert_eq!(stage.claim(me, b), Some(vec![]));
    stage.assert_empty();
}

#[test]
fn whose_signals_wait_has_not_been_told() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let a = subject(2, 2);
    stage.born(stage.root, a, &[me]);
    stage.now += Duration::from_secs(3);
    assert_eq!(stage.memory.expire(stage.now, |_| true), []);
    assert!(stage.memory.contains(a));
    assert_eq!(stage.pass(Duration::from_secs(2)), [MonitorId(1)]);
    stage.assert_empty();
}

#[test]
fn two_who_were_told_are_told_the_same_each_in_its_time() {
    let mut stage = Stage::new();
    let (one, other) = (place(1, 1), place(1, 2));
    let (a, b) = (subject(2, 2), subject(3, 3));
    stage.born(stage.root, a, &[one, other]);
    stage.note(a, EventMask::EXEC);
    assert_eq!(stage.claim(one, a).unwrap().len(), 1);
    // Told to the one as it happens.
    assert!(stage.born(a, b, &[one]));
    let due = vec![(EventMask::EXEC, 2), (EventMask::FORK, 3)];
    assert_eq!(stage.claim(other, a), Some(due));
    assert_eq!(stage.claim(one, b), Some(vec![]));
    assert_eq!(stage.claim(other, b), Some(vec![]));
    stage.assert_empty();
}

#[test]
fn a_pid_used_again_has_both_its_owners_in_order() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let (old, new) = (subject(2, 9), subject(2, 12));
    stage.born(stage.root, old, &[me]);
    stage.note(old, EventMask::EXEC);
    stage.end(old);
    stage.born(stage.root, new, &[me]);
    assert_eq!(stage.memory.held(me, new.pid()), [old, new]);
    assert_eq!(stage.memory.held(place(1, 2), new.pid()), []);
    assert_eq!(stage.claim(me, old), Some(vec![(EventMask::EXEC, 2)]));
    assert_eq!(stage.memory.held(me, new.pid()), [new]);
    assert_eq!(stage.claim(me, new), Some(vec![]));
    stage.assert_empty();
}

#[test]
fn what_finds_no_room_is_counted_and_ends_always_do() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let a = subject(2, 2);
    stage.born(stage.root, a, &[me]);
    for _ in 0..SMALL.events_of_one + 2 {
        stage.note(a, EventMask::EXEC);
    }
    assert_eq!(stage.memory.forgotten(), 2, "of one");
    // A birth that cannot be told later is of nobody who could be registered.
    assert!(!stage.born(a, subject(3, 3), &[]));
    assert_eq!(stage.memory.forgotten(), 3);
    let (b, c) = (subject(4, 4), subject(5, 5));
    stage.born(stage.root, b, &[me]);
    stage.born(stage.root, c, &[me]);
    for _ in 0..SMALL.events_of_one {
        stage.note(b, EventMask::EXEC);
    }
    stage.note(c, EventMask::EXEC);
    assert_eq!(stage.memory.forgotten(), 4, "of all");
    stage.end(a);
    assert!(stage.memory.has_ended(a));
    // A fourth is too many for one monitor, and not for another.
    assert!(!stage.born(stage.root, subject(6, 6), &[me]));
    assert_eq!(stage.memory.forgotten(), 5);
    let other = place(1, 2);
    for raw in 7..10 {
        assert!(stage.born(stage.root, subject(raw, 10), &[other]));
    }
    assert_eq!(stage.memory.len(), SMALL.processes);
    assert!(!stage.born(stage.root, subject(11, 11), &[place(1, 3)]));
    assert_eq!(stage.memory.forgotten(), 6);
    stage.pass(Duration::from_secs(2));
    stage.assert_empty();
}

/// One that answers all, while another answers nothing.
#[test]
fn what_was_answered_leaves_nothing_behind() {
    let mut stage = Stage::new();
    stage.born(stage.root, subject(2, 2), &[place(1, 2)]);
    let me = place(1, 1);
    for number in 0..5000 {
        let child = subject(3, 3 + number);
        stage.born(stage.root, child, &[me]);
        stage.end(child);
        stage.claim(me, child).unwrap();
    }
    assert!(stage.memory.due.len() <= 2 + STALE_MAX + 1);
    assert_eq!((stage.memory.len(), stage.memory.forgotten()), (1, 0));
}

#[test]
fn memory_goes_with_the_monitor_and_with_the_session() {
    let mut stage = Stage::new();
    let (a, b) = (subject(2, 2), subject(3, 3));
    for session in [false, true] {
        stage.born(stage.root, a, &[place(1, 1), place(2, 2)]);
        stage.born(a, b, &[]);
        if session {
            assert_eq!(stage.memory.drop_session(SessionId(1)), [MonitorId(1)]);
        } else {
            stage.memory.drop_monitor(MonitorId(1));
        }
        assert!(!stage.memory.has_monitor(MonitorId(1)));
        assert!(stage.memory.contains(b), "the other's");
        stage.memory.drop_monitor(MonitorId(2));
        assert_eq!(stage.memory.take_dropped(), [a, b]);
        stage.assert_empty();
    }
}

#[test]
fn a_very_deep_tree_is_forgotten_at_once() {
    let mut stage = Stage::new();
    stage.memory = Memory::new(LIMITS);
    let me = place(1, 1);
    let mut parent = stage.root;
    for raw in 2..10_000 {
        let child = subject(raw, 2);
        let told: &[Place] = if raw == 2 { &[me] } else { &[] };
        assert!(stage.born(parent, child, told));
        parent = child;
    }
    stage.memory.drop_monitor(me.monitor);
    stage.assert_empty();
}

#[test]
fn an_end_waits_for_one_who_is_to_learn_of_what_was_before() {
    let mut stage = Stage::new();
    let me = place(1, 1);
    let (a, b) = (subject(2, 2), subject(3, 3));
    stage.born(stage.root, a, &[me]);
    let early = stage.memory.tick();
    stage.born(a, b, &[]);
    let late = stage.memory.tick();
    let behind = |stage: &Stage, tree, at| {
        let memory = &stage.memory;
        memory.behind(me, tree, at, stage.now, None).is_some()
    };
    assert!(behind(&stage, TREE, late));
    assert!(
        !behind(&stage, TREE, early),
        "nothing to tell from before that"
    );
    assert!(!behind(&stage, TREE + 1, late), "of another tree");
    let other = place(1, 2);
    let memory = &stage.memory;
    assert_eq!(memory.behind(other, TREE, late, stage.now, None), None);
    // Not for ever: who answers nothing is not waited for.
    stage.now += SMALL.grace;
    assert!(!behind(&stage, TREE, late));
    // But for who answers.
    let c = subject(4, 4);
    stage.born(stage.root, c, &[me]);
    stage.claim(me, c).unwrap();
    assert!(behind(&stage, TREE, late));
    stage.claim(me, a).unwrap();
    assert!(!behind(&stage, TREE, late), "b has done nothing");
}
