//! A server of the test's own, in a directory of its own.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Finished, kmonitor, listens, until};
use crate::hand::Hand;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where servers of one test have their device.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), all).unwrap();
        Self { directory }
    }

    pub(crate) fn device(&self) -> PathBuf {
        self.directory.path().join("kmonitor")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A server that has not said yet that it serves.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let device = self.device();
        let mut command = kmonitor(&["serve", "--device", device.to_str().unwrap()]);
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("JOURNAL_STREAM");
        command
    }

    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        let path = self.directory.path().join("notify");
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = self
            .command(args)
            .env("NOTIFY_SOCKET", &path)
            .spawn()
            .unwrap();
        let server = Server {
            child: Some(child),
            device: self.device(),
            manager,
        };
        let told = server.told();
        assert!(told.starts_with("READY=1\nSTATUS=serving "), "{told}");
        server
    }
}

impl Drop for Place {
    /// What a killed server, or a failed test, left.
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.device())
            .stderr(Stdio::null())
            .status();
    }
}

pub(crate) struct Server {
    child: Option<Child>,
    device: PathBuf,
    manager: UnixDatagram,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What the service manager is told next.
    pub(crate) fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let size = self.manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Stops it, all its threads: none reads a request any more.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
        until("all its threads are stopped", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat"));
                stat.is_ok_and(|stat| stat.contains(") T "))
            })
        });
    }

    /// Ends it as a service manager does, and returns what it said.
    pub(crate) fn stop(mut self) -> Finished {
        self.signal("-TERM");
        self.finish()
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(mut self) -> Finished {
        self.finish()
    }

    pub(crate) fn kill(mut self) {
        self.child.as_mut().unwrap().kill().unwrap();
        self.finish();
    }

    fn finish(&mut self) -> Finished {
        let child = self.child.take().unwrap();
        Finished::from(child.wait_with_output().unwrap())
    }

    /// Whether the kernel has it as a listener.
    pub(crate) fn listens(&self) -> bool {
        let table = std::fs::read_to_string(format!("/proc/{}/net/netlink", self.pid()));
        listens(&table.unwrap(), self.pid())
    }

    /// Returns when nothing is registered any more.
    pub(crate) fn until_idle(&self) {
        until("nothing is registered", || !self.listens());
    }

    /// A caller that has the device open: itself and the descriptor.
    pub(crate) fn caller(&self) -> (Hand, i64) {
        let mut hand = Hand::start();
        let fd = hand.open(&self.device).unwrap();
        (hand, fd)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = child.kill();
        let _ = child.wait();
        // A failed test shows what the server said.
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        eprintln!("{said}");
    }
}
