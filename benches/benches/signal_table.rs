//! From a process's last system call to whoever wants to know: a stream's reader
//! in this program, and a monitor in another one that is told by a signal. In
//! turns, so that noise hits both.
//!
//! The clock is read by the process itself just before it exits. What it takes to
//! die (some 80 µs here) is in both numbers.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kmonitor_benches::feed::Feed;
use kmonitor_benches::probe::AllAlive;
use kmonitor_benches::stats::{load, table};
use kmonitor_benches::workload::{Population, unmatched_sequential};
use kmonitor_event::{EventKind, EventMask, Pid, Timestamp};
use kmonitor_hub::{Filter, Hub};
use kmonitor_signal::{Signal, SignalAdapter};

const ROUNDS: usize = 1000;
const REGISTRATIONS: usize = 10_000;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    println!("{} at the start\n", load());
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        latency().await?;
        registrations().await
    })
}

/// Prints the clock when it is let go, and exits.
fn mortal() -> std::io::Result<Child> {
    let program = env!("CARGO_BIN_EXE_mortal");
    Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// When it said that it would exit.
fn end(mut child: Child) -> Result<u64, Failure> {
    let mut said = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut said)?;
    }
    child.wait()?;
    Ok(said.trim().parse()?)
}

async fn latency() -> Result<(), Failure> {
    let signal = Signal::realtime(1)?;
    let hub = Hub::open().await?;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_told"))
        .arg(signal.as_raw().to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = monitor.stdout.take().ok_or("no output")?;
    let mut output = BufReader::new(output).lines();
    let mut next_line = move || output.next().ok_or("the monitor ended");
    let _ready = next_line()??;
    let told = Pid::try_from(monitor.id())?;

    let (mut by_stream, mut by_signal) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut child = mortal()?;
        let pid = Pid::try_from(child.id())?;
        let exits = Filter::pid(pid).events(EventMask::EXIT);
        let mut stream = hub.subscribe(exits).await?;
        drop(child.stdin.take());
        let at = loop {
            let event = stream.next().await.ok_or("the stream ended")?;
            if matches!(event.kind, EventKind::Exit(_)) {
                break Timestamp::now().as_nanos();
            }
        };
        by_stream.push(at.saturating_sub(end(child)?));

        let mut child = mortal()?;
        let pid = Pid::try_from(child.id())?;
        adapter.register(told, pid, EventMask::EXIT, signal).await?;
        drop(child.stdin.take());
        adapter.idle().await;
        let at: u64 = next_line()??.parse()?;
        by_signal.push(at.saturating_sub(end(child)?));
    }
    monitor.kill()?;
    monitor.wait()?;
    let source = hub.capabilities().source.kind;
    println!("{ROUNDS} exits each, {source} source, µs:\n");
    let mut rows = vec![["", "p50", "p90", "p99"].map(str::to_owned).into()];
    for (name, mut times) in [
        ("the hub's stream, this program", by_stream),
        ("a signal, another program", by_signal),
    ] {
        times.sort_unstable();
        let at = |part: f64| times[(times.len() as f64 * part) as usize] / 1000;
        let parts = [at(0.5), at(0.9), at(0.99)].map(|micros| micros.to_string());
        rows.push(std::iter::once(name.to_owned()).chain(parts).collect());
    }
    println!("{}", table(&rows));
    Ok(())
}

/// The hub's source and probe make no system call here.
async fn registrations() -> Result<(), Failure> {
    let population = Population::new(REGISTRATIONS);
    let feed = Feed::new(unmatched_sequential(&population));
    let builder = Hub::builder().source(feed.source()).probe(AllAlive);
    let hub = builder.open().await?;
    let adapter = SignalAdapter::new(&hub);
    let session = adapter.session();
    let signal = Signal::realtime(1)?;
    let mut idle = Command::new(env!("CARGO_BIN_EXE_told"))
        .arg(signal.as_raw().to_string())
        .stdout(Stdio::null())
        .spawn()?;
    let monitor = Pid::try_from(idle.id())?;
    let began = Instant::now();
    for target in &population.subscribed {
        let registered = session.register(monitor, *target, EventMask::EXIT, signal);
        registered.await?;
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / REGISTRATIONS as f64;
    println!("{REGISTRATIONS} registrations, one after the other: {each:.0} µs each");
    let began = Instant::now();
    drop(session);
    adapter.idle().await;
    println!("their session dropped: {:.1?}", began.elapsed());
    idle.kill()?;
    idle.wait()?;
    Ok(())
}
