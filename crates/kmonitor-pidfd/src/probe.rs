//! The process probe of a real Linux.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use kmonitor_event::{Pid, Status, Tid, UnknownReason};
use kmonitor_source::{
    HeldProcess, HeldState, Identity, Listing, ProbeError, ProcessEntry, ProcessProbe,
    ProcessState, ReapFuture, ThreadPhase, ThreadState,
};
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::process::WaitId;

use crate::pidfd::{Pidfd, Readiness};
use crate::watch::Waiter;
use crate::{error, procfs, status};

/// How often threads are listed that come and go meanwhile.
const LISTINGS_MAX: usize = 8;

/// Asks Linux about processes: through a pidfd that is opened and closed within
/// the call, and through `/proc` for what a pidfd does not tell.
///
/// [`state`](ProcessProbe::state) and [`identify`](ProcessProbe::identify) are
/// four system calls, some microseconds. Where `pidfd_open` does not work (old
/// kernel, seccomp) they read `/proc/PID/stat`, and identities are start times.
///
/// ```
/// use kmonitor_event::Pid;
/// use kmonitor_pidfd::LinuxProbe;
/// use kmonitor_source::{ProcessProbe, ProcessState};
///
/// let probe = LinuxProbe::new();
/// let identity = probe.identify(Pid::current())?;
/// let state = probe.state(Pid::current(), Some(identity))?;
/// assert_eq!(state, ProcessState::Alive);
/// # Ok::<(), kmonitor_source::ProbeError>(())
/// ```
///
/// # Minimum kernel version
/// 5.3; 6.9 for identities that cannot be fooled.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxProbe {
    _private: (),
}

impl LinuxProbe {
    /// A probe. Costs nothing, and asks nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl ProcessProbe for LinuxProbe {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        match Pidfd::open(pid) {
            Ok(pidfd) => pidfd.identity(),
            Err(error) if error::is_blocked(&error) => {
                polled_identity(pid).map(Identity::StartTime)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        match state_by_pidfd(pid, identity) {
            Err(error) if error.is_gone() => Ok(ProcessState::Gone),
            // The number is a thread's now, so the process that had it is gone.
            Err(ProbeError::Thread { .. }) if identity.is_some() => Ok(ProcessState::Gone),
            Err(error) if error::is_blocked(&error) => polled_state(pid, identity),
            other => other,
        }
    }

    fn hold(
        &self,
        pid: Pid,
        identity: Option<Identity>,
    ) -> Result<Option<Box<dyn HeldProcess>>, ProbeError> {
        let pidfd = match Pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error::is_blocked(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let identity = match identity {
            Some(expected) => pidfd.verify(expected).map(|()| expected),
            None => pidfd.identity(),
        }?;
        Ok(Some(Box::new(HeldPidfd { pidfd, identity })))
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        for _ in 0..LISTINGS_MAX {
            if list_threads(pid, threads)? {
                return Ok(Listing::Whole);
            }
            // To try again is worth it where somebody may be alone; a thousand threads
            // take milliseconds, and the next time they would be others again.
            if threads.len() > 1 {
                break;
            }
        }
        Ok(Listing::Partial)
    }

    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        const ACTION: &str = "list all processes (/proc is mounted with hidepid)";
        processes.clear();
        let io = |source| ProbeError::Io {
            action: "list /proc",
            source,
        };
        let directory = open_directory("/proc").map_err(io)?;
        let clock = procfs::BootClock::now();
        let mut denied = None;
        each_number(&directory, |number| {
            let Some(pid) = Pid::new(number) else {
                return Ok(());
            };
            let seen = match procfs::stat_at(format_args!("/proc/{pid}/stat\0")) {
                Ok(stat) if stat.is_in_release() => match settled_stat(pid) {
                    Ok(stat) => Ok(stat),
                    Err(_) => return Ok(()),
                },
                seen => seen,
            };
            match seen {
                Ok(stat) => {
                    let mut entry = ProcessEntry::new(pid, Pid::new(stat.parent));
                    entry.started = clock.as_ref().map(|clock| clock.born(&stat));
                    entry.dead = stat.is_group_zombie();
                    processes.push(entry);
                }
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    denied = Some((pid, source));
                }
                // Gone since it was listed.
                Err(_) => {}
            }
            Ok(())
        })
        .map_err(io)?;
        if denied.is_none() && !processes.iter().any(|entry| entry.pid.as_raw() == 1) {
            // Pid 1 lives as long as its namespace: if it is not there, it is hidden.
            let hidden = Pid::new(1).filter(|init| procfs::exists(*init));
            denied = hidden.map(|init| (init, io::ErrorKind::PermissionDenied.into()));
        }
        match denied {
            None => Ok(()),
            Some((pid, source)) => Err(ProbeError::Denied {
                pid,
                action: ACTION,
                source,
            }),
        }
    }

    /// Holds one pidfd until the future is dropped. Needs a tokio runtime with
    /// I/O enabled when polled.
    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        let opened = Waiter::open(pid, Some(identity));
        Box::pin(async move {
            let mut waiter = match opened {
                Ok(waiter) => waiter,
                Err(error) if error.is_gone() => {
                    return Ok(Status::Unknown(UnknownReason::ReapedUnseen));
                }
                Err(error) => return Err(error),
            };
            // First the zombie: its status may be readable, and is the better one.
            let seen = waiter.reached(Readiness::Zombie).await?;
            if seen.readiness == Readiness::Reaped {
                return Ok(seen.status);
            }
            let reaped = waiter.reached(Readiness::Reaped).await?;
            Ok(match seen.status {
                known @ Status::Known { .. } => known,
                _ => reaped.status,
            })
        })
    }
}

/// A hold on a process: its pidfd, kept open.
#[derive(Debug)]
struct HeldPidfd {
    pidfd: Pidfd,
    identity: Identity,
}

impl HeldProcess for HeldPidfd {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn state(&self) -> Result<HeldState, ProbeError> {
        let readiness = self.pidfd.state()?;
        let status = self.pidfd.status_when(readiness).map_err(poll_failed)?;
        Ok(match (readiness, status) {
            (Readiness::Alive, _) | (_, None) => HeldState::Alive,
            (Readiness::Zombie, Some(status)) => HeldState::Zombie(status),
            (Readiness::Reaped, Some(status)) => HeldState::Reaped(status),
        })
    }
}

/// Lists the threads once. Whether that are all.
///
/// The kernel goes from one thread to the next, and where one leaves just then it ends
/// the list there (`next_tid()`, `proc_task_readdir()`, `fs/proc/base.c`): those after it
/// are missing. So they are counted as well, in the same stat that is read of each.
fn list_threads(pid: Pid, threads: &mut Vec<ThreadState>) -> Result<bool, ProbeError> {
    threads.clear();
    let failed = |source| procfs::missing(pid, "list the threads", source);
    let directory = open_directory(&format!("/proc/{pid}/task")).map_err(failed)?;
    each_number(&directory, |number| {
        threads.extend(Tid::new(number).map(|tid| ThreadState {
            tid,
            phase: ThreadPhase::Alive,
        }));
        Ok(())
    })
    .map_err(failed)?;
    if threads.is_empty() {
        return Err(ProbeError::Gone { pid });
    }
    // As many as there were before the first that was found was: who was born later is
    // reported later.
    let (mut found, mut all) = (0, None);
    for thread in threads.iter_mut() {
        match procfs::thread_stat(pid, thread.tid) {
            Ok(stat) => {
                thread.phase = stat.thread_phase();
                // 0 if the kernel is just taking it apart.
                if stat.num_threads > 0 {
                    all.get_or_insert(stat.num_threads);
                    found += 1;
                }
            }
            // It has exited since it was listed.
            Err(error) if procfs::is_absent(&error) => thread.phase = ThreadPhase::Exiting,
            Err(source) => return Err(procfs::missing(pid, "look at a thread", source)),
        }
    }
    Ok(all.is_some_and(|all| found >= all))
}

fn poll_failed(source: io::Error) -> ProbeError {
    ProbeError::Io {
        action: "poll a pidfd",
        source,
    }
}

fn state_by_pidfd(pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
    let pidfd = Pidfd::open(pid)?;
    if let Some(identity) = identity {
        pidfd.verify(identity)?;
    }
    let readiness = pidfd.state()?;
    Ok(
        match (
            readiness,
            pidfd.status_when(readiness).map_err(poll_failed)?,
        ) {
            (Readiness::Alive, _) | (_, None) => ProcessState::Alive,
            (Readiness::Reaped, _) => ProcessState::Gone,
            (Readiness::Zombie, Some(status)) => ProcessState::Zombie(status),
        },
    )
}

/// The start time of the process with this pid, without a pidfd.
pub(crate) fn polled_identity(pid: Pid) -> Result<u64, ProbeError> {
    let group = procfs::thread_group(pid.leader());
    let stat = procfs::stat(pid)?;
    match group {
        Some(group) if group != pid => Err(ProbeError::Thread {
            tid: pid.leader(),
            process: Some(group),
        }),
        _ => Ok(stat.start_time),
    }
}

/// The state of a process, without a pidfd.
///
/// A process is dead when its leader is a zombie and the only thread that is
/// left: a dead leader with live threads shows more than one.
pub(crate) fn polled_state(
    pid: Pid,
    identity: Option<Identity>,
) -> Result<ProcessState, ProbeError> {
    let expected = match identity {
        None => None,
        Some(Identity::StartTime(start_time)) => Some(start_time),
        Some(_) => return Err(error::cannot_verify()),
    };
    let gone = |error: ProbeError| match error {
        error if error.is_gone() => Ok(ProcessState::Gone),
        error => Err(error),
    };
    let stat = match settled_stat(pid) {
        Ok(stat) => stat,
        Err(error) => return gone(error),
    };
    if expected.is_some_and(|expected| expected != stat.start_time) {
        return Ok(ProcessState::Gone);
    }
    if !stat.is_group_zombie() {
        return Ok(ProcessState::Alive);
    }
    let found =
        status::waited(&WaitId::Pid(procfs::raw(pid))).or_else(|| status::of_zombie(pid, &stat));
    // What was read belongs to this process if it is still the same zombie.
    match procfs::stat(pid) {
        Ok(again) if again.is_group_zombie() && again.start_time == stat.start_time => {
            Ok(ProcessState::Zombie(found.unwrap_or(Status::Pending)))
        }
        Ok(_) => Ok(ProcessState::Gone),
        Err(error) => gone(error),
    }
}

/// A stat that is not of a process in release: that one is about to be gone, or to show
/// another thread's exec. Whoever asks at the last report of an exit has no other occasion
/// to ask.
fn settled_stat(pid: Pid) -> Result<procfs::Stat, ProbeError> {
    let mut looks = 0;
    loop {
        let stat = procfs::stat(pid)?;
        if !stat.is_in_release() || looks == RELEASE_LOOKS_MAX {
            return Ok(stat);
        }
        looks += 1;
        std::thread::yield_now();
    }
}

/// How often a process in release is looked at: that takes the kernel microseconds,
/// if nothing more urgent comes in between.
const RELEASE_LOOKS_MAX: usize = 10_000;

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Calls for each entry of a directory that is named by a number.
fn each_number(directory: &OwnedFd, mut call: impl FnMut(i32) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Some(number) = entry.map(|entry| parse(entry.file_name()))? {
            call(number)?;
        }
    }
    Ok(())
}

fn parse(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}
