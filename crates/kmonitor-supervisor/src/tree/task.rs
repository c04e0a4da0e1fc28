//! Children that are tokio tasks.

use std::any::Any;
use std::fmt;
use std::future::{Future, ready};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::plan::{ChildSpec, Common, Declared, common_settings};
use crate::Signal;
use crate::backend::{Incarnation, Reach, Running, Survivor};
use crate::core::Told;
use crate::words::{Ending, TaskEnd};

/// Why a task failed: any error.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// A child that is a tokio task.
///
/// Each incarnation calls the function anew. A panic counts as an abnormal end, an
/// error as a failure. To stop it, the token it was given is cancelled; when its
/// grace is over it is aborted.
#[derive(Debug, Clone)]
pub struct Task {
    name: String,
    common: Common,
    body: TaskBody,
}

#[derive(Clone)]
pub(crate) struct TaskBody(Arc<dyn Fn(CancellationToken) -> Work + Send + Sync>);

type Work = BoxFuture<'static, Result<(), TaskError>>;

impl Task {
    /// A child of this name, which does this. It is ready at once.
    ///
    /// ```
    /// use kmonitor_supervisor::Task;
    /// let beat = Task::new("beat", |stop| async move {
    ///     stop.cancelled().await;
    ///     Ok(())
    /// });
    /// # let _ = beat;
    /// ```
    pub fn new<F, W>(name: impl Into<String>, work: F) -> Self
    where
        F: Fn(CancellationToken) -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        Self {
            name: name.into(),
            common: Common::default(),
            body: TaskBody(Arc::new(move |stop| work(stop).boxed())),
        }
    }

    common_settings!();

    /// From the word to stop to being aborted; 10 s, unless told.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.common.stop.grace = grace;
        self
    }
}

impl From<Task> for ChildSpec {
    fn from(task: Task) -> Self {
        Self {
            name: task.name,
            common: task.common,
            body: Declared::Task(task.body),
        }
    }
}

impl fmt::Debug for TaskBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskBody")
    }
}

impl TaskBody {
    /// Begins an incarnation.
    pub(super) fn start(
        &self,
        about: Incarnation,
        to: mpsc::UnboundedSender<(Incarnation, Told)>,
    ) -> Box<dyn Running> {
        let stop = CancellationToken::new();
        let _ = to.send((about, Told::Started(None)));
        let _ = to.send((about, Told::Ready));
        let mut last_word = LastWord {
            about,
            to,
            end: TaskEnd::Aborted,
        };
        let (body, token) = (self.clone(), stop.clone());
        let task = tokio::spawn(async move {
            // The function itself may panic as well.
            let work = AssertUnwindSafe(async move { (body.0)(token).await });
            let end = match work.catch_unwind().await {
                Ok(Ok(())) => TaskEnd::Done,
                Ok(Err(error)) => TaskEnd::Failed(error.to_string().into()),
                Err(panic) => TaskEnd::Panicked(message(panic.as_ref()).into()),
            };
            last_word.is(end);
        });
        Box::new(RunningTask {
            stop,
            abort: task.abort_handle(),
        })
    }
}

/// Tells the end of a task when it is dropped, be it that the task is aborted.
struct LastWord {
    about: Incarnation,
    to: mpsc::UnboundedSender<(Incarnation, Told)>,
    end: TaskEnd,
}

impl LastWord {
    fn is(&mut self, end: TaskEnd) {
        self.end = end;
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let ending = Ending::Task(self.end.clone());
        let _ = self.to.send((self.about, Told::Exited(ending)));
        let _ = self.to.send((self.about, Told::Empty));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("something that is no text")
}

struct RunningTask {
    stop: CancellationToken,
    abort: AbortHandle,
}

impl Running for RunningTask {
    fn signal(&self, _: &[Signal], _: Reach) -> BoxFuture<'static, io::Result<()>> {
        // Tasks know one signal: to stop.
        self.stop.cancel();
        ready(Ok(())).boxed()
    }

    fn kill(&self) {
        self.abort.abort();
    }

    fn survivors(&self) -> BoxFuture<'static, Vec<Survivor>> {
        ready(Vec::new()).boxed()
    }
}
