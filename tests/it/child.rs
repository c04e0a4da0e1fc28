//! A child that waits for a word before it ends.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use kmonitor::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// A shell that runs a script once it is let go. Killed when dropped.
pub(crate) struct HeldChild {
    child: Child,
    gate: Option<ChildStdin>,
}

impl HeldChild {
    /// It runs when this returns: its exec has been reported.
    pub(crate) fn shell(script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("echo; read word; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.as_mut().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let gate = child.stdin.take();
        Self { child, gate }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::try_from(self.child.id()).unwrap()
    }

    /// Lets it end, and returns when it is a zombie.
    pub(crate) fn make_zombie(&mut self) {
        self.gate = None;
        let pid = rustix::process::Pid::from_raw(self.pid().as_raw()).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).unwrap().unwrap();
    }

    /// The oracle.
    pub(crate) fn reap(&mut self) -> ExitStatus {
        self.gate = None;
        self.child.wait().unwrap()
    }
}

impl Drop for HeldChild {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
