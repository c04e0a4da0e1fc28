//! What one process does. It leaves by raw system calls only, so that codes
//! are exact and nothing of the parent's runs twice.

use std::convert::Infallible;
use std::fs;
use std::hint;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use super::{EXEC_MARK, sys};
use crate::scenario::{EXEC_CODE, RACE_FIRST_CODE, RACE_THREADS, SIGNALS, Scenario};

/// Something in here did not work; no scenario allows this code but `plain`.
pub(super) const EXIT_BROKEN: i32 = 125;

/// Spins before a spinner gives way: with more spinners than CPUs, the one
/// they wait for must get to run.
const SPINS: u32 = 2_000;

/// What a process is to do.
pub(super) struct Plan {
    pub(super) scenario: Scenario,
    pub(super) index: usize,
    pub(super) delay_ms: u64,
    pub(super) program: PathBuf,
    pub(super) parent: Pid,
    pub(super) gates: Gates,
}

/// Where a process waits for its parent.
pub(super) struct Gates {
    pub(super) go: Option<PipeReader>,
    pub(super) late: Option<LateGate>,
}

/// Where a process says that it is at its late point, and waits.
pub(super) struct LateGate {
    pub(super) arrive: PipeWriter,
    pub(super) release: PipeReader,
}

impl Gates {
    /// No waiting at all.
    pub(super) fn open() -> Self {
        Self {
            go: None,
            late: None,
        }
    }
}

/// Returns when the other end is closed.
fn wait_closed(mut gate: PipeReader) -> io::Result<()> {
    // Nobody ever writes, so this is the end of file, without a single byte.
    gate.read_exact(&mut [0])
        .or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(error),
        })
}

/// Runs in the forked child, and never comes back.
pub(super) fn run(plan: Plan) -> ! {
    // Unwinding would end in the parent's loop, and then there were two.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("hazard: in a child: {panic}");
        sys::exit_group(EXIT_BROKEN);
    }));
    must(begin(plan));
    sys::exit_group(EXIT_BROKEN)
}

fn must<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("hazard: in a child: {error}");
        sys::exit_group(EXIT_BROKEN)
    })
}

fn begin(mut plan: Plan) -> io::Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(plan.parent) {
        // It died before we asked to be told.
        sys::exit_group(EXIT_BROKEN);
    }
    if let Some(go) = plan.gates.go.take() {
        wait_closed(go)?;
    }
    match plan.scenario {
        // No children of ours: `storm` makes its own.
        Scenario::Plain | Scenario::Reuse | Scenario::Storm => {
            plan.pause()?;
            sys::exit_group((plan.index % 256) as i32)
        }
        Scenario::Signal => signal(plan),
        Scenario::LeaderFirst => leader_first(plan, 0, || sys::exit_group(5)),
        Scenario::Leader3Last9 => leader_first(plan, 3, || sys::exit_thread(9)),
        Scenario::ThreadExec => thread_exec(plan),
        Scenario::ThreadExecLeaderGone => {
            let program = plan.program.clone();
            leader_first(plan, 0, move || exec(&program))
        }
        Scenario::ThreadExit7Group5 => race(
            plan,
            [(|_| sys::exit_group(5)) as fn(i32) -> !, |_| {
                sys::exit_thread(7)
            }],
        ),
        Scenario::Race6 => race(
            plan,
            [(|index| sys::exit_group(RACE_FIRST_CODE + index)) as fn(i32) -> !;
                RACE_THREADS as usize],
        ),
    }
}

impl Plan {
    /// The late point, if the parent wants it announced, then the delay.
    fn pause(&mut self) -> io::Result<()> {
        if let Some(mut late) = self.gates.late.take() {
            // Few enough bytes for a pipe to take them whole.
            late.arrive
                .write_all(&getpid().as_raw_pid().to_ne_bytes())?;
            wait_closed(late.release)?;
        }
        if self.delay_ms > 0 {
            thread::sleep(Duration::from_millis(self.delay_ms));
        }
        Ok(())
    }
}

fn signal(mut plan: Plan) -> io::Result<Infallible> {
    plan.pause()?;
    let number = SIGNALS[plan.index % SIGNALS.len()];
    let signal = Signal::from_named_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
    // Std catches SIGSEGV to tell stack overflows.
    if signal != Signal::KILL {
        sys::default_action(signal);
    }
    kill_process(getpid(), signal)?;
    // A signal to oneself, the only thread, comes before the call returns.
    Err(io::Error::other("survived its signal"))
}

/// A thread. The kernel sends PDEATHSIG to threads that asked for it, and
/// after an exec the asking leader has been replaced.
fn spawn(body: impl FnOnce() -> io::Result<Infallible> + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        // Thousands of processes may be alive at once.
        .stack_size(64 * 1024)
        .spawn(|| {
            must(set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from));
            must(body());
        })?;
    Ok(())
}

/// The leader exits alone with `code`; then the last thread does `last`.
fn leader_first(
    mut plan: Plan,
    code: i32,
    last: impl FnOnce() -> Infallible + Send + 'static,
) -> io::Result<Infallible> {
    spawn(move || {
        wait_leader_gone()?;
        plan.pause()?;
        Ok(last())
    })?;
    sys::exit_thread(code)
}

/// Polls, as the kernel tells nobody: a pidfd of the leader is not readable
/// while other threads live, and its futex is woken before it is a zombie.
fn wait_leader_gone() -> io::Result<()> {
    let path = format!("/proc/self/task/{}/stat", getpid().as_raw_pid());
    loop {
        let stat = fs::read_to_string(&path)?;
        // The state follows the name, which may itself contain anything.
        let state = stat.rsplit(')').next().map(str::trim_start);
        if state.is_some_and(|state| state.starts_with('Z')) {
            return Ok(());
        }
        thread::yield_now();
    }
}

fn thread_exec(mut plan: Plan) -> io::Result<Infallible> {
    spawn(move || {
        plan.pause()?;
        exec(&plan.program)
    })?;
    loop {
        thread::park();
    }
}

fn exec(program: &PathBuf) -> ! {
    let error = Command::new(program)
        .args([EXEC_MARK, &EXEC_CODE.to_string()])
        .exec();
    must(Err(error))
}

/// Each of `ends` in a thread of its own, the first in the leader, all called
/// at the same moment as far as a program can arrange it.
fn race<const N: usize>(mut plan: Plan, ends: [fn(i32) -> !; N]) -> io::Result<Infallible> {
    // Sleep until all are there (that may be long: the late point), then spin
    // until all are awake.
    let all_there = Arc::new(Barrier::new(N));
    let awake = Arc::new(AtomicI32::new(0));
    let finish = move |index: usize, all_there: &Barrier, awake: &AtomicI32| -> ! {
        all_there.wait();
        awake.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0;
        while awake.load(Ordering::Acquire) < N as i32 {
            spins += 1;
            if spins < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        ends[index](index as i32)
    };
    for index in 1..N {
        let (all_there, awake) = (Arc::clone(&all_there), Arc::clone(&awake));
        spawn(move || finish(index, &all_there, &awake))?;
    }
    plan.pause()?;
    finish(0, &all_there, &awake)
}
