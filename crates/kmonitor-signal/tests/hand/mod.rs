//! A process that calls the device as it is told, line by line (`hand.c`).
//! Built by the test with `cc`, because C is what callers are written in.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// `REGISTER` and `DEREGISTER`, and where a file is opened for: `O_WRONLY`.
pub(crate) const REGISTER: u32 = 0x400C_DE01;
pub(crate) const DEREGISTER: u32 = 0x400C_DE02;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmonitor-signal/tests/hand");
const HEADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kmonitor-signal/include");

/// Builds a C program into a directory that outlives the test program.
pub(crate) fn build(source: &Path, directory: &Path) -> PathBuf {
    let name = source.file_stem().unwrap();
    let program = directory.join(name);
    let output = Command::new("cc")
        .args([
            "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-I", HEADERS, "-o",
        ])
        .arg(&program)
        .arg(source)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}

/// Where the program is; built once.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = build(&Path::new(SOURCES).join("hand.c"), directory.path());
        (directory, path)
    });
    path
}

/// One such process.
pub(crate) struct Hand {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What it answered where something failed: the number of the error.
pub(crate) type Answer = Result<i64, i32>;

impl Hand {
    pub(crate) fn start() -> Self {
        Self::start_by(Command::new(program()))
    }

    /// By a command that ends in executing it.
    pub(crate) fn start_by(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Says a line, and does not wait for what comes of it.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that it answers; empty where it has ended.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let line = self.hear();
        let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
        match line.split_once(' ') {
            Some(("ok", value)) => Ok(number(value)),
            Some(("errno", value)) => Err(i32::try_from(number(value)).unwrap()),
            _ => panic!("answered {line:?}"),
        }
    }

    pub(crate) fn call(&mut self, line: &str) -> Answer {
        self.say(line);
        self.answer()
    }

    /// Opens the device for writing.
    pub(crate) fn open(&mut self, device: &Path) -> Answer {
        self.call(&format!("open {} 1", device.display()))
    }

    pub(crate) fn register(&mut self, fd: i64, target: i32, mask: u32, signal: i32) -> Answer {
        self.call(&format!("ioctl {fd} {REGISTER} {target} {mask} {signal}"))
    }

    pub(crate) fn deregister(&mut self, fd: i64, target: i32, mask: u32) -> Answer {
        self.call(&format!("ioctl {fd} {DEREGISTER} {target} {mask} 0"))
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for its end, which the end of its input brings about.
    pub(crate) fn end(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
