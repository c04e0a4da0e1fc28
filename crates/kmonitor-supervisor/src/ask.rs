//! Asking a task for something, by the channel that it listens to.

use tokio::sync::{mpsc, oneshot};

/// Asks, and waits for the answer. `None` if the task has ended, or ends meanwhile.
pub(crate) async fn ask<Q, A>(
    task: &mpsc::Sender<Q>,
    question: impl FnOnce(oneshot::Sender<A>) -> Q,
) -> Option<A> {
    let place = task.reserve().await.ok()?;
    let (reply, answer) = oneshot::channel();
    place.send(question(reply));
    answered(task, answer).await
}

/// Waits for the answer to what was asked. `None` if the task has ended without one.
///
/// Not for the answer alone: a question that is sent while the receiver goes stays in the
/// channel, its reply with it, as long as there is a sender.
pub(crate) async fn answered<Q, A>(
    task: &mpsc::Sender<Q>,
    mut answer: oneshot::Receiver<A>,
) -> Option<A> {
    tokio::select! {
        biased;
        answer = &mut answer => answer.ok(),
        () = task.closed() => answer.try_recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// Time that is paused goes on at once where nobody can do anything else.
    #[tokio::test(start_paused = true)]
    async fn who_asks_while_the_task_goes_does_not_wait_for_ever() {
        let (task, questions) = mpsc::channel::<oneshot::Sender<()>>(1);
        let asked = ask(&task, |reply| {
            drop(questions);
            reply
        });
        let asked = timeout(Duration::from_secs(1), asked).await;
        assert_eq!(asked.expect("nobody will answer"), None);
    }

    #[tokio::test]
    async fn what_was_answered_before_the_task_went_is_told() {
        let (task, mut questions) = mpsc::channel::<oneshot::Sender<u8>>(1);
        let answering = async move { questions.recv().await.unwrap().send(7).unwrap() };
        let (answer, ()) = tokio::join!(ask(&task, |reply| reply), answering);
        assert_eq!(answer, Some(7));
    }
}
