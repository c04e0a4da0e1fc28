//! A world in which everything happens at once, unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kmonitor_event::{Status, StatusSource};
use proptest::test_runner::Config as ProptestConfig;

use crate::Signal;
use crate::backend::{Incarnation, StartError};
use crate::core::{Action, Core, Input, NewChild, Policy, Request, RequestId, Rules, Told};
use crate::spec::{Backoff, ChildName, Codes, Restart, Stop};
use crate::words::{Cause, ControlError, End, Ending, EventKind};

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// So many cases, unless `PROPTEST_CASES` says otherwise.
pub(super) fn cases(usual: u32) -> ProptestConfig {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let usual = if told {
        ProptestConfig::default().cases
    } else {
        usual
    };
    ProptestConfig {
        cases: usual,
        ..ProptestConfig::default()
    }
}

/// How a start goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Ready,
    /// Until the test says so.
    NotReady,
    SpawnError,
    /// It ends with this raw status before it is ready.
    Ends(i32),
}

pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) now: Duration,
    /// `+a`: launched; `-a`: told to stop; `!a`: killed; `?a`: asked who is left.
    pub(super) log: Vec<String>,
    pub(super) events: Vec<(Option<String>, EventKind, Cause)>,
    pub(super) answers: BTreeMap<u64, Result<(), ControlError>>,
    pub(super) end: Option<End>,
    pub(super) up: bool,
    /// How the next starts of a child go; ready when there are none.
    pub(super) starts: BTreeMap<String, VecDeque<Start>>,
    /// Those who do not heed the word to stop.
    pub(super) deaf: BTreeSet<String>,
    /// Those who outlive being killed.
    pub(super) stuck: BTreeSet<String>,
    names: BTreeMap<u64, String>,
    generations: BTreeMap<String, Incarnation>,
    requests: u64,
}

pub(super) fn name(name: &str) -> ChildName {
    ChildName::new(name).unwrap()
}

/// A child without backoff, of 10 s grace and 5 s patience.
pub(super) fn child(of: &str, restart: Restart) -> NewChild {
    NewChild {
        name: name(of),
        policy: Policy {
            restart,
            backoff: Backoff::constant(Duration::ZERO),
            codes: Codes::default(),
            stop: Stop::default(),
            ready_within: Some(secs(60)),
            significant: false,
            bounds_itself: false,
        },
    }
}

pub(super) fn exit(code: i32) -> Ending {
    Ending::Process(Status::from_raw(code << 8, StatusSource::Waited))
}

pub(super) fn killed(signal: Signal) -> Ending {
    Ending::Process(Status::from_raw(signal.as_raw(), StatusSource::Waited))
}

impl Rig {
    pub(super) fn new(rules: Rules, children: Vec<NewChild>) -> Self {
        let core = Core::new(rules, children, 1);
        let ids = core.children().iter();
        let names = ids
            .map(|child| (child.id, child.name.to_string()))
            .collect();
        Self {
            core,
            now: Duration::ZERO,
            log: Vec::new(),
            events: Vec::new(),
            answers: BTreeMap::new(),
            end: None,
            up: false,
            starts: BTreeMap::new(),
            deaf: BTreeSet::new(),
            stuck: BTreeSet::new(),
            names,
            generations: BTreeMap::new(),
            requests: 0,
        }
    }

    /// Started, with these children, all ready.
    pub(super) fn up(rules: Rules, children: Vec<NewChild>) -> Self {
        let mut rig = Self::new(rules, children);
        rig.feed(Input::Begin);
        assert!(rig.up, "{:?}", rig.events);
        rig.log.clear();
        rig
    }

    pub(super) fn next_start(&mut self, of: &str, start: Start) {
        self.starts
            .entry(of.to_owned())
            .or_default()
            .push_back(start);
    }

    pub(super) fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut actions = Vec::new();
            self.core.step(input, self.now, &mut actions);
            for action in actions {
                self.carry_out(action, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, action: Action, inputs: &mut VecDeque<Input>) {
        let mut tell = |about, told| inputs.push_back(Input::Report(about, told));
        match action {
            Action::Launch(about) => {
                let name = self.names[&about.child].clone();
                self.log.push(format!("+{name}"));
                self.generations.insert(name.clone(), about);
                let start = self.starts.get_mut(&name).and_then(VecDeque::pop_front);
                match start.unwrap_or(Start::Ready) {
                    Start::SpawnError => {
                        let error = StartError::Spawn {
                            program: name,
                            error: io::Error::from(io::ErrorKind::NotFound),
                        };
                        tell(about, Told::Failed(Arc::new(error)));
                    }
                    start => {
                        tell(about, Told::Started(None));
                        match start {
                            Start::Ready => tell(about, Told::Ready),
                            Start::Ends(raw) => {
                                let status = Status::from_raw(raw, StatusSource::Waited);
                                tell(about, Told::Exited(Ending::Process(status)));
                                tell(about, Told::Empty);
                            }
                            _ => {}
                        }
                    }
                }
            }
            Action::Stop(id, signal) => {
                let name = &self.names[&id];
                self.log.push(format!("-{name}"));
                if !self.deaf.contains(name) {
                    let about = self.generations[name];
                    tell(about, Told::Exited(killed(signal)));
                    tell(about, Told::Empty);
                }
            }
            Action::Kill(id) => {
                let name = &self.names[&id];
                self.log.push(format!("!{name}"));
                if !self.stuck.contains(name) {
                    let about = self.generations[name];
                    tell(about, Told::Exited(killed(Signal::KILL)));
                    tell(about, Told::Empty);
                }
            }
            Action::AskSurvivors(about) => {
                self.log.push(format!("?{}", self.names[&about.child]));
                inputs.push_back(Input::Report(about, Told::Survivors(Vec::new())));
            }
            Action::Signal(id, signal, _, request) => {
                self.log.push(format!("{signal}>{}", self.names[&id]));
                self.answered(request, Ok(()));
            }
            Action::Added(id, name) => {
                self.names.insert(id, name.to_string());
            }
            Action::Changed(..) | Action::Removed(_) => {}
            Action::Event(id, kind, cause) => {
                let name = id.map(|id| self.names[&id].clone());
                self.events.push((name, kind, cause));
            }
            Action::Answer(request, result) => self.answered(request, result),
            Action::Up => {
                assert!(!self.up);
                self.up = true;
            }
            Action::Ended(end) => {
                assert!(self.end.is_none());
                self.end = Some(end);
            }
        }
    }

    fn answered(&mut self, request: RequestId, result: Result<(), ControlError>) {
        let twice = self.answers.insert(request.0, result);
        assert!(twice.is_none(), "request {} was answered twice", request.0);
    }

    pub(super) fn tell(&mut self, of: &str, told: Told) {
        let about = self.generations[of];
        self.feed(Input::Report(about, told));
    }

    /// A child ends by itself and leaves nothing.
    pub(super) fn ends(&mut self, of: &str, ending: Ending) {
        self.tell(of, Told::Exited(ending));
        self.tell(of, Told::Empty);
    }

    pub(super) fn request(&mut self, request: Request) -> u64 {
        self.requests += 1;
        self.feed(Input::Request(RequestId(self.requests), request));
        self.requests
    }

    /// The answer to a request; `None`: not yet.
    pub(super) fn answer(&self, request: u64) -> Option<&Result<(), ControlError>> {
        self.answers.get(&request)
    }

    pub(super) fn is_ok(&self, request: u64) -> bool {
        matches!(self.answer(request), Some(Ok(())))
    }

    pub(super) fn shutdown(&mut self, now: bool) {
        let cause = Cause::User;
        self.feed(Input::Shutdown { now, cause });
    }

    /// Lets time pass, stopping at each deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.core.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            self.feed(Input::Tick);
        }
        self.now = until;
    }

    pub(super) fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    pub(super) fn running(&self) -> String {
        let live = self.core.children().iter().filter(|child| child.is_live());
        live.map(|child| child.name.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
