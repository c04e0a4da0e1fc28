//! One simulated incarnation: a task that plays its program.

use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Sim;
use super::log::What;
use super::program::{Escapee, Program, Reaction, Ready};
use crate::Signal;
use crate::backend::Survivor;
use crate::backend::{Launch, Origin, Process, Reach, Report, Reports, Running, StartError};
use crate::output::Stream;
use crate::spec::KillScope;
use kmonitor_event::{Pid, Status, StatusSource};

/// Signals that by default do not end a process.
const HARMLESS: [Signal; 5] = [
    Signal::CHLD,
    Signal::CONT,
    Signal::STOP,
    Signal::TSTP,
    Signal::WINCH,
];

pub(super) type Left = Arc<Mutex<Vec<Survivor>>>;

/// By what a supervisor moves it.
pub(super) struct Strings {
    to: mpsc::UnboundedSender<Pull>,
    left: Left,
}

pub(super) enum Pull {
    Signal(Signal, Reach),
    Kill,
}

pub(super) struct Puppet {
    sim: Sim,
    launch: Launch,
    reports: Reports,
    program: Program,
    left: Left,
    members: Vec<Member>,
    ready_at: Option<Instant>,
}

struct Member {
    pid: Pid,
    part: Part,
    /// When it will end, and how.
    ends: Option<(Instant, i32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Leader,
    Other(Escapee),
}

impl Strings {
    pub(super) fn new(to: mpsc::UnboundedSender<Pull>, left: Left) -> Self {
        Self { to, left }
    }
}

impl Running for Strings {
    fn signal(&self, signals: &[Signal], reach: Reach) -> BoxFuture<'static, io::Result<()>> {
        for signal in signals {
            // Who is gone is no error.
            let _ = self.to.send(Pull::Signal(*signal, reach));
        }
        ready(Ok(())).boxed()
    }

    fn kill(&self) {
        let _ = self.to.send(Pull::Kill);
    }

    fn survivors(&self) -> BoxFuture<'static, Vec<Survivor>> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        ready(left.clone()).boxed()
    }
}

impl Puppet {
    pub(super) fn new(
        sim: Sim,
        launch: Launch,
        reports: Reports,
        program: Program,
        left: Left,
    ) -> Self {
        Self {
            sim,
            launch,
            reports,
            program,
            left,
            members: Vec::new(),
            ready_at: None,
        }
    }

    pub(super) async fn live(mut self, mut pulled: mpsc::UnboundedReceiver<Pull>) {
        let early = match self.start(&mut pulled).await {
            Ok(early) => early,
            Err(error) => {
                self.note(What::FailedToStart);
                self.sim.lock().end(&self.launch.path);
                return self.reports.send(Report::Failed(error));
            }
        };
        for (signal, reach) in early {
            self.pull(&Pull::Signal(signal, reach));
        }
        while !self.members.is_empty() {
            let due = self.due();
            tokio::select! {
                biased;
                Some(pull) = pulled.recv() => self.pull(&pull),
                () = at(due) => {}
            }
            self.play();
        }
        self.note(What::Empty);
        self.sim.lock().end(&self.launch.path);
        self.reports.send(Report::Empty);
    }

    /// Until it exists. Signals meanwhile are kept.
    async fn start(
        &mut self,
        pulled: &mut mpsc::UnboundedReceiver<Pull>,
    ) -> Result<Vec<(Signal, Reach)>, StartError> {
        let exists_at = Instant::now() + self.program.starts_after;
        let mut early = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(pull) = pulled.recv() => match pull {
                    Pull::Kill => return Err(StartError::Cancelled),
                    Pull::Signal(signal, reach) => early.push((signal, reach)),
                },
                () = sleep_until(exists_at) => break,
            }
        }
        if let Some(error) = &self.program.fails {
            return Err(StartError::Spawn {
                program: self.launch.path.name().to_owned(),
                error: io::Error::other(error.clone()),
            });
        }
        self.exist();
        Ok(early)
    }

    fn exist(&mut self) {
        let now = Instant::now();
        let others = self.program.leaves.iter().copied().map(Part::Other);
        for part in std::iter::once(Part::Leader).chain(others) {
            let ends = match part {
                Part::Leader => self.program.ends.map(|(run, raw)| (now + run, raw)),
                Part::Other(_) => None,
            };
            let pid = self.sim.lock().pid();
            self.members.push(Member { pid, part, ends });
        }
        for line in &self.program.prints {
            self.launch.output.push(Stream::Stdout, line.as_bytes());
        }
        self.count();
        self.ready_at = match self.program.ready {
            Ready::After(wait) => Some(now + wait),
            Ready::Never => None,
        };
        let pid = self.members[0].pid;
        self.note(What::Started { pid });
        self.reports.send(Report::Started {
            process: Process::new(pid, None),
            origin: match self.launch.spec.adopt {
                Some(_) if self.launch.generation == 1 => Origin::Adopted,
                _ => Origin::Spawned,
            },
            scope: match self.launch.scope {
                KillScope::Best => KillScope::Tree,
                scope => scope,
            },
        });
    }

    /// When something happens by itself.
    fn due(&self) -> Option<Instant> {
        let ends = self.members.iter().filter_map(|member| member.ends);
        ends.map(|(at, _)| at).chain(self.ready_at).min()
    }

    /// What is due happens.
    fn play(&mut self) {
        let now = Instant::now();
        if self.ready_at.is_some_and(|at| at <= now) {
            self.ready_at = None;
            self.note(What::Ready);
            self.reports.send(Report::Ready);
        }
        let due = |member: &Member| member.ends.filter(|(at, _)| *at <= now);
        let (dead, alive) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|member| due(member).is_some());
        self.members = alive;
        let dead: Vec<Member> = dead;
        self.count();
        for member in dead {
            self.sim.lock().free(member.pid);
            if let (Part::Leader, Some((_, raw))) = (member.part, member.ends) {
                self.ready_at = None;
                let status = Status::from_raw(raw, StatusSource::Waited);
                self.note(What::Exited { status });
                self.reports.send(Report::Exited(status));
            }
        }
    }

    fn pull(&mut self, pull: &Pull) {
        let now = Instant::now();
        match *pull {
            Pull::Signal(signal, reach) => {
                self.note(What::Signalled { signal, reach });
                for member in &mut self.members {
                    if reach == Reach::Scope || member.part == Part::Leader {
                        member.hear(signal, &self.program, now);
                    }
                }
            }
            Pull::Kill => {
                self.note(What::Killed);
                for member in &mut self.members {
                    member.hear(Signal::KILL, &self.program, now);
                }
            }
        }
    }

    fn note(&self, what: What) {
        let mut world = self.sim.lock();
        world.note(&self.launch.path, self.launch.generation, what);
    }

    /// Who is in the scope now, for who asks.
    fn count(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.clear();
        left.extend(self.members.iter().map(|member| {
            let state = match member.part {
                Part::Other(Escapee::Stuck(_)) => 'D',
                _ => 'S',
            };
            Survivor::new(member.pid, self.launch.path.name(), state)
        }));
    }
}

impl Member {
    fn hear(&mut self, signal: Signal, program: &Program, now: Instant) {
        let killed = signal == Signal::KILL;
        let dies = match self.part {
            Part::Leader => match program.reactions.get(&signal.as_raw()) {
                Some(Reaction::Ignore) if !killed => None,
                Some(Reaction::Exit { code, after }) if !killed => {
                    Some((now + *after, i32::from(*code) << 8))
                }
                _ => Some((now, signal.as_raw())),
            },
            Part::Other(Escapee::Meek) => Some((now, signal.as_raw())),
            Part::Other(Escapee::Stubborn) => killed.then_some((now, signal.as_raw())),
            Part::Other(Escapee::Stuck(wait)) => {
                killed.then(|| (later(now, wait), signal.as_raw()))
            }
        };
        let Some(end) = dies else { return };
        let explicit = program.reactions.contains_key(&signal.as_raw());
        if HARMLESS.contains(&signal) && !(explicit && self.part == Part::Leader) {
            return;
        }
        if self.ends.is_none_or(|(at, _)| end.0 < at) {
            self.ends = Some(end);
        }
    }
}

/// So late that nobody lives to see it, where the clock ends before.
fn later(now: Instant, wait: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(60 * 60 * 24 * 365);
    now.checked_add(wait).unwrap_or(now + AGES)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
