//! The random driver: valid operations, chosen by the seed.

use kmonitor_event::{Comm, Pid, Tid};

use super::state::{Phase, State};
use super::{SimKernel, SimOperation};

/// How often each kind of operation is tried, relative to the others.
const WEIGHTS: [(Choice, u64); 18] = [
    (Choice::Spawn, 6),
    (Choice::Fork, 12),
    (Choice::CloneThread, 14),
    (Choice::Exec, 6),
    (Choice::ExitTask, 14),
    (Choice::LeaderFirst, 4),
    (Choice::BeginExit, 6),
    (Choice::FinishExit, 8),
    (Choice::ExitGroup, 6),
    (Choice::Kill, 3),
    (Choice::Coredump, 1),
    (Choice::Reap, 16),
    (Choice::Reuse, 8),
    (Choice::Comm, 1),
    (Choice::Ids, 1),
    (Choice::Sid, 1),
    (Choice::Ptrace, 1),
    (Choice::Other, 1),
];

#[derive(Debug, Clone, Copy)]
enum Choice {
    Spawn,
    Fork,
    CloneThread,
    Exec,
    ExitTask,
    LeaderFirst,
    BeginExit,
    FinishExit,
    ExitGroup,
    Kill,
    Coredump,
    Reap,
    Reuse,
    Comm,
    Ids,
    Sid,
    Ptrace,
    Other,
}

impl SimKernel {
    /// Does one operation that is valid now, chosen by the seed, and tells which.
    ///
    /// Over many steps there are processes and threads, execs by any thread,
    /// leaders that end first, threads that end with different codes, signals,
    /// reused ids, and zombies.
    pub fn step(&self) -> SimOperation {
        let operation = self.with(State::choose);
        // Time passes between choosing and doing, in which init may reap: then
        // the operation is refused, which is as harmless as it is real.
        let _refused = self.apply(operation);
        operation
    }

    /// Does so many steps.
    pub fn run(&self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }
}

impl State {
    fn choose(&mut self) -> SimOperation {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        // Bounded: where all tries are in vain (nothing lives), init forks.
        for _ in 0..16 {
            let mut ticket = self.rng.below(total);
            for (choice, weight) in WEIGHTS {
                if ticket < weight {
                    if let Some(operation) = self.realize(choice) {
                        return operation;
                    }
                    break;
                }
                ticket -= weight;
            }
        }
        SimOperation::Spawn
    }

    fn realize(&mut self, choice: Choice) -> Option<SimOperation> {
        let room = self.processes.len() < self.config.processes_max;
        let operation = match choice {
            Choice::Spawn => room.then_some(SimOperation::Spawn)?,
            Choice::Fork => SimOperation::Fork {
                parent: self.some_process(|_| true).filter(|_| room)?,
            },
            Choice::CloneThread => {
                let max = self.config.threads_max;
                SimOperation::CloneThread {
                    process: self.some_process(|threads| threads < max)?,
                }
            }
            Choice::Exec => SimOperation::Exec {
                tid: self.some_thread()?,
            },
            Choice::ExitTask => SimOperation::ExitTask {
                tid: self.some_thread()?,
                code: self.some_code(),
            },
            Choice::LeaderFirst => {
                let process = self.some_process(|threads| threads > 1)?;
                let tid = process.leader();
                let code = self.some_code();
                let live = self.live(tid).is_ok();
                live.then_some(SimOperation::ExitTask { tid, code })?
            }
            Choice::BeginExit => SimOperation::BeginExit {
                tid: self.some_thread()?,
                code: self.some_code(),
            },
            Choice::FinishExit => SimOperation::FinishExit {
                tid: self.some_exiting()?,
            },
            Choice::ExitGroup => SimOperation::ExitGroup {
                tid: self.some_thread()?,
                code: self.some_code(),
            },
            Choice::Kill => SimOperation::Kill {
                pid: self.some_process(|_| true)?,
                signal: self.rng.pick(&[9, 15, 1])?,
            },
            Choice::Coredump => SimOperation::Coredump {
                tid: self.some_thread()?,
                signal: self.rng.pick(&[6, 11])?,
                written: self.rng.chance(0.5),
            },
            Choice::Reap => SimOperation::Reap {
                pid: self.some_zombie()?,
            },
            Choice::Reuse => SimOperation::SetNextPid {
                pid: self.some_freed_pid()?,
            },
            Choice::Comm => SimOperation::SetComm {
                tid: self.some_thread()?,
                comm: Comm::new(self.rng.pick(&[&b"worker"[..], b"a b\n", b"\xff"])?),
            },
            Choice::Ids => {
                let tid = self.some_thread()?;
                let real = u32::try_from(self.rng.below(3)).unwrap_or_default();
                let effective = real;
                if self.rng.chance(0.5) {
                    SimOperation::SetUid {
                        tid,
                        real,
                        effective,
                    }
                } else {
                    SimOperation::SetGid {
                        tid,
                        real,
                        effective,
                    }
                }
            }
            Choice::Sid => SimOperation::SetSid {
                process: self.some_process(|_| true)?,
            },
            Choice::Ptrace => {
                let tid = self.some_thread()?;
                let attach = self.rng.chance(0.5);
                let tracer = self.some_process(|_| true).filter(|_| attach);
                SimOperation::Ptrace { tid, tracer }
            }
            Choice::Other => SimOperation::Other {
                what: 0x0800_0000,
                process: self.some_process(|_| true),
            },
        };
        Some(operation)
    }

    /// Few codes, so that threads of a process agree and differ about as often.
    fn some_code(&mut self) -> i32 {
        self.rng.pick(&[0, 0, 3, 7]).unwrap_or_default()
    }

    /// A process that can act and has this many threads; never init.
    fn some_process(&mut self, threads: impl Fn(usize) -> bool) -> Option<Pid> {
        let able: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(pid, it)| **pid != self.init && it.can_act() && threads(it.threads.len()))
            .map(|(pid, _)| *pid)
            .collect();
        self.rng.pick(&able)
    }

    /// A thread that can act; never init's.
    fn some_thread(&mut self) -> Option<Tid> {
        let pid = self.some_process(|_| true)?;
        let live: Vec<Tid> = self.processes.get(&pid)?.live_threads().collect();
        self.rng.pick(&live)
    }

    fn some_exiting(&mut self) -> Option<Tid> {
        let exiting: Vec<Tid> = self
            .processes
            .values()
            .flat_map(|process| &process.threads)
            .filter(|(_, phase)| matches!(phase, Phase::Exiting(_)))
            .map(|(tid, _)| *tid)
            .collect();
        self.rng.pick(&exiting)
    }

    fn some_zombie(&mut self) -> Option<Pid> {
        let zombies: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.death.is_some())
            .map(|(pid, _)| *pid)
            .collect();
        self.rng.pick(&zombies)
    }

    /// A pid whose last owner died of late and was reaped.
    fn some_freed_pid(&mut self) -> Option<Pid> {
        let freed: Vec<Pid> = self
            .deaths
            .iter()
            .rev()
            .take(16)
            .map(|death| death.pid)
            .filter(|pid| !self.tasks.contains_key(&pid.leader()))
            .collect();
        self.rng.pick(&freed)
    }
}
