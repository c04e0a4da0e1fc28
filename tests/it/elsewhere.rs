//! Half of a test in another process: this test binary once more, in other
//! namespaces or as another user.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::patience::PATIENCE;

/// Names the test whose other half a process is.
const ROLE: &str = "KMONITOR_TEST_ROLE";

/// Begins each line that one half says to the other.
const MARK: &str = "the other half says: ";

/// What the other half says when it has run to its end. That it exits with 0
/// does not say so: it does that too where the filter selects no test.
const DONE: &str = "done";

/// Runs `inside` in the process that `wrap` makes of a command, and `outside`
/// here, which may talk with it. `test` is the full name of the calling test.
pub(crate) fn elsewhere<F: Future<Output = ()>>(
    test: &str,
    wrap: impl FnOnce(&Command) -> Command,
    outside: impl FnOnce(&mut OtherHalf),
    inside: impl FnOnce() -> F,
) {
    if std::env::var_os(ROLE).is_some_and(|role| role == test) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(inside());
        say(DONE);
        return;
    }
    let mut command = Command::new(by_descriptor());
    command
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(ROLE, test);
    let mut other = OtherHalf::start(wrap(&command));
    outside(&mut other);
    other.finish();
}

/// Runs `inside` in a process of its own, because it looks at the whole process
/// that it runs in.
pub(crate) fn alone<F: Future<Output = ()>>(test: &str, inside: impl FnOnce() -> F) {
    let same = |command: &Command| {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        same.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        same
    };
    elsewhere(test, same, |_| {}, inside);
}

/// This program by a path that a user finds who may not look into the directory
/// it is in.
fn by_descriptor() -> String {
    let program = File::open(std::env::current_exe().unwrap()).unwrap();
    fcntl_setfd(&program, FdFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    // It has to be open in whatever is started from now on.
    let _open_for_good = program.into_raw_fd();
    path
}

/// Says a line to the outside.
pub(crate) fn say(line: &str) {
    println!("{MARK}{line}");
}

/// Waits for a line from outside.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// The half of the test that runs elsewhere. Dropping it kills it.
pub(crate) struct OtherHalf {
    child: Child,
    lines: Receiver<String>,
}

impl OtherHalf {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test harness's own words may stand before it.
                if let Some((_, said)) = line.split_once(MARK)
                    && sender.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Says a line to it.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line from it.
    pub(crate) fn hear(&mut self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the other half of the test says something")
    }

    fn finish(mut self) {
        assert_eq!(self.hear(), DONE);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the other half: {status}");
    }
}

impl Drop for OtherHalf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
