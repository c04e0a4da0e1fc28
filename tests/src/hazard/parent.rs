//! Creates, announces, releases and reaps the processes of one run.
//!
//! This process has one thread, or it could not fork safely.

use std::collections::HashSet;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::path::PathBuf;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, setrlimit, wait,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::child::{self, Gates, LateGate, Plan};
use super::report::Report;
use super::{Args, sys};
use crate::scenario::Scenario;

pub(super) fn run(args: &Args) -> io::Result<()> {
    sys::alarm(args.timeout_s);
    sys::default_action(Signal::CHILD);
    no_core_dumps()?;
    if args.pin {
        pin()?;
    }
    let mut run = Run {
        args,
        report: Report::new(),
        // Not /proc/self/exe: that link is gone once the leader is a zombie.
        program: std::env::current_exe()?,
        alive: HashSet::new(),
        created: 0,
        reused: None,
    };
    if args.scenario == Scenario::Storm {
        run.storm()
    } else if args.hold || args.late {
        run.batches()
    } else {
        run.rolling()
    }
}

/// A limit of 1, not of 0: a `core_pattern` that pipes to a program ignores 0,
/// and no format dumps into one byte.
fn no_core_dumps() -> io::Result<()> {
    let maximum = getrlimit(Resource::Core).maximum;
    let limit = Rlimit {
        current: Some(maximum.map_or(1, |maximum| maximum.min(1))),
        maximum,
    };
    Ok(setrlimit(Resource::Core, limit)?)
}

fn pin() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    if let Some(cpu) = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)) {
        one.set(cpu);
    }
    Ok(sched_setaffinity(None, &one)?)
}

struct Run<'a> {
    args: &'a Args,
    report: Report,
    program: PathBuf,
    alive: HashSet<Pid>,
    created: usize,
    /// The pid that every process of `reuse` has.
    reused: Option<Pid>,
}

/// The parent's ends of a batch's pipes. Closing one releases all processes
/// that read from the other end, at once.
struct Batch {
    go: Option<PipeWriter>,
    late: Option<(PipeReader, PipeWriter)>,
}

impl Run<'_> {
    fn storm(&mut self) -> io::Result<()> {
        if self.args.hold {
            self.report.ask()?;
        }
        let mut stack = sys::VforkStack::new();
        while self.created < self.args.count {
            let pid = sys::vfork_exit(&mut stack)?;
            self.created += 1;
            self.alive.insert(pid);
            while self.alive.len() >= self.args.concurrency() {
                self.reap(WaitOptions::empty())?;
            }
        }
        self.reap_all()?;
        self.report.storm(self.created)
    }

    fn rolling(&mut self) -> io::Result<()> {
        while self.created < self.args.count {
            match self.create(Gates::open()) {
                Ok(_) => while self.reap(WaitOptions::NOHANG)? {},
                // The table is full: make room.
                Err(error) if is_full(&error) && !self.alive.is_empty() => {
                    self.reap(WaitOptions::empty())?;
                }
                Err(error) => return Err(error),
            }
            while self.alive.len() >= self.args.concurrency() {
                self.reap(WaitOptions::empty())?;
            }
        }
        self.reap_all()
    }

    fn batches(&mut self) -> io::Result<()> {
        while self.created < self.args.count {
            let size = self.args.concurrency().min(self.args.count - self.created);
            self.batch(size)?;
        }
        Ok(())
    }

    fn batch(&mut self, size: usize) -> io::Result<()> {
        let (batch, gates) = self.pipes()?;
        let mut batch = Some(batch);
        let mut gates = Some(gates);
        let mut pids = Vec::with_capacity(size);
        for _ in 0..size {
            pids.push(self.create_in(&mut batch, &mut gates)?);
        }
        // The parent's copies of the children's ends: with them open, a batch
        // that died without a word would never be noticed.
        drop(gates);
        let Some(Batch { go, late }) = batch else {
            return Ok(());
        };

        if self.args.hold {
            for pid in pids {
                self.report.announce("ready", pid.as_raw_pid())?;
            }
            self.report.ask()?;
        }
        drop(go);
        if let Some((mut arrived, late)) = late {
            for _ in 0..size {
                let mut pid = [0; size_of::<i32>()];
                arrived
                    .read_exact(&mut pid)
                    .map_err(|error| io::Error::other(format!("before its late point: {error}")))?;
                self.report.announce("late", i32::from_ne_bytes(pid))?;
            }
            self.report.ask()?;
            drop(late);
        }
        self.reap_all()
    }

    fn pipes(&self) -> io::Result<(Batch, Gates)> {
        let mut batch = Batch {
            go: None,
            late: None,
        };
        let mut gates = Gates::open();
        if self.args.hold {
            let (reader, writer) = io::pipe()?;
            gates.go = Some(reader);
            batch.go = Some(writer);
        }
        if self.args.late {
            let (arrived, arrive) = io::pipe()?;
            let (release, late) = io::pipe()?;
            gates.late = Some(LateGate { arrive, release });
            batch.late = Some((arrived, late));
        }
        Ok((batch, gates))
    }

    /// Creates one process of a batch: in it, the parent's ends are closed,
    /// or it would hold its own gate shut.
    fn create_in(
        &mut self,
        batch: &mut Option<Batch>,
        gates: &mut Option<Gates>,
    ) -> io::Result<Pid> {
        self.fork(|| {
            drop(batch.take());
            gates.take().unwrap_or_else(Gates::open)
        })
    }

    fn create(&mut self, gates: Gates) -> io::Result<Pid> {
        self.fork(|| gates)
    }

    fn fork(&mut self, gates: impl FnOnce() -> Gates) -> io::Result<Pid> {
        let parent = getpid();
        let forked = match self.reused {
            Some(pid) => sys::fork_with_pid(pid)?,
            None => sys::fork()?,
        };
        match forked {
            sys::Forked::Child => child::run(Plan {
                scenario: self.args.scenario,
                index: self.created,
                delay_ms: self.args.delay_ms(),
                program: std::mem::take(&mut self.program),
                parent,
                gates: gates(),
            }),
            sys::Forked::Parent(pid) => {
                self.created += 1;
                self.alive.insert(pid);
                if self.args.scenario == Scenario::Reuse {
                    self.reused = Some(pid);
                }
                Ok(pid)
            }
        }
    }

    fn reap_all(&mut self) -> io::Result<()> {
        while !self.alive.is_empty() {
            self.reap(WaitOptions::empty())?;
        }
        Ok(())
    }

    /// Reaps one process, if there is one to reap.
    fn reap(&mut self, options: WaitOptions) -> io::Result<bool> {
        if self.alive.is_empty() {
            return Ok(false);
        }
        let Some((pid, status)) = rustix::io::retry_on_intr(|| wait(options))? else {
            return Ok(false);
        };
        // As pid 1 of a namespace one reaps others' orphans, too.
        if self.alive.remove(&pid) && (self.args.scenario != Scenario::Storm || self.args.print) {
            self.report.status(pid.as_raw_pid(), status.as_raw())?;
        }
        Ok(true)
    }
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}
