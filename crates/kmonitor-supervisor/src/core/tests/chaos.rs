//! Whatever children do and people ask for: what must hold always.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::rig::{cases, child, exit, killed, name};
use crate::Signal;
use crate::backend::{Incarnation, Reach, StartError, Survivor};
use crate::core::{Action, ChildId, Core, Input, Request, RequestId, Rules, Run, Told};
use crate::spec::{Backoff, Intensity, Restart, Strategy as Plan};
use crate::words::{Cause, EventKind};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const BEARS: u32 = 4;
const PERIOD: Duration = Duration::from_millis(500);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What an incarnation does.
#[derive(Debug, Clone)]
struct Life {
    fails: bool,
    ready_after: Option<u64>,
    ends_after: Option<(u64, i32)>,
    /// From the word to stop to the leader's end.
    heeds_after: Option<u64>,
    /// Who is left goes by itself, so long after the leader.
    empty_after: Option<u64>,
    /// From being killed to nothing being left.
    dies_after: Option<u64>,
}

#[derive(Debug, Clone)]
enum Op {
    Start(usize),
    Stop(usize),
    Restart(usize),
    Signal(usize),
    Add(usize, Restart),
    Remove(usize),
    Reload(Vec<(usize, bool)>),
    Shutdown(bool),
}

struct Alive {
    about: Incarnation,
    life: Life,
    exited: bool,
    told: bool,
    given_up: bool,
}

struct World {
    core: Core,
    now: Duration,
    lives: Vec<Life>,
    started: usize,
    alive: BTreeMap<ChildId, Alive>,
    /// What will happen, in the order in which it will.
    coming: BTreeMap<(Duration, usize), (Incarnation, Told)>,
    order: usize,
    asked: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    up: bool,
    /// Who ran when the shutdown was asked for, and when that was.
    shutdown: Option<(Vec<ChildId>, Duration)>,
    ended: Option<Duration>,
    restarts: Vec<Duration>,
}

impl World {
    fn later(&mut self, after: u64, about: Incarnation, told: Told) {
        self.order += 1;
        self.coming
            .insert((self.now + ms(after), self.order), (about, told));
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut actions = Vec::new();
            self.core.step(input, self.now, &mut actions);
            for action in actions {
                self.carry_out(&action, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, action: &Action, inputs: &mut Vec<Input>) {
        match *action {
            Action::Launch(about) => self.launch(about),
            Action::Stop(id, signal) => {
                assert_eq!(signal, Signal::TERM);
                self.first_word(id);
                let Some(alive) = self.alive.get(&id) else {
                    return;
                };
                let (about, heeds) = (alive.about, alive.life.heeds_after);
                match heeds {
                    Some(after) if alive.exited => self.later(after, about, Told::Empty),
                    Some(after) => {
                        self.later(after, about, Told::Exited(killed(Signal::TERM)));
                        self.later(after, about, Told::Empty);
                    }
                    None => {}
                }
            }
            Action::Kill(id) => {
                self.first_word(id);
                let Some(alive) = self.alive.get(&id) else {
                    return;
                };
                let (about, dies) = (alive.about, alive.life.dies_after);
                if let Some(after) = dies {
                    self.later(after, about, Told::Exited(killed(Signal::KILL)));
                    self.later(after, about, Told::Empty);
                }
            }
            Action::AskSurvivors(about) => {
                if let Some(alive) = self.alive.get_mut(&about.child) {
                    alive.given_up = true;
                }
                let survivor = Survivor::new(kmonitor_event::Pid::current(), "x", 'D');
                inputs.push(Input::Report(about, Told::Survivors(vec![survivor])));
            }
            Action::Signal(.., request) | Action::Answer(request, _) => {
                assert!(self.asked.contains(&request.0));
                assert!(
                    self.answered.insert(request.0),
                    "{request:?} answered twice"
                );
            }
            Action::Event(_, EventKind::RestartScheduled { .. }, _) => {
                self.restarts.push(self.now);
                let recent = |at: &&Duration| self.now - **at <= PERIOD;
                let recent = self.restarts.iter().filter(recent).count();
                assert!(recent <= BEARS as usize, "{recent} restarts are borne");
            }
            Action::Up => {
                assert!(!self.up);
                self.up = true;
            }
            Action::Ended(_) => {
                assert!(self.ended.is_none());
                self.ended = Some(self.now);
            }
            Action::Added(..) | Action::Changed(..) | Action::Removed(_) | Action::Event(..) => {}
        }
    }

    fn launch(&mut self, about: Incarnation) {
        assert!(
            self.ended.is_none() && self.shutdown.is_none(),
            "started after the end"
        );
        assert!(
            !self.alive.contains_key(&about.child),
            "two incarnations are alive"
        );
        let children = self.core.children();
        let gated = |child: &crate::core::Child| child.id == about.child && child.gated;
        // Whom a request starts by name waits for nobody.
        if !self.up && about.generation == 1 && children.iter().any(gated) {
            for child in children.iter().take_while(|child| child.id != about.child) {
                let settled = matches!(child.run, Run::Ready { .. });
                assert!(
                    settled || child.goal != crate::core::Goal::Up,
                    "started too early"
                );
            }
        }
        let life = self.lives[self.started % self.lives.len()].clone();
        self.started += 1;
        if life.fails {
            let error = StartError::Other(io::Error::other("no").to_string());
            self.later(3, about, Told::Failed(Arc::new(error)));
        } else {
            self.later(0, about, Told::Started(None));
            if let Some(after) = life.ready_after {
                self.later(after, about, Told::Ready);
            }
            if let Some((after, code)) = life.ends_after {
                self.later(after, about, Told::Exited(exit(code)));
            }
        }
        let alive = Alive {
            about,
            life,
            exited: false,
            told: false,
            given_up: false,
        };
        self.alive.insert(about.child, alive);
    }

    /// Of those who ran when the shutdown came, each is told to stop when those after
    /// it are gone. Who ended by itself meanwhile has been stopped by nobody; what it
    /// left is swept at once.
    fn first_word(&mut self, id: ChildId) {
        let Some((ran, _)) = &self.shutdown else {
            return;
        };
        let first = self
            .alive
            .get(&id)
            .is_some_and(|alive| !alive.told && !alive.exited);
        if first && let Some(place) = ran.iter().position(|other| *other == id) {
            for after in &ran[place + 1..] {
                let gone = self.alive.get(after).is_none_or(|alive| alive.given_up);
                assert!(gone, "{id} is stopped before {after}");
            }
        }
        if let Some(alive) = self.alive.get_mut(&id) {
            alive.told = true;
        }
    }

    /// Until then, all that comes and all deadlines; what comes goes first.
    fn pass(&mut self, until: Duration) {
        for _ in 0..100_000 {
            let next = self.coming.first_key_value().map(|(key, _)| *key);
            let deadline = self.core.deadline();
            match (next, deadline) {
                (Some(key), deadline) if key.0 <= until && deadline.is_none_or(|d| key.0 <= d) => {
                    self.now = self.now.max(key.0);
                    if let Some((about, told)) = self.coming.remove(&key) {
                        self.tell(about, told);
                    }
                }
                (_, Some(deadline)) if deadline <= until => {
                    self.now = self.now.max(deadline);
                    self.feed(Input::Tick);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    fn tell(&mut self, about: Incarnation, told: Told) {
        let Some(alive) = self.alive.get_mut(&about.child) else {
            return;
        };
        if alive.about != about || (alive.exited && matches!(told, Told::Exited(_) | Told::Ready)) {
            return;
        }
        let mut empties = None;
        match &told {
            Told::Exited(_) => {
                alive.exited = true;
                empties = alive.life.empty_after;
            }
            Told::Empty if !alive.exited => return,
            Told::Failed(_) | Told::Empty => {
                self.alive.remove(&about.child);
            }
            _ => {}
        }
        if let Some(after) = empties {
            self.later(after, about, Told::Empty);
        }
        self.feed(Input::Report(about, told));
    }

    fn ask(&mut self, number: u64, op: &Op) {
        let named = |of: &usize| name(NAMES[*of]);
        let request = match op {
            Op::Shutdown(now) => return self.shut_down(*now),
            Op::Start(of) => Request::Start(named(of)),
            Op::Stop(of) => Request::Stop(named(of)),
            Op::Restart(of) => Request::Restart(named(of)),
            Op::Signal(of) => Request::Signal(named(of), Signal::HUP, Reach::Leader),
            Op::Add(of, restart) => Request::Add(one(*of, *restart)),
            Op::Remove(of) => Request::Remove(named(of)),
            Op::Reload(wanted) => {
                let mut seen = BTreeSet::new();
                let wanted = wanted.iter().filter(|(of, _)| seen.insert(*of));
                let wanted = wanted.map(|(of, changed)| (one(*of, Restart::OnFailure), *changed));
                Request::Reload(rules(Plan::OneForAll), wanted.collect())
            }
        };
        self.asked.insert(number);
        self.feed(Input::Request(RequestId(number), request));
    }

    fn shut_down(&mut self, now: bool) {
        let live = self.core.children().iter().filter(|child| child.is_live());
        let live = live.map(|child| child.id).collect();
        if self.ended.is_none() && self.shutdown.is_none() && !self.core.is_ending() {
            self.shutdown = Some((live, self.now));
        }
        let cause = Cause::User;
        self.feed(Input::Shutdown { now, cause });
    }
}

fn one(of: usize, restart: Restart) -> crate::core::NewChild {
    let mut new = child(NAMES[of], restart);
    new.policy.ready_within = Some(ms(80));
    new.policy.stop.grace = ms(40);
    new.policy.stop.patience = ms(20);
    new.policy.backoff = Backoff::exponential(ms(5), ms(100));
    new
}

fn rules(strategy: Plan) -> Rules {
    Rules {
        strategy,
        intensity: Intensity::new(BEARS, PERIOD),
        ..Rules::default()
    }
}

fn restart() -> impl Strategy<Value = Restart> {
    prop_oneof![
        Just(Restart::Always),
        Just(Restart::OnFailure),
        Just(Restart::Never)
    ]
}

fn life() -> impl Strategy<Value = Life> {
    (
        prop::bool::weighted(0.1),
        prop::option::weighted(0.9, 0..90u64),
        prop::option::weighted(0.4, (0..300u64, 0..2i32)),
        prop::option::weighted(0.7, 0..60u64),
        prop::option::weighted(0.8, 0..30u64),
        prop::option::weighted(0.9, 0..30u64),
    )
        .prop_map(
            |(fails, ready_after, ends_after, heeds, empty, dies)| Life {
                fails,
                ready_after,
                ends_after,
                heeds_after: heeds,
                empty_after: empty,
                dies_after: dies,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let of = 0..NAMES.len();
    prop_oneof![
        4 => of.clone().prop_map(Op::Start),
        4 => of.clone().prop_map(Op::Stop),
        4 => of.clone().prop_map(Op::Restart),
        1 => of.clone().prop_map(Op::Signal),
        2 => (of.clone(), restart()).prop_map(|(of, restart)| Op::Add(of, restart)),
        2 => of.clone().prop_map(Op::Remove),
        1 => prop::collection::vec((of, any::<bool>()), 0..5).prop_map(Op::Reload),
        1 => any::<bool>().prop_map(Op::Shutdown),
    ]
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn whatever_happens(
        plan in prop_oneof![
            Just(Plan::OneForOne), Just(Plan::OneForAll), Just(Plan::RestForOne)
        ],
        kinds in prop::collection::vec(restart(), 0..5),
        lives in prop::collection::vec(life(), 1..30),
        ops in prop::collection::vec((0..60u64, op()), 0..25),
    ) {
        let children = kinds.iter().enumerate().map(|(of, restart)| one(of, *restart));
        let mut world = World {
            core: Core::new(rules(plan), children.collect(), 7),
            now: Duration::ZERO,
            lives,
            started: 0,
            alive: BTreeMap::new(),
            coming: BTreeMap::new(),
            order: 0,
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            up: false,
            shutdown: None,
            ended: None,
            restarts: Vec::new(),
        };
        world.feed(Input::Begin);
        for (number, (gap, op)) in ops.iter().enumerate() {
            world.pass(world.now + ms(*gap));
            world.ask(number as u64, op);
        }
        // At most 60 ms for each child there is.
        let bound = ms(60) * u32::try_from(world.core.children().len()).unwrap();
        world.shut_down(false);
        let asked = world.now;
        world.pass(asked + bound);
        prop_assert!(world.ended.is_some(), "not within {:?}", bound);
        world.pass(asked + ms(10_000));
        prop_assert_eq!(&world.answered, &world.asked);
        prop_assert_eq!(world.core.deadline(), None);
    }
}
