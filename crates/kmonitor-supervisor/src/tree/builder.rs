//! Declaring a supervisor.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::owner::Tree;
use super::plan::{ChildSpec, Common, Declared, Plan};
use super::schedule::Schedule;
use super::task::{Task, TaskError};
use crate::backend::Backend;
use crate::core::Rules;
use crate::spec::{AutoShutdown, Backoff, Intensity, Restart, Strategy};
use crate::words::{BuildError, StartTreeError};

/// Where a tree begins.
#[derive(Debug, Clone, Copy)]
pub struct Supervisor;

/// A supervisor and its children, as declared.
///
/// Children are started in the order in which they are declared, each when those
/// before it are ready, and stopped in reverse. What is wrong with a declaration
/// (a name, two children with one name) is told by [`start_on`](Self::start_on).
#[derive(Debug, Clone)]
pub struct SupervisorBuilder {
    pub(crate) name: String,
    pub(crate) rules: Rules,
    pub(crate) children: Vec<ChildSpec>,
    common: Common,
}

impl Supervisor {
    /// A supervisor of this name.
    pub fn builder(name: impl Into<String>) -> SupervisorBuilder {
        SupervisorBuilder {
            name: name.into(),
            rules: Rules::default(),
            children: Vec::new(),
            common: Common::default(),
        }
    }
}

impl SupervisorBuilder {
    /// What else is restarted when one child is. Nothing, unless told.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.rules.strategy = strategy;
        self
    }

    /// So many restarts are borne within a period; one more, and this supervisor ends,
    /// which to the one above it is an abnormal end. 5 in 30 s, unless told.
    #[must_use]
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.rules.intensity = Intensity::new(restarts, period);
        self
    }

    /// Whether it ends when significant children have ended by themselves and are not
    /// restarted.
    #[must_use]
    pub fn auto_shutdown(mut self, when: AutoShutdown) -> Self {
        self.rules.auto_shutdown = when;
        self
    }

    /// One more child: a [`Service`](super::Service), a [`Task`] or another builder.
    #[must_use]
    pub fn child(mut self, child: impl Into<ChildSpec>) -> Self {
        self.children.push(child.into());
        self
    }

    /// One more child, a task with the usual settings. See [`Task`].
    #[must_use]
    pub fn task<F, W>(self, name: impl Into<String>, work: F) -> Self
    where
        F: Fn(CancellationToken) -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        self.child(Task::new(name, work))
    }

    /// One more child, a supervisor.
    #[must_use]
    pub fn supervisor(self, builder: SupervisorBuilder) -> Self {
        self.child(builder)
    }

    /// As another supervisor's child: which ends make it be started again. On failure,
    /// unless told: when it gave up, but not when it ended with a significant child.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.common.restart = restart;
        self
    }

    /// As another supervisor's child: how long restarts are put off.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.common.backoff = backoff;
        self
    }

    /// As another supervisor's child: that one may end with it.
    #[must_use]
    pub fn significant(mut self) -> Self {
        self.common.significant = true;
        self
    }

    /// What will happen, to be read by people: order of start and stop, time limits,
    /// waits before restarts.
    ///
    /// # Errors
    /// The declaration makes no sense.
    pub fn schedule(&self) -> Result<Schedule, BuildError> {
        Plan::check(self).map(|plan| Schedule::of(&plan))
    }

    /// Starts all children on a backend. Resolves when every one is ready.
    ///
    /// # Errors
    /// The declaration makes no sense; or a child was not ready in time, did not start,
    /// or was restarted too often: then all were stopped again, in reverse order, and
    /// the error names the child.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, what was started is stopped in the background.
    pub async fn start_on(self, backend: Arc<dyn Backend>) -> Result<Tree, StartTreeError> {
        let tree = self.begin_on(backend)?;
        tree.ready().await?;
        Ok(tree)
    }

    /// Begins to start all children on a backend, as [`start_on`](Self::start_on) does,
    /// and does not wait for that: see [`Tree::ready`]. The tree can be asked, and be
    /// told to stop, from here on; so this is how a program begins that shall be ended
    /// by a signal in good order while it starts, too:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use kmonitor_supervisor::backend::sim::Sim;
    /// # use kmonitor_supervisor::{Service, Supervisor};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tree = Supervisor::builder("app")
    ///     .child(Service::command("worker", "worker"))
    ///     .begin_on(Arc::new(Sim::new()))?;
    /// tree.handle().shutdown();
    /// assert!(tree.ready().await.is_err());
    /// assert!(tree.wait().await.is_clean());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The declaration makes no sense.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn begin_on(self, backend: Arc<dyn Backend>) -> Result<Tree, BuildError> {
        Ok(Tree::begin(&Plan::check(&self)?, backend))
    }
}

impl From<SupervisorBuilder> for ChildSpec {
    fn from(builder: SupervisorBuilder) -> Self {
        Self {
            name: builder.name.clone(),
            common: builder.common.clone(),
            body: Declared::Supervisor(Box::new(builder)),
        }
    }
}
