//! The task of one supervisor: it feeds the core and does what that says.

mod carry;
mod tell;

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::board::Board;
use super::command::{Command, REQUESTS_MAX, Reply, Verb, pass_on};
use super::nested::{Ask, Leavings};
use super::outcome::Outlet;
use super::plan::{Body, Plan, Planned};
use crate::backend::{Backend, Incarnation, Report as Heard, Running};
use crate::core::{Child, ChildId, Core, Input, Request, RequestId, Told};
use crate::output::OutputRing;
use crate::spec::{ChildName, ChildPath};
use crate::words::{Cause, ControlError, Ending};

/// What drives one supervisor.
pub(super) struct Driver {
    core: Core,
    path: ChildPath,
    slots: HashMap<ChildId, Slot>,
    backend: Arc<dyn Backend>,
    board: Arc<Board>,
    heard: Inbox<Heard>,
    told: Inbox<Told>,
    commands: mpsc::Receiver<Command>,
    ask: watch::Receiver<Ask>,
    outlet: Outlet,
    pending: HashMap<RequestId, Reply>,
    requests: u64,
    /// What new and changed children are to be, until the core has taken them over.
    arriving: HashMap<ChildName, Body>,
    ending_since: Option<Duration>,
}

/// Not bounded: a child has one incarnation at a time, and that a handful of reports.
struct Inbox<T> {
    to: mpsc::UnboundedSender<(Incarnation, T)>,
    from: mpsc::UnboundedReceiver<(Incarnation, T)>,
}

/// A child, as it is carried out.
struct Slot {
    path: ChildPath,
    body: Body,
    output: Arc<OutputRing>,
    running: Option<Box<dyn Running>>,
    /// Of a supervisor that runs.
    commands: Option<mpsc::Sender<Command>>,
    leavings: Leavings,
}

/// What a supervisor is surrounded by.
pub(super) struct Surroundings {
    pub(super) path: ChildPath,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) board: Arc<Board>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) ask: watch::Receiver<Ask>,
    pub(super) outlet: Outlet,
}

/// Something happened.
enum Happening {
    Heard(Incarnation, Heard),
    Told(Incarnation, Told),
    Asked,
    Commanded(Command),
    Deadline,
    /// Nobody needs this supervisor any more.
    Forlorn,
}

impl Driver {
    pub(super) fn new(plan: &Plan, around: Surroundings) -> Self {
        let mut names = Vec::with_capacity(plan.children.len());
        let mut slots = HashMap::with_capacity(plan.children.len());
        let new = plan.children.iter().map(|child| child.new.clone());
        let mut core = Core::new(plan.rules.clone(), new.collect(), fastrand::u64(..));
        for (child, Planned { new, body }) in core.children().iter().zip(&plan.children) {
            let slot = Slot::new(around.path.join(&new.name), body.clone());
            names.push(slot.path.clone());
            slots.insert(child.id, slot);
        }
        // A former incarnation may have had others.
        around.board.keep_only(&around.path, &names);
        for (id, slot) in &slots {
            // The generations go on, so that who waits for the end of one is told.
            if let Some(before) = around.board.status(&slot.path) {
                core.resume(*id, before.generation, before.ended.clone());
            }
            around.board.enter(&slot.path, Arc::clone(&slot.output));
        }
        Self {
            core,
            path: around.path,
            slots,
            backend: around.backend,
            board: around.board,
            heard: Inbox::new(),
            told: Inbox::new(),
            commands: around.commands,
            ask: around.ask,
            outlet: around.outlet,
            pending: HashMap::new(),
            requests: 0,
            arriving: HashMap::new(),
            ending_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        self.step(Input::Begin);
        while !self.is_done() {
            match self.next().await {
                Happening::Heard(about, report) => self.step(Input::Report(about, told(report))),
                Happening::Told(about, told) => self.step(Input::Report(about, told)),
                Happening::Asked => self.asked(),
                Happening::Commanded(command) => self.command(command),
                Happening::Deadline => self.step(Input::Tick),
                Happening::Forlorn => break,
            }
        }
        self.refuse_commands().await;
        self.outlet.empty();
    }

    /// A command that is sent while the receiver goes would stay in the channel, unanswered,
    /// as long as there is a handle.
    async fn refuse_commands(&mut self) {
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            answer(command.reply, Err(ControlError::Ended));
        }
    }

    /// It has ended; and, for the one above, nothing is stuck.
    fn is_done(&self) -> bool {
        let nested = matches!(self.outlet, Outlet::Parent { .. });
        let stuck = || self.core.children().iter().any(Child::is_stuck);
        self.core.has_ended() && !(nested && stuck())
    }

    /// Reports come first: a deadline means that there were none.
    async fn next(&mut self) -> Happening {
        let deadline = self.core.deadline();
        let began = self.board.began();
        let deadline = deadline.and_then(|deadline| began.checked_add(deadline));
        tokio::select! {
            biased;
            Some((about, report)) = self.heard.from.recv() => Happening::Heard(about, report),
            Some((about, told)) = self.told.from.recv() => Happening::Told(about, told),
            Ok(()) = self.ask.changed() => Happening::Asked,
            Some(command) = self.commands.recv() => Happening::Commanded(command),
            () = self.outlet.closed(), if self.core.has_ended() => Happening::Forlorn,
            () = sleep_to(deadline) => Happening::Deadline,
        }
    }

    fn asked(&mut self) {
        let ask = *self.ask.borrow_and_update();
        let cause = match self.outlet {
            Outlet::Owner { .. } => Cause::User,
            Outlet::Parent { .. } => Cause::Parent,
        };
        if ask != Ask::Nothing {
            let now = ask == Ask::Kill;
            self.step(Input::Shutdown { now, cause });
        }
    }

    fn step(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.core.step(input, self.board.now(), &mut actions);
        if self.core.is_ending() && self.ending_since.is_none() {
            self.ending_since = Some(self.board.now());
        }
        self.carry_out(actions);
    }

    /// Carries out a request, or passes it on to a supervisor below.
    fn command(&mut self, mut command: Command) {
        let about_child = !matches!(command.verb, Verb::Add(_) | Verb::Reload(_));
        let own = if about_child { 1 } else { 0 };
        if command.path.len() > own {
            let first = command.path.remove(0);
            match self.supervisor_below(&first) {
                Ok(below) => pass_on(&below, command),
                Err(error) => answer(command.reply, Err(error)),
            }
            return;
        }
        if let Some(meant) = &command.meant
            && !self.board.has(&meant.path, meant.id)
        {
            let error = ControlError::NoSuchChild(meant.path.to_string());
            return answer(command.reply, Err(error));
        }
        if self.pending.len() >= REQUESTS_MAX {
            return answer(command.reply, Err(ControlError::Busy));
        }
        match self.request(command.path.pop().as_deref(), command.verb) {
            Ok(request) => {
                self.requests += 1;
                let id = RequestId(self.requests);
                self.pending.insert(id, command.reply);
                self.step(Input::Request(id, request));
                self.arriving.clear();
            }
            Err(error) => answer(command.reply, Err(error)),
        }
    }

    fn supervisor_below(&self, name: &str) -> Result<mpsc::Sender<Command>, ControlError> {
        let path = format!("{}/{name}", self.path);
        let mut slots = self.slots.values();
        let Some(slot) = slots.find(|slot| slot.path.as_str() == path) else {
            return Err(ControlError::NoSuchChild(path));
        };
        let name = || ChildName::new(name).map_err(|error| ControlError::Invalid(error.into()));
        match (&slot.body, &slot.commands) {
            (Body::Supervisor(_), Some(commands)) => Ok(commands.clone()),
            (Body::Supervisor(_), None) => Err(ControlError::NotRunning(name()?)),
            _ => Err(ControlError::NotASupervisor(name()?)),
        }
    }

    /// The request, in the core's words.
    fn request(&mut self, child: Option<&str>, verb: Verb) -> Result<Request, ControlError> {
        let name = || {
            let name = child.unwrap_or_default();
            ChildName::new(name).map_err(|error| ControlError::Invalid(error.into()))
        };
        Ok(match verb {
            Verb::Start => Request::Start(name()?),
            Verb::Stop => Request::Stop(name()?),
            Verb::Restart => Request::Restart(name()?),
            Verb::Remove => Request::Remove(name()?),
            Verb::Signal(signal, reach) => Request::Signal(name()?, signal, reach),
            Verb::Add(planned) => {
                let Planned { new, body } = *planned;
                self.arriving.insert(new.name.clone(), body);
                Request::Add(new)
            }
            Verb::Reload(plan) => {
                let Plan {
                    rules, children, ..
                } = *plan;
                let children = children.into_iter().map(|Planned { new, body }| {
                    let changed = !self.runs_already(&new.name, &body);
                    self.arriving.insert(new.name.clone(), body);
                    (new, changed)
                });
                let children = children.collect();
                Request::Reload(rules, children)
            }
        })
    }

    fn runs_already(&self, name: &ChildName, body: &Body) -> bool {
        let path = self.path.join(name);
        let mut slots = self.slots.values();
        slots.any(|slot| slot.path == path && slot.body.same(body))
    }
}

impl Slot {
    fn new(path: ChildPath, body: Body) -> Self {
        Self {
            path,
            output: body.ring(),
            body,
            running: None,
            commands: None,
            leavings: Leavings::default(),
        }
    }
}

impl<T> Inbox<T> {
    fn new() -> Self {
        let (to, from) = mpsc::unbounded_channel();
        Self { to, from }
    }
}

/// A backend's report, in the core's words.
fn told(report: Heard) -> Told {
    match report {
        Heard::Started {
            process,
            origin,
            scope,
        } => Told::Started(Some((process, origin, scope))),
        Heard::Ready => Told::Ready,
        Heard::Failed(error) => Told::Failed(Arc::new(error)),
        Heard::Exited(status) => Told::Exited(Ending::Process(status)),
        Heard::Empty => Told::Empty,
    }
}

fn answer(reply: oneshot::Sender<Result<(), ControlError>>, result: Result<(), ControlError>) {
    // Who dropped the future does not want to know.
    let _ = reply.send(result);
}

/// Without a deadline there is no timer at all.
async fn sleep_to(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
