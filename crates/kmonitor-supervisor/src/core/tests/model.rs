//! The core against a naive interpreter of OTP's rules, in a world where every start
//! and every stop happens at once.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::rig::{Rig, Start, cases, child, exit, killed, name, secs};
use crate::Signal;
use crate::core::{Input, Request, Rules};
use crate::spec::{AutoShutdown, Intensity, Restart, Strategy as Plan};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const PERIOD: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Done,
    Failed,
    Signal,
}

#[derive(Debug, Clone)]
enum Op {
    /// A child ends by itself; its next starts fail so many times.
    End(usize, How, u8),
    Stop(usize),
    Start(usize, bool),
    Restart(usize, bool),
    Add(usize, Restart),
    Remove(usize),
    Pass(u64),
    Shutdown,
}

/// A child of the model.
#[derive(Debug, Clone)]
struct Person {
    name: &'static str,
    restart: Restart,
    significant: bool,
    up: bool,
    /// Down, because it was done: OTP's `undefined` pid in a list of children.
    done: bool,
    failing: u8,
}

/// OTP's supervisor, as its manual describes it; it forgets nothing and waits for
/// nobody.
#[derive(Debug)]
struct Model {
    plan: Plan,
    bears: usize,
    auto: AutoShutdown,
    people: Vec<Person>,
    restarts: Vec<u64>,
    now: u64,
    log: Vec<String>,
    ended: bool,
}

impl Model {
    fn find(&self, name: &str) -> Option<usize> {
        self.people.iter().position(|person| person.name == name)
    }

    /// Starts one; whether it succeeded.
    fn launch(&mut self, at: usize) -> bool {
        let person = &mut self.people[at];
        self.log.push(format!("+{}", person.name));
        if person.failing > 0 {
            person.failing -= 1;
            return false;
        }
        person.up = true;
        person.done = false;
        true
    }

    fn halt(&mut self, at: usize) {
        self.log.push(format!("-{}", self.people[at].name));
        self.people[at].up = false;
    }

    fn halt_from(&mut self, first: usize) {
        for at in (first..self.people.len()).rev() {
            if self.people[at].up {
                self.halt(at);
            }
        }
    }

    fn end(&mut self) {
        self.halt_from(0);
        self.ended = true;
    }

    /// `restart/2` of supervisor.erl.
    fn restart(&mut self, mut culprit: usize) {
        loop {
            let (now, bears) = (self.now, self.bears);
            self.restarts.push(now);
            let recent = |at: &&u64| now - **at <= PERIOD;
            if self.restarts.iter().filter(recent).count() > bears {
                return self.end();
            }
            let first = match self.plan {
                Plan::OneForOne => {
                    if self.launch(culprit) {
                        return;
                    }
                    continue;
                }
                Plan::OneForAll => 0,
                Plan::RestForOne => culprit,
            };
            let mut again = vec![culprit];
            for at in (first..self.people.len()).filter(|at| *at != culprit) {
                let person = &self.people[at];
                let temporary = person.restart == Restart::Never;
                if (person.up || person.done) && !temporary {
                    again.push(at);
                }
                // A temporary child that a sibling's restart passes by is forgotten.
                if temporary {
                    self.people[at].done = false;
                }
            }
            again.sort_unstable();
            self.halt_from(first);
            let mut left = again.into_iter();
            let failed = left.by_ref().find(|at| !self.launch(*at));
            let Some(failed) = failed else { return };
            // OTP's children that were not reached are started by the next round.
            for at in left {
                self.people[at].done = true;
            }
            culprit = failed;
        }
    }

    fn ends(&mut self, at: usize, how: How) {
        let person = &mut self.people[at];
        person.up = false;
        let again = match person.restart {
            Restart::Always => true,
            Restart::OnFailure => how != How::Done,
            Restart::OnAbnormal => how == How::Signal,
            Restart::Never => false,
        };
        if again {
            return self.restart(at);
        }
        person.done = true;
        let significant = person.significant;
        let others = self
            .people
            .iter()
            .any(|other| other.significant && other.up);
        let ends = match self.auto {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => significant,
            AutoShutdown::AllSignificant => significant && !others,
        };
        if ends {
            self.end();
        }
    }

    fn play(&mut self, op: &Op) {
        match *op {
            Op::Pass(time) => self.now += time,
            _ if self.ended => {}
            Op::Shutdown => self.end(),
            Op::Add(of, restart) => {
                if self.find(NAMES[of]).is_none() {
                    self.people.push(Person {
                        name: NAMES[of],
                        restart,
                        significant: false,
                        up: false,
                        done: false,
                        failing: 0,
                    });
                    self.launch(self.people.len() - 1);
                }
            }
            Op::End(of, how, failing) => {
                if let Some(at) = self.find(NAMES[of]).filter(|at| self.people[*at].up) {
                    self.people[at].failing = failing;
                    self.ends(at, how);
                }
            }
            Op::Stop(of) => {
                if let Some(at) = self.find(NAMES[of]) {
                    if self.people[at].up {
                        self.halt(at);
                    }
                    self.people[at].done = false;
                }
            }
            Op::Remove(of) => {
                if let Some(at) = self.find(NAMES[of]) {
                    if self.people[at].up {
                        self.halt(at);
                    }
                    self.people.remove(at);
                }
            }
            Op::Start(of, fails) => {
                let down = |at: &usize| !self.people[*at].up;
                if let Some(at) = self.find(NAMES[of]).filter(down) {
                    self.people[at].failing += u8::from(fails);
                    self.by_hand(at);
                }
            }
            Op::Restart(of, fails) => {
                if let Some(at) = self.find(NAMES[of]) {
                    if self.people[at].up {
                        self.halt(at);
                    }
                    self.people[at].failing += u8::from(fails);
                    self.by_hand(at);
                }
            }
        }
    }

    fn by_hand(&mut self, at: usize) {
        self.launch(at);
        self.people[at].done = false;
    }
}

/// Plays the same to the core.
fn play(rig: &mut Rig, op: &Op, model: &Model) {
    let up = |of: usize| rig.running().split(' ').any(|up| up == NAMES[of]);
    let known = |of: usize| model.find(NAMES[of]).is_some();
    match *op {
        Op::Pass(time) => rig.pass(secs(time)),
        Op::Shutdown => rig.shutdown(false),
        Op::End(of, how, failing) => {
            if up(of) {
                set_failing(rig, of, failing, false);
                let ending = match how {
                    How::Done => exit(0),
                    How::Failed => exit(1),
                    How::Signal => killed(Signal::SEGV),
                };
                rig.ends(NAMES[of], ending);
            }
        }
        Op::Stop(of) => {
            rig.request(Request::Stop(name(NAMES[of])));
        }
        Op::Start(of, fails) => {
            if known(of) && !up(of) && rig.end.is_none() {
                set_failing(rig, of, u8::from(fails), true);
            }
            rig.request(Request::Start(name(NAMES[of])));
        }
        Op::Restart(of, fails) => {
            if known(of) && rig.end.is_none() {
                set_failing(rig, of, u8::from(fails), true);
            }
            rig.request(Request::Restart(name(NAMES[of])));
        }
        Op::Add(of, restart) => {
            if !known(of) {
                rig.starts.remove(NAMES[of]);
            }
            rig.request(Request::Add(child(NAMES[of], restart)));
        }
        Op::Remove(of) => {
            rig.request(Request::Remove(name(NAMES[of])));
        }
    }
}

fn set_failing(rig: &mut Rig, of: usize, times: u8, add: bool) {
    let starts = rig.starts.entry(NAMES[of].into()).or_default();
    if !add {
        *starts = VecDeque::new();
    }
    starts.extend((0..times).map(|_| Start::SpawnError));
}

fn restart() -> impl Strategy<Value = Restart> {
    prop_oneof![
        Just(Restart::Always),
        Just(Restart::OnFailure),
        Just(Restart::OnAbnormal),
        Just(Restart::Never),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let of = 0..NAMES.len();
    let how = prop_oneof![Just(How::Done), Just(How::Failed), Just(How::Signal)];
    let failing = prop_oneof![4 => Just(0), 1 => 1..4u8];
    prop_oneof![
        8 => (of.clone(), how, failing).prop_map(|(of, how, failing)| Op::End(of, how, failing)),
        2 => of.clone().prop_map(Op::Stop),
        2 => (of.clone(), prop::bool::weighted(0.2)).prop_map(|(of, fails)| Op::Start(of, fails)),
        2 => (of.clone(), prop::bool::weighted(0.2)).prop_map(|(of, fails)| Op::Restart(of, fails)),
        1 => (of.clone(), restart()).prop_map(|(of, restart)| Op::Add(of, restart)),
        1 => of.prop_map(Op::Remove),
        2 => (1..15u64).prop_map(Op::Pass),
        1 => Just(Op::Shutdown),
    ]
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn the_core_does_what_otp_does(
        plan in prop_oneof![
            Just(Plan::OneForOne), Just(Plan::OneForAll), Just(Plan::RestForOne)
        ],
        auto in prop_oneof![
            3 => Just(AutoShutdown::Never),
            1 => Just(AutoShutdown::AnySignificant),
            1 => Just(AutoShutdown::AllSignificant),
        ],
        bears in 0..6u32,
        kinds in prop::collection::vec((restart(), any::<bool>()), 0..5),
        ops in prop::collection::vec(op(), 0..40),
    ) {
        let rules = Rules {
            strategy: plan,
            intensity: Intensity::new(bears, secs(PERIOD)),
            auto_shutdown: auto,
        };
        let mut model = Model {
            plan,
            bears: bears as usize,
            auto,
            people: Vec::new(),
            restarts: Vec::new(),
            now: 0,
            log: Vec::new(),
            ended: false,
        };
        let mut children = Vec::new();
        for (name, (restart, significant)) in NAMES.into_iter().zip(kinds) {
            let significant = significant && restart != Restart::Always;
            let mut new = child(name, restart);
            new.policy.significant = significant;
            children.push(new);
            let person = Person { name, restart, significant, up: true, done: false, failing: 0 };
            model.people.push(person);
        }
        let mut rig = Rig::new(rules, children);
        rig.feed(Input::Begin);
        rig.log.clear();
        for op in &ops {
            play(&mut rig, op, &model);
            model.play(op);
            prop_assert_eq!(rig.take_log(), model.log.join(" "), "{:?}", op);
            model.log.clear();
            // A failed addition is no child.
            if let Op::Add(of, _) = op
                && let Some(at) = model.find(NAMES[*of])
                && rig.core.children().iter().all(|child| child.name.as_str() != NAMES[*of])
            {
                model.people.remove(at);
            }
            let up: Vec<&str> = model.people.iter().filter(|p| p.up).map(|p| p.name).collect();
            prop_assert_eq!(rig.running(), up.join(" "), "{:?}", op);
            prop_assert_eq!(rig.end.is_some(), model.ended, "{:?}", op);
            prop_assert_eq!(rig.core.deadline(), None);
        }
        let asked = ops.iter().filter(|op| {
            matches!(op, Op::Stop(_) | Op::Start(..) | Op::Restart(..) | Op::Add(..) | Op::Remove(_))
        });
        prop_assert_eq!(rig.answers.len(), asked.count(), "each request has its answer");
    }
}
