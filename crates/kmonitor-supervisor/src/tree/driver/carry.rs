//! Doing what the core says.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Driver, Slot, Surroundings, answer};
use crate::Signal;
use crate::backend::{Incarnation, Launch, Reach, Reports, Running};
use crate::core::{Action, ChildId, RequestId, Told};
use crate::tree::board::News;
use crate::tree::command::REQUESTS_MAX;
use crate::tree::nested::{Ask, Nested};
use crate::tree::outcome::Outlet;
use crate::tree::plan::{Body, Plan};
use crate::words::{ControlError, End};

/// How long is waited for who is left of a child: looking at a process can wait as long as
/// that waits for a device.
const SURVIVORS_PATIENCE: Duration = Duration::from_secs(10);

impl Driver {
    /// What can be seen is told first, so that whoever is answered sees it.
    pub(super) fn carry_out(&mut self, actions: Vec<Action>) {
        let mut news = Vec::new();
        for action in &actions {
            match action {
                Action::Added(id, name) => {
                    if let Some(body) = self.arriving.remove(name) {
                        let slot = Slot::new(self.path.join(name), body);
                        self.board.enter(&slot.path, Arc::clone(&slot.output));
                        self.slots.insert(*id, slot);
                    }
                }
                Action::Changed(id, name) => {
                    if let Some(slot) = self.slots.get_mut(id)
                        && let Some(body) = self.arriving.remove(name)
                    {
                        slot.output = body.ring();
                        slot.body = body;
                        self.board.enter(&slot.path, Arc::clone(&slot.output));
                    }
                }
                Action::Event(about, kind, cause) => {
                    let path = match about {
                        None => Some(&self.path),
                        Some(id) => self.slots.get(id).map(|slot| &slot.path),
                    };
                    news.extend(path.map(|path| News {
                        path: path.clone(),
                        kind: kind.clone(),
                        cause: cause.clone(),
                    }));
                }
                _ => {}
            }
        }
        self.tell(news);
        for action in actions {
            self.carry_out_one(action);
        }
    }

    fn carry_out_one(&mut self, action: Action) {
        match action {
            Action::Launch(about) => self.launch(about),
            Action::Stop(id, signal) => self.stop(id, signal),
            Action::Kill(id) => {
                if let Some(running) = self.running(id) {
                    running.kill();
                }
            }
            Action::AskSurvivors(about) => {
                let left = self.running(about.child).map(Running::survivors);
                let told = self.told.to.clone();
                tokio::spawn(async move {
                    let left = match left {
                        Some(left) => tokio::time::timeout(SURVIVORS_PATIENCE, left).await,
                        None => Ok(Vec::new()),
                    };
                    let left = left.unwrap_or_else(|_| {
                        tracing::warn!(?about, "it is not told in time who is left");
                        Vec::new()
                    });
                    // Without a supervisor nobody needs to know.
                    let _ = told.send((about, Told::Survivors(left)));
                });
            }
            Action::Signal(id, signal, reach, request) => {
                self.signal(id, signal, reach, request);
            }
            Action::Removed(id) => {
                if let Some(slot) = self.slots.remove(&id) {
                    self.board.forget(&slot.path);
                }
            }
            Action::Answer(request, result) => {
                if let Some(reply) = self.pending.remove(&request) {
                    answer(reply, result);
                }
            }
            Action::Up => self.outlet.up(),
            Action::Ended(end) => self.ended(end),
            Action::Added(..) | Action::Changed(..) | Action::Event(..) => {}
        }
    }

    fn running(&self, id: ChildId) -> Option<&dyn Running> {
        self.slots.get(&id)?.running.as_deref()
    }

    fn launch(&mut self, about: Incarnation) {
        let Some(slot) = self.slots.get(&about.child) else {
            return;
        };
        let scope = self.core.scope_of(about.child);
        let running = match &slot.body {
            Body::Process(spec) => {
                let launch = Launch::new(
                    slot.path.clone(),
                    about.generation,
                    Arc::clone(spec),
                    scope,
                    Arc::clone(&slot.output),
                );
                let reports = Reports::new(about, self.heard.to.clone());
                self.backend.start(launch, reports)
            }
            Body::Task(body) => body.start(about, self.told.to.clone()),
            Body::Supervisor(plan) => {
                let plan = Arc::clone(plan);
                self.launch_supervisor(about, &plan)
            }
        };
        if let Some(slot) = self.slots.get_mut(&about.child) {
            slot.running = Some(running);
        }
    }

    fn launch_supervisor(&mut self, about: Incarnation, plan: &Plan) -> Box<dyn Running> {
        let (commands, inbox) = mpsc::channel(REQUESTS_MAX);
        let (ask, asked) = watch::channel(Ask::Nothing);
        let slot = self.slots.get_mut(&about.child);
        let (path, leavings) = match slot {
            Some(slot) => {
                slot.commands = Some(commands);
                (slot.path.clone(), Arc::clone(&slot.leavings))
            }
            None => (self.path.join(&plan.name), Default::default()),
        };
        let _ = self.told.to.send((about, Told::Started(None)));
        let around = Surroundings {
            path,
            backend: Arc::clone(&self.backend),
            board: Arc::clone(&self.board),
            commands: inbox,
            ask: asked,
            outlet: Outlet::Parent {
                about,
                told: self.told.to.clone(),
                leavings: Arc::clone(&leavings),
                ended: false,
            },
        };
        tokio::spawn(Driver::new(plan, around).run());
        Box::new(Nested { ask, leavings })
    }

    /// The word to stop. A stopped process hears it only once it goes on.
    fn stop(&self, id: ChildId, signal: Signal) {
        let Some(running) = self.running(id) else {
            return;
        };
        let sent = running.signal(&[signal, Signal::CONT], Reach::Scope);
        let supervisor = self.path.clone();
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                // The ladder goes on, to what cannot be refused.
                tracing::warn!(%supervisor, child = id, %error, "cannot send {signal}");
            }
        });
    }

    fn signal(&mut self, id: ChildId, signal: Signal, reach: Reach, request: RequestId) {
        let Some(reply) = self.pending.remove(&request) else {
            return;
        };
        let Some(child) = self.core.name_of(id) else {
            return answer(reply, Err(ControlError::Ended));
        };
        let Some(running) = self.running(id) else {
            return answer(reply, Err(ControlError::NotRunning(child)));
        };
        let sent = running.signal(&[signal], reach);
        tokio::spawn(async move {
            let result = sent.await.map_err(|error| ControlError::Signal {
                child,
                error: Arc::new(error),
            });
            answer(reply, result);
        });
    }

    fn ended(&mut self, end: End) {
        let report = self.report(end);
        if matches!(self.outlet, Outlet::Owner { .. }) {
            self.board.end();
        }
        self.outlet.ended(report);
    }
}
