//! Requests on their way to the supervisor that they concern.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::board::EntryId;
use super::plan::{Plan, Planned};
use crate::Signal;
use crate::backend::Reach;
use crate::spec::ChildPath;
use crate::words::ControlError;

/// So many requests may wait to be read by a supervisor, and as many to be answered.
pub(super) const REQUESTS_MAX: usize = 1024;

pub(super) type Reply = oneshot::Sender<Result<(), ControlError>>;

pub(super) struct Command {
    /// The names from the supervisor that reads this to the child that is meant; of
    /// [`Verb::Add`] and [`Verb::Reload`], to the supervisor.
    pub(super) path: Vec<String>,
    pub(super) meant: Option<Meant>,
    pub(super) verb: Verb,
    pub(super) reply: Reply,
}

/// The child that a handle is of: another one of its name is not meant.
pub(super) struct Meant {
    pub(super) path: ChildPath,
    pub(super) id: EntryId,
}

pub(super) enum Verb {
    Start,
    Stop,
    Restart,
    Signal(Signal, Reach),
    Remove,
    Add(Box<Planned>),
    Reload(Box<Plan>),
}

/// A request that has been made; a future of its outcome.
///
/// The request is made when the method is called, not when this is first polled, and
/// dropping this does not take it back. It resolves when the effect is visible.
///
/// # Cancel safety
/// Can be polled, kept and dropped at will.
#[must_use = "the request is made, but whether it succeeded is only told to who awaits it"]
#[derive(Debug)]
pub struct Requested {
    answer: oneshot::Receiver<Result<(), ControlError>>,
}

impl Requested {
    /// Hands a request to a supervisor.
    pub(super) fn make(
        to: &mpsc::Sender<Command>,
        path: Vec<String>,
        meant: Option<Meant>,
        verb: Verb,
    ) -> Self {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            path,
            meant,
            verb,
            reply,
        };
        pass_on(to, command);
        Self { answer }
    }

    /// One that failed before it was made.
    pub(super) fn refused(error: ControlError) -> Self {
        let (reply, answer) = oneshot::channel();
        let _ = reply.send(Err(error));
        Self { answer }
    }
}

/// Hands a command to a supervisor, or answers why not.
pub(super) fn pass_on(to: &mpsc::Sender<Command>, command: Command) {
    let (command, error) = match to.try_send(command) {
        Ok(()) => return,
        Err(mpsc::error::TrySendError::Full(command)) => (command, ControlError::Busy),
        Err(mpsc::error::TrySendError::Closed(command)) => (command, ControlError::Ended),
    };
    let _ = command.reply.send(Err(error));
}

impl Future for Requested {
    type Output = Result<(), ControlError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        // A supervisor that ended has answered all; its task may be gone, though.
        answer.map(|answer| answer.unwrap_or(Err(ControlError::Ended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sim::Sim;
    use crate::{Service, Supervisor};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_the_supervisor_goes_is_told_that_it_has_ended() {
        let tree = Supervisor::builder("app").child(Service::command("a", "a"));
        let tree = tree.start_on(Arc::new(Sim::new())).await.unwrap();
        let handle = tree.handle();
        let place = handle.commands.reserve().await.unwrap();
        handle.shutdown();
        handle.commands.closed().await;
        let (reply, answer) = oneshot::channel();
        place.send(Command {
            path: vec!["a".to_owned()],
            meant: None,
            verb: Verb::Start,
            reply,
        });
        let asked = timeout(Duration::from_secs(1), Requested { answer }).await;
        let refused = asked.expect("nobody will answer").unwrap_err();
        assert!(matches!(refused, ControlError::Ended), "{refused:?}");
        assert!(tree.wait().await.is_clean());
    }
}
