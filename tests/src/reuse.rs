//! Children with exactly the pid one wants.

use std::fs;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::rng::Rng;
use crate::sys;

/// Makes `pid` the next one that the kernel hands out in this pid namespace,
/// unless somebody forks in between or it is in use. Needs `CAP_SYS_ADMIN` or
/// `CAP_CHECKPOINT_RESTORE`. [`spawn_with_pid`] has no such race.
///
/// # Errors
/// What writing `/proc/sys/kernel/ns_last_pid` returned.
pub fn set_next_pid(pid: i32) -> io::Result<()> {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
}

/// Creates a child with exactly this pid, which exits with `code` at once,
/// and reaps it.
///
/// # Errors
/// As [`HeldPid::spawn`].
pub fn spawn_with_pid(pid: i32, code: u8) -> io::Result<()> {
    let status = HeldPid::spawn(pid)?.finish(code)?;
    if status == i32::from(code) << 8 {
        Ok(())
    } else {
        let what = format!("{pid} was to exit with {code}, its status is {status:#x}");
        Err(io::Error::other(what))
    }
}

/// A child that lives under a pid of one's choice until told to exit.
#[derive(Debug)]
pub struct HeldPid {
    pid: Pid,
    gate: PipeWriter,
    waited: bool,
}

impl HeldPid {
    /// Creates a child with exactly this pid, by `clone3` with `set_tid`.
    ///
    /// # Errors
    /// EEXIST while the pid is in use, be it by a zombie, or as a process
    /// group or session; EPERM without `CAP_SYS_ADMIN` or
    /// `CAP_CHECKPOINT_RESTORE`; EINVAL beyond `pid_max`.
    pub fn spawn(pid: i32) -> io::Result<Self> {
        let pid = Some(pid)
            .filter(|&pid| pid > 0)
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, gate) = io::pipe()?;
        sys::spawn_gated(pid, reader.as_fd())?;
        Ok(Self {
            pid,
            gate,
            waited: false,
        })
    }

    /// Creates a child whose pid nobody else is about to get: far from where the
    /// kernel's counter is.
    ///
    /// # Errors
    /// As [`Self::spawn`], but for EEXIST.
    pub fn spawn_far_away(rng: &mut Rng) -> io::Result<Self> {
        // Below, the kernel does not come by again.
        const LOW: u64 = 300;
        let max = fs::read_to_string("/proc/sys/kernel/pid_max")?;
        let max: u64 = max.trim().parse().map_err(io::Error::other)?;
        let round = max.saturating_sub(LOW).max(4);
        let here = u64::from(std::process::id());
        for _ in 0..1000 {
            let pid = LOW + (here + round / 2 + rng.below(round / 4)) % round;
            match i32::try_from(pid).map(Self::spawn) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Ok(result) => return result,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The pid asked for.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Lets the child exit with `code` and leaves it a zombie.
    ///
    /// # Errors
    /// When the child is gone already, killed by somebody.
    pub fn exit(&mut self, code: u8) -> io::Result<()> {
        self.gate.write_all(&[code])
    }

    /// Waits for the child's end and returns its raw wait status.
    ///
    /// # Errors
    /// When somebody else reaped the child.
    pub fn reap(mut self) -> io::Result<i32> {
        self.wait()
    }

    /// [`Self::exit`], then [`Self::reap`].
    ///
    /// # Errors
    /// As both.
    pub fn finish(mut self, code: u8) -> io::Result<i32> {
        self.exit(code)?;
        self.wait()
    }

    fn wait(&mut self) -> io::Result<i32> {
        self.waited = true;
        let result = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()))?;
        // Without WNOHANG there always is a status.
        let (_, status) = result.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(status.as_raw())
    }
}

impl Drop for HeldPid {
    fn drop(&mut self) {
        if !self.waited {
            // Not reaped yet, so the pid is still our child's.
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
            let _ = self.wait();
        }
    }
}
