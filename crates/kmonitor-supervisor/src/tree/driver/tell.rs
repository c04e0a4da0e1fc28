//! Telling how the children are, and how they ended.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Driver, Slot};
use crate::core::{Child, Goal, Run};
use crate::spec::ChildPath;
use crate::tree::board::News;
use crate::words::{ChildReport, ChildState, ChildStatus, End, Report};

impl Driver {
    /// Puts what changed on the board.
    pub(super) fn tell(&mut self, news: Vec<News>) {
        let mut statuses = Vec::new();
        for child in self.core.take_dirty() {
            let Some(slot) = self.slots.get_mut(&child.id) else {
                continue;
            };
            if child.is_down() {
                slot.running = None;
                slot.commands = None;
            }
            statuses.push(status(child, &slot.path));
        }
        self.board.publish(statuses, news);
    }

    pub(super) fn report(&self, end: End) -> Report {
        let mut children = Vec::new();
        let mut below = Vec::new();
        for child in self.core.children() {
            if let Some(slot) = self.slots.get(&child.id) {
                children.push(child_report(child, slot));
                let leavings = slot.leavings.lock();
                below.extend_from_slice(&leavings.unwrap_or_else(PoisonError::into_inner));
            }
        }
        children.append(&mut below);
        let since = self.ending_since.unwrap_or(Duration::MAX);
        Report {
            end,
            children,
            took: self.board.now().saturating_sub(since),
        }
    }
}

fn child_report(child: &Child, slot: &Slot) -> ChildReport {
    let ended = child.ended.as_ref();
    ChildReport {
        path: slot.path.clone(),
        ending: ended
            .filter(|(generation, _)| *generation == child.generation)
            .map(|(_, ending)| ending.clone()),
        killed: child.stopped.killed,
        survivors: child.survivors().cloned().unwrap_or_default(),
        stuck: child.is_stuck(),
        took: child.stopped.took,
    }
}

fn status(child: &Child, path: &ChildPath) -> ChildStatus {
    let state = match &child.run {
        Run::Down if child.goal == Goal::Up => ChildState::Waiting {
            until: child.not_before,
        },
        Run::Down => ChildState::Down,
        Run::Starting { .. } => ChildState::Starting,
        Run::Ready { .. } => ChildState::Ready,
        Run::Stopping { .. } => match child.survivors() {
            Some(survivors) => ChildState::Stuck {
                survivors: survivors.clone(),
            },
            None => ChildState::Stopping,
        },
    };
    ChildStatus {
        path: path.clone(),
        state,
        generation: child.generation,
        process: child.process.map(|(process, _, _)| process),
        origin: child.process.map(|(_, origin, _)| origin),
        scope: child.process.map(|(_, _, scope)| scope),
        restarts: child.restarts,
        ended: child.ended.clone(),
        failure: child.failure.clone(),
    }
}
