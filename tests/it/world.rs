//! One kernel to act on and a hub that watches it, real or simulated, so that
//! the same test bodies run over every source.

use kmonitor::source::sim::{SimConfig, SimKernel, SimMode};
use kmonitor::{Hub, Pid, SourceKind, Tid};
use kmonitor_tests::Puppets;

use crate::PUPPET;

/// Which source the hub reads, and with it which kernel it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The proc connector of this kernel.
    Connector,
    /// Pidfds of this kernel.
    Pidfd,
    /// A simulated kernel that tells of every task.
    SimTasks,
    /// A simulated kernel that tells of the ends of named processes.
    SimNamed,
}

impl Source {
    pub(crate) fn kind(self) -> SourceKind {
        match self {
            Self::Connector => SourceKind::Connector,
            Self::Pidfd => SourceKind::Pidfd,
            Self::SimTasks | Self::SimNamed => SourceKind::Simulated,
        }
    }

    /// The world and a hub that watches it through this source.
    pub(crate) async fn open(self) -> (World, Hub) {
        let mode = match self {
            Self::SimTasks => SimMode::Tasks,
            Self::SimNamed => SimMode::Named,
            Self::Connector | Self::Pidfd => {
                let hub = Hub::builder().only(self.kind()).open().await.unwrap();
                return (World::Real(Puppets::start(PUPPET).unwrap()), hub);
            }
        };
        let kernel = SimKernel::new(SimConfig::default().seed(1).mode(mode));
        let hub = Hub::builder()
            .source(kernel.source())
            .probe(kernel.probe())
            .open();
        let hub = hub.await.unwrap();
        (World::Simulated(kernel), hub)
    }
}

/// What test bodies do to processes.
pub(crate) enum World {
    Real(Puppets),
    Simulated(SimKernel),
}

fn pid(raw: i32) -> Pid {
    Pid::new(raw).unwrap()
}

impl World {
    pub(crate) fn spawn(&mut self) -> Pid {
        match self {
            Self::Real(puppets) => pid(puppets.spawn().unwrap()),
            Self::Simulated(kernel) => kernel.spawn().unwrap(),
        }
    }

    pub(crate) fn fork(&mut self, parent: Pid) -> Pid {
        match self {
            Self::Real(puppets) => pid(puppets.fork(parent.as_raw()).unwrap()),
            Self::Simulated(kernel) => kernel.fork(parent).unwrap(),
        }
    }

    pub(crate) fn exec(&mut self, process: Pid) {
        match self {
            Self::Real(puppets) => puppets.exec(process.as_raw()).unwrap(),
            Self::Simulated(kernel) => kernel.exec(process.leader()).unwrap(),
        }
    }

    pub(crate) fn thread(&mut self, process: Pid) -> Tid {
        match self {
            Self::Real(puppets) => Tid::new(puppets.thread(process.as_raw()).unwrap()).unwrap(),
            Self::Simulated(kernel) => kernel.clone_thread(process).unwrap(),
        }
    }

    pub(crate) fn end_thread(&mut self, process: Pid, tid: Tid) {
        match self {
            Self::Real(puppets) => puppets.end_thread(process.as_raw(), tid.as_raw()).unwrap(),
            Self::Simulated(kernel) => kernel.exit_task(tid, 0).unwrap(),
        }
    }

    /// It is a zombie when this returns.
    pub(crate) fn exit(&mut self, process: Pid, code: u8) {
        match self {
            Self::Real(puppets) => puppets.exit(process.as_raw(), code).unwrap(),
            Self::Simulated(kernel) => kernel
                .exit_group(process.leader(), i32::from(code))
                .unwrap(),
        }
    }

    /// It is a zombie when this returns.
    pub(crate) fn kill(&mut self, process: Pid, signal: i32) {
        match self {
            Self::Real(puppets) => puppets.kill(process.as_raw(), signal).unwrap(),
            Self::Simulated(kernel) => kernel.kill(process, signal).unwrap(),
        }
    }

    /// The oracle: what its parent's `waitpid` says.
    pub(crate) fn reap(&mut self, process: Pid) -> i32 {
        match self {
            Self::Real(puppets) => puppets.reap(process.as_raw()).unwrap(),
            Self::Simulated(kernel) => kernel.reap(process).unwrap(),
        }
    }

    /// The queue overflows by so many events.
    ///
    /// # Panics
    /// On the real kernel, where no test can say so.
    pub(crate) fn lose(&mut self, count: u64) {
        match self {
            Self::Real(_) => panic!("only a simulated kernel loses events when told to"),
            Self::Simulated(kernel) => assert!(kernel.lose(count)),
        }
    }
}
