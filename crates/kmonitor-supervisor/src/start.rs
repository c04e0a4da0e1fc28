//! Starting a tree on this system, without saying how.

use std::sync::Arc;

use kmonitor_hub::Hub;

use crate::backend::linux::LinuxBackend;
use crate::{BuildError, StartTreeError, SupervisorBuilder, Tree};

impl SupervisorBuilder {
    /// Starts all children as processes of this system, with the best that works here:
    /// a cgroup for each, else trees, followed by the proc connector if that works.
    /// Each child's status says which scope it really has. Where it is a tree, this program
    /// becomes a subreaper, with what that means for orphans of the application's own
    /// commands: see [`KillScope::Tree`](crate::spec::KillScope::Tree). Nothing is written
    /// down;
    /// for children that outlive this program see
    /// [`LinuxBackend::builder`](crate::backend::linux::LinuxBackend::builder) and
    /// [`start_on`](Self::start_on).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kmonitor_supervisor::{Service, Supervisor};
    ///
    /// let tree = Supervisor::builder("app")
    ///     .child(Service::command("worker", "sleep").arg("1000"))
    ///     .start()
    ///     .await?;
    /// let report = tree.shutdown().await;
    /// assert!(report.is_clean());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`start_on`](Self::start_on).
    ///
    /// # Cancel safety
    /// Dropped before it resolves, what was started is stopped in the background.
    ///
    /// # Minimum kernel version
    /// 5.4; see [`backend::linux`](crate::backend::linux) for what is better later.
    pub async fn start(self) -> Result<Tree, StartTreeError> {
        let tree = self.begin().await?;
        tree.ready().await?;
        Ok(tree)
    }

    /// Begins to start all children, as [`start`](Self::start) does, and does not wait
    /// for that, so that a signal can end the tree meanwhile.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kmonitor_supervisor::{Service, Supervisor};
    ///
    /// let tree = Supervisor::builder("app")
    ///     .child(Service::command("worker", "sleep").arg("1000"))
    ///     .begin()
    ///     .await?;
    /// tree.run_until_signal().await?.result()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The declaration makes no sense.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, nothing was started.
    ///
    /// # Minimum kernel version
    /// As [`start`](Self::start).
    pub async fn begin(self) -> Result<Tree, BuildError> {
        let mut builder = LinuxBackend::builder();
        match Hub::open().await {
            Ok(hub) => builder = builder.hub(hub),
            Err(error) => tracing::info!(%error, "no events: processes are held and scanned for"),
        }
        let backend = builder.build_without_state();
        self.begin_on(Arc::new(backend))
    }
}
