//! What happened to processes whose birth a monitor was told of, until it
//! registers them or its time is over: tables only, no clock, no system calls.
//!
//! A monitor that follows a tree registers each child that it is told of. Between
//! the birth and that registration lies the way through the monitor, and much can
//! happen to a process meanwhile. So whoever was told of a birth *holds* the new
//! process: what it does is noted, and given to the holder when it registers it.
//! What a process that is noted gives birth to is noted too, because the holder
//! will be told of that birth then, and hold that one in turn.
//!
//! The time of a hold begins when the birth is told, not when it happens: it is
//! the monitor's time to answer. So the depth of a tree does not matter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kmonitor_event::{EventMask, Pid, Status};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::registry::{MonitorId, Place, SessionId, Subject};

/// Holds that are over are looked for together: this much later at most.
const SLACK: Duration = Duration::from_millis(100);

/// Of how much is remembered for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long a process is held by one that was told of its birth.
    pub(crate) window: Duration,
    pub(crate) processes: usize,
    /// How long after a telling, or the monitor's last answer to one, it is taken to
    /// be busy answering the others.
    pub(crate) grace: Duration,
    /// How many one monitor may hold.
    pub(crate) holds: usize,
    pub(crate) events: usize,
    pub(crate) events_of_one: usize,
}

/// Half of all for one monitor, so that no one leaves nothing to the others. All of
/// it takes some 6 MiB.
pub(crate) const LIMITS: Limits = Limits {
    window: Duration::from_secs(2),
    grace: Duration::from_millis(200),
    processes: 16_384,
    holds: 8_192,
    events: 65_536,
    events_of_one: 4_096,
};

/// Something that happened to a process that was not registered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) event: EventMask,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// The one that was born, if it is remembered.
    pub(crate) child: Option<Subject>,
}

/// All that is known of a process that is registered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    pub(crate) uid: u32,
    pub(crate) events: Vec<Past>,
    /// How it ended, and at which event.
    pub(crate) ended: Option<(Status, u64)>,
    /// Whose descendant it is.
    pub(crate) tree: u64,
}

/// That one was told of a birth.
#[derive(Debug, Clone, Copy)]
struct Hold {
    place: Place,
    number: u64,
    told: Instant,
}

#[derive(Debug)]
struct Newborn {
    story: Story,
    /// At which events it was born and its story began.
    born: u64,
    began: Option<u64>,
    holds: Vec<Hold>,
    /// Whether its birth is an event of a process that is remembered.
    in_parent: bool,
}

/// The processes that were born of late and are not registered by all who were
/// told of them, or will be.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: Limits,
    newborns: FxHashMap<Subject, Newborn>,
    events: usize,
    /// All holds, in the order of telling for each pid.
    held: BTreeMap<(Place, Pid, u64), Subject>,
    places: FxHashMap<Place, usize>,
    /// When those who hold some have last registered one.
    answers: FxHashMap<Place, Instant>,
    monitors: FxHashMap<MonitorId, usize>,
    /// The ends of the holds, in order. May name holds that are over; these are
    /// never more than the others and [`STALE_MAX`].
    due: VecDeque<(Instant, Place, Subject, u64)>,
    tellings: u64,
    /// Counts events: the order in which they came.
    clock: u64,
    dropped: Vec<Subject>,
    forgotten: u64,
}

const STALE_MAX: usize = 1024;

impl Memory {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            newborns: FxHashMap::default(),
            events: 0,
            held: BTreeMap::new(),
            places: FxHashMap::default(),
            answers: FxHashMap::default(),
            monitors: FxHashMap::default(),
            due: VecDeque::new(),
            tellings: 0,
            clock: 0,
            dropped: Vec::new(),
            forgotten: 0,
        }
    }

    /// An event has come: what is said from now on is of it. Its number.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newborns.is_empty()
    }

    /// How many processes are remembered.
    pub(crate) fn len(&self) -> usize {
        self.newborns.len()
    }

    /// How many births and other events there was no room for.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(crate) fn contains(&self, subject: Subject) -> bool {
        self.newborns.contains_key(&subject)
    }

    pub(crate) fn has_monitor(&self, monitor: MonitorId) -> bool {
        self.monitors.contains_key(&monitor)
    }

    /// The real uid of a process that is remembered.
    pub(crate) fn uid(&self, subject: Subject) -> Option<u32> {
        self.newborns.get(&subject).map(|it| it.story.uid)
    }

    /// Whose descendant a process is that is remembered.
    pub(crate) fn tree(&self, subject: Subject) -> Option<u64> {
        self.newborns.get(&subject).map(|it| it.story.tree)
    }

    pub(crate) fn set_uid(&mut self, subject: Subject, uid: u32) {
        if let Some(newborn) = self.newborns.get_mut(&subject) {
            newborn.story.uid = uid;
        }
    }

    /// A process was born, and these were told. Whether it is remembered.
    pub(crate) fn born(
        &mut self,
        parent: Subject,
        child: Subject,
        (uid, tree): (u32, u64),
        told: &[Place],
        now: Instant,
    ) -> bool {
        let of_newborn = self.contains(parent);
        if told.is_empty() && !of_newborn {
            return false;
        }
        let room = self.contains(child) || self.newborns.len() < self.limits.processes;
        if !room {
            self.forgotten += 1;
        }
        let pid = child.pid().as_raw();
        let child_noted = room.then_some(child);
        let noted = of_newborn && self.push(parent, EventMask::FORK, pid, child_noted);
        if !room || (told.is_empty() && !noted) {
            return false;
        }
        let born = self.clock;
        let newborn = self.newborns.entry(child).or_insert_with(|| Newborn {
            story: Story {
                uid,
                events: Vec::new(),
                ended: None,
                tree,
            },
            born,
            began: None,
            holds: Vec::new(),
            in_parent: false,
        });
        newborn.in_parent |= noted;
        for place in told {
            self.hold(*place, child, now);
        }
        self.drop_unwanted(child);
        self.contains(child)
    }

    /// This one is told of the birth of a process. If that is remembered, it is
    /// held for it from now on.
    pub(crate) fn hold(&mut self, place: Place, subject: Subject, now: Instant) {
        let Some(newborn) = self.newborns.get_mut(&subject) else {
            return;
        };
        if newborn.holds.iter().any(|it| it.place == place) {
            return;
        }
        let of_place = self.places.entry(place).or_default();
        if *of_place >= self.limits.holds {
            self.forgotten += 1;
            return;
        }
        *of_place += 1;
        *self.monitors.entry(place.monitor).or_default() += 1;
        let number = self.tellings;
        self.tellings += 1;
        newborn.holds.push(Hold {
            place,
            number,
            told: now,
        });
        self.held.insert((place, subject.pid(), number), subject);
        self.due
            .push_back((now + self.limits.window, place, subject, number));
        if self.due.len() > 2 * self.held.len() + STALE_MAX {
            let held = &self.held;
            self.due.retain(|(_, place, subject, number)| {
                held.contains_key(&(*place, subject.pid(), *number))
            });
        }
    }

    /// Something happened to a process.
    pub(crate) fn note(&mut self, subject: Subject, event: EventMask, pid: i32) {
        self.push(subject, event, pid, None);
    }

    fn push(
        &mut self,
        subject: Subject,
        event: EventMask,
        pid: i32,
        child: Option<Subject>,
    ) -> bool {
        let Some(newborn) = self.newborns.get_mut(&subject) else {
            return false;
        };
        let story = &mut newborn.story;
        if self.events >= self.limits.events || story.events.len() >= self.limits.events_of_one {
            self.forgotten += 1;
            return false;
        }
        self.events += 1;
        newborn.began.get_or_insert(self.clock);
        story.events.push(Past {
            event,
            pid,
            uid: story.uid,
            child,
        });
        true
    }

    /// A process ended. That is kept apart, so that there is always room for it.
    pub(crate) fn end(&mut self, subject: Subject, status: Status) {
        if let Some(newborn) = self.newborns.get_mut(&subject) {
            newborn.began.get_or_insert(self.clock);
            newborn.story.ended.get_or_insert((status, self.clock));
        }
    }

    pub(crate) fn has_ended(&self, subject: Subject) -> bool {
        let newborn = self.newborns.get(&subject);
        newborn.is_some_and(|it| it.story.ended.is_some())
    }

    /// Those of a pid that one was told of and has not registered, as they were
    /// told.
    pub(crate) fn held(&self, place: Place, pid: Pid) -> Vec<Subject> {
        let all = (place, pid, 0)..=(place, pid, u64::MAX);
        self.held.range(all).map(|(_, subject)| *subject).collect()
    }

    /// One registers a process that it holds, and does not hold it any more. To
    /// be [let go](Self::release) of when its story has been told.
    pub(crate) fn claim(&mut self, place: Place, subject: Subject, now: Instant) -> Option<Story> {
        if !self.unhold(place, subject) {
            return None;
        }
        if self.places.contains_key(&place) {
            self.answers.insert(place, now);
        }
        self.newborns.get(&subject).map(|it| it.story.clone())
    }

    /// Until when to wait before this one is told of what came at that event: it
    /// holds a process of this tree whose story began before that, and is taken to
    /// be on its way to register it. `retry_at` is when it is tried to tell it the
    /// births that it has not been told.
    pub(crate) fn behind(
        &self,
        place: Place,
        tree: u64,
        at: u64,
        now: Instant,
        retry_at: Option<Instant>,
    ) -> Option<Instant> {
        let answered = self.answers.get(&place).copied();
        self.of_place(place).find_map(|subject| {
            let newborn = self.newborns.get(&subject)?;
            let is_before = newborn.began.is_some_and(|began| began < at);
            if newborn.story.tree != tree || newborn.born >= at || !is_before {
                return None;
            }
            let hold = newborn.holds.iter().find(|it| it.place == place)?;
            let until = answered.map_or(hold.told, |it| it.max(hold.told)) + self.limits.grace;
            let until = retry_at.map_or(until, |it| it.max(until));
            (until > now || retry_at.is_some()).then_some(until)
        })
    }

    fn of_place(&self, place: Place) -> impl Iterator<Item = Subject> {
        let first = Pid::new(1).map(|pid| (place, pid, 0));
        let all = first.into_iter().flat_map(|first| self.held.range(first..));
        all.take_while(move |((holder, ..), _)| *holder == place)
            .map(|(_, subject)| *subject)
    }

    /// Forgets a process, if nobody waits for it.
    pub(crate) fn release(&mut self, subject: Subject) {
        self.drop_unwanted(subject);
    }

    /// Those who were forgotten since the last call and may live.
    pub(crate) fn take_dropped(&mut self) -> Vec<Subject> {
        std::mem::take(&mut self.dropped)
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.due.front().map(|(at, ..)| *at + SLACK)
    }

    /// Ends the holds that are over; those of monitors whose signals wait to be
    /// sent last longer, because they have not been told. Who lost some.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        is_waiting: impl Fn(MonitorId) -> bool,
    ) -> Vec<MonitorId> {
        let mut losers = Vec::new();
        while let Some((at, place, subject, number)) = self.due.front().copied()
            && at <= now
        {
            self.due.pop_front();
            if !self.held.contains_key(&(place, subject.pid(), number)) {
                continue;
            }
            if is_waiting(place.monitor) {
                let at = now + self.limits.window;
                self.due.push_back((at, place, subject, number));
                continue;
            }
            self.unhold(place, subject);
            self.drop_unwanted(subject);
            losers.push(place.monitor);
        }
        losers
    }

    /// A monitor has ended.
    pub(crate) fn drop_monitor(&mut self, monitor: MonitorId) {
        self.drop_places(|place| place.monitor == monitor);
    }

    /// A session has ended. The monitors that held processes for it.
    pub(crate) fn drop_session(&mut self, session: SessionId) -> Vec<MonitorId> {
        self.drop_places(|place| place.session == session)
    }

    fn drop_places(&mut self, which: impl Fn(Place) -> bool) -> Vec<MonitorId> {
        let places = self.places.keys().copied();
        let places: Vec<_> = places.filter(|place| which(*place)).collect();
        for place in &places {
            let all: Vec<_> = self.of_place(*place).collect();
            for subject in all {
                self.unhold(*place, subject);
                self.drop_unwanted(subject);
            }
        }
        places.into_iter().map(|place| place.monitor).collect()
    }

    fn unhold(&mut self, place: Place, subject: Subject) -> bool {
        let Some(newborn) = self.newborns.get_mut(&subject) else {
            return false;
        };
        let Some(at) = newborn.holds.iter().position(|it| it.place == place) else {
            return false;
        };
        let Hold { number, .. } = newborn.holds.swap_remove(at);
        self.held.remove(&(place, subject.pid(), number));
        if self.held.is_empty() {
            // Nothing is left to wake up for.
            self.due.clear();
        }
        count_down(&mut self.places, &place);
        if !self.places.contains_key(&place) {
            self.answers.remove(&place);
        }
        count_down(&mut self.monitors, &place.monitor);
        true
    }

    /// Forgets a process that nobody waits for, and what only it led to.
    fn drop_unwanted(&mut self, subject: Subject) {
        // Trees are as deep as they like.
        let mut doubtful = vec![subject];
        while let Some(subject) = doubtful.pop() {
            let newborn = self.newborns.get(&subject);
            if !newborn.is_some_and(|it| it.holds.is_empty() && !it.in_parent) {
                continue;
            }
            let Some(newborn) = self.newborns.remove(&subject) else {
                continue;
            };
            self.events -= newborn.story.events.len();
            if newborn.story.ended.is_none() {
                self.dropped.push(subject);
            }
            for child in newborn.story.events.iter().filter_map(|it| it.child) {
                if let Some(child) = self.newborns.get_mut(&child) {
                    child.in_parent = false;
                }
                doubtful.push(child);
            }
        }
    }
}

fn count_down<K: std::hash::Hash + Eq>(counts: &mut FxHashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
