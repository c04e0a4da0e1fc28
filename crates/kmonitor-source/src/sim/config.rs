//! What a simulated kernel is like.

/// Which kind of source the simulated kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SimMode {
    /// As the proc connector: the facts of every task of every process, through a
    /// bounded queue that loses what does not fit.
    #[default]
    Tasks,
    /// As pidfds: only death and reaping, only of the processes that are wanted
    /// by name, and without loss.
    Named,
}

/// What a simulated kernel is like. Two kernels with equal configurations, on
/// which the same operations are called, behave the same.
///
/// ```
/// use kmonitor_source::sim::{SimConfig, SimKernel, SimMode};
/// let config = SimConfig::default()
///     .seed(7)
///     .mode(SimMode::Tasks)
///     .pid_max(50)
///     .exit_delay(0.3)
///     .queue_facts_max(64);
/// let kernel = SimKernel::new(config);
/// kernel.run(100);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SimConfig {
    /// Where all chance comes from.
    pub seed: u64,
    /// Which kind of source the kernel offers.
    pub mode: SimMode,
    /// How many facts the kernel keeps for a slow reader ([`SimMode::Tasks`]).
    pub queue_facts_max: usize,
    /// Whether, as long as nothing is wanted of the host, the kernel tells only
    /// of the processes that are wanted by name: a fork where it is of either
    /// side, everything else by process ([`SimMode::Tasks`]).
    pub filter: bool,
    /// The largest process or thread id. A small one makes pids be reused soon.
    /// Kept within 2 and 2³¹ − 1.
    pub pid_max: i32,
    /// How likely the exit fact of a task is queued later than the moment of its
    /// death: a parent may then have reaped it, and its pid may belong to another
    /// process already. From 0 to 1.
    pub exit_delay: f64,
    /// How likely the exit fact of a thread that an exec ended is queued after
    /// the fact of the exec. From 0 to 1.
    pub exec_exit_delay: f64,
    /// Whether the probe may read the statuses of zombies.
    pub status_readable: bool,
    /// Whether processes have inodes (Linux 6.9). Without, the probe knows them
    /// by a start time in ticks of 10 ms, which early reuse can fool.
    pub pidfs: bool,
    /// Whether who waited through the reaping learns the status (Linux 6.15).
    pub pidfd_info: bool,
    /// Whether a loss tells its count.
    pub count_losses: bool,
    /// Whether init reaps the orphans that were handed to it.
    pub init_reaps: bool,
    /// The random driver keeps the number of processes below this.
    pub processes_max: usize,
    /// The random driver keeps the number of threads of a process below this.
    pub threads_max: usize,
}

impl Default for SimConfig {
    /// Seed 0, tasks, a queue of 4096 facts, 32 768 pids, nothing delayed,
    /// everything readable.
    fn default() -> Self {
        Self {
            seed: 0,
            mode: SimMode::Tasks,
            queue_facts_max: 4096,
            filter: false,
            pid_max: 32_768,
            exit_delay: 0.0,
            exec_exit_delay: 0.0,
            status_readable: true,
            pidfs: true,
            pidfd_info: true,
            count_losses: true,
            init_reaps: true,
            processes_max: 64,
            threads_max: 6,
        }
    }
}

macro_rules! setters {
    ($($name:ident: $type:ty),+ $(,)?) => {
        impl SimConfig {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
                #[must_use]
                pub const fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )+
        }
    };
}

setters! {
    seed: u64,
    mode: SimMode,
    queue_facts_max: usize,
    filter: bool,
    pid_max: i32,
    exit_delay: f64,
    exec_exit_delay: f64,
    status_readable: bool,
    pidfs: bool,
    pidfd_info: bool,
    count_losses: bool,
    init_reaps: bool,
    processes_max: usize,
    threads_max: usize,
}
