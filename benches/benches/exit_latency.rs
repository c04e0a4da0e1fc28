//! From a process's last system call to a program that waits for its end: C programs
//! that poll a pidfd and read the connector, and the library's ways, each a program of
//! its own, in turns, so that noise hits all.
//!
//! The clock is read by the process itself just before it exits. What it takes to die
//! is in all numbers.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kmonitor_benches::stats::{load, paired, table};

const ROUNDS: usize = 10_000;

/// What is not counted: until caches and the scheduler know the programs.
const WARM_UP: usize = 50;

type Failure = Box<dyn Error>;

/// A program that waits for the ends of those whose pids it is given.
struct Awaiter {
    name: &'static str,
    child: Child,
    pids: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    nanos: Vec<u64>,
}

impl Awaiter {
    fn start(name: &'static str, command: &mut Command) -> Result<Self, Failure> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pids = child.stdin.take().ok_or("no input")?;
        let said = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self {
            name,
            child,
            pids,
            said,
            nanos: Vec::with_capacity(ROUNDS),
        })
    }

    fn next_line(&mut self) -> Result<String, Failure> {
        Ok(self.said.next().ok_or("it ended")??)
    }

    /// How long after its last word the end of a process was known.
    fn measure(&mut self) -> Result<u64, Failure> {
        let mut mortal = Command::new(env!("CARGO_BIN_EXE_mortal"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        writeln!(self.pids, "{}", mortal.id())?;
        let ready = self.next_line()?;
        if ready != "ready" {
            return Err(format!("{}: {ready}", self.name).into());
        }
        drop(mortal.stdin.take());
        let known: u64 = self.next_line()?.parse()?;
        let mut said = String::new();
        if let Some(mut output) = mortal.stdout.take() {
            output.read_to_string(&mut said)?;
        }
        mortal.wait()?;
        Ok(known.saturating_sub(said.trim().parse()?))
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.nanos.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() as f64 * part) as usize] as f64
    }
}

/// A program of `c/`.
fn compile(into: &Path, name: &str) -> Result<PathBuf, Failure> {
    let program = into.join(name);
    let source = format!("{}/c/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-o"])
        .arg(&program)
        .arg(source);
    if !cc.status()?.success() {
        return Err(format!("{name}.c does not compile").into());
    }
    Ok(program)
}

fn main() -> Result<(), Failure> {
    println!("{} at the start\n", load());
    let built = tempfile::tempdir()?;
    let baseline = compile(built.path(), "pidfd_poll")?;
    let by_connector = compile(built.path(), "connector_recv")?;
    let ours = |by: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_awaiter"));
        command.arg(by);
        command
    };
    let mut awaiters = [
        Awaiter::start("C, poll of a pidfd", &mut Command::new(baseline))?,
        Awaiter::start("C, recv of the connector", &mut Command::new(by_connector))?,
        Awaiter::start("free watch", &mut ours("free"))?,
        Awaiter::start("hub on the program's runtime", &mut ours("hub-inline"))?,
        Awaiter::start("hub on its own thread", &mut ours("hub"))?,
    ];
    for round in 0..ROUNDS + WARM_UP {
        for turn in 0..awaiters.len() {
            // Whoever comes after whom differs from round to round.
            let at = (turn + round) % awaiters.len();
            let nanos = awaiters[at].measure()?;
            if round >= WARM_UP {
                awaiters[at].nanos.push(nanos);
            }
        }
    }

    println!("{ROUNDS} exits each, connector with a latency budget of 0, µs:\n");
    let head = ["", "p50", "of C", "p99", "of C", "median of pairs"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let [c, ..] = &awaiters;
    let as_floats = |awaiter: &Awaiter| -> Vec<f64> {
        awaiter.nanos.iter().map(|nanos| *nanos as f64).collect()
    };
    for awaiter in &awaiters {
        let (p50, p99) = (awaiter.at(0.5), awaiter.at(0.99));
        let pairs = paired(&as_floats(awaiter), &as_floats(c), |ours, theirs| {
            ours / theirs
        });
        rows.push(vec![
            awaiter.name.to_owned(),
            format!("{:.0}", p50 / 1000.0),
            format!("{:.2}", p50 / c.at(0.5)),
            format!("{:.0}", p99 / 1000.0),
            format!("{:.2}", p99 / c.at(0.99)),
            format!("{pairs:.2}"),
        ]);
    }
    println!("{}", table(&rows));
    for mut awaiter in awaiters {
        drop(awaiter.pids);
        awaiter.child.wait()?;
    }
    Ok(())
}
