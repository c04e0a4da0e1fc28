//! A service that starts worker processes, watches them through a hub, and shuts
//! down gracefully: on SIGTERM or SIGINT it signals the workers by pidfd, gives
//! them two seconds, kills those that are left, and reports how each ended.
//!
//! ```text
//! $ cargo run -p kmonitor-examples --bin service      # and then Ctrl-C
//!  INFO service: watching through the connector source
//!  INFO service: worker 1 is 4711:90
//!  INFO service: worker 2 is 4712:91
//!  INFO service: ready
//!  INFO service: signal 2: stopping 2 workers
//!  INFO service: worker 2 exited with status 0
//!  INFO service: worker 1 exited with status 0
//!  INFO service: stopped
//! ```
//! Exits with 0 after a shutdown, and with 1 if all workers ended by themselves.
//! The log goes to stderr, with a time on each line.

use std::collections::HashMap;
use std::error::Error;
use std::future::IntoFuture as _;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use kmonitor::pidfd::Pidfd;
use kmonitor::{Hub, HubWatch, ProcessKey};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tracing::{error, info, warn};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the workers may take to stop.
const GRACE: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    // First of all, so that no signal finds the default action.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if std::env::args().nth(1).is_some_and(|arg| arg == "worker") {
        return work(&mut signals).await;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let hub = Hub::open().await?;
    let source = hub.capabilities().source.kind;
    info!("watching through the {source} source");

    let mut workers = HashMap::new();
    let mut exits = FuturesUnordered::new();
    for number in 1..=2 {
        let (worker, watch) = Worker::start(number, &hub).await?;
        info!("worker {number} is {}", watch.process());
        workers.insert(watch.process(), worker);
        exits.push(watch.into_future());
    }
    info!("ready");

    while !workers.is_empty() {
        tokio::select! {
            Some(signal) = signals.next() => {
                info!("signal {signal}: stopping {} workers", workers.len());
                break;
            }
            Some(exit) = exits.next() => report(&mut workers, exit?).await?,
        }
    }
    if workers.is_empty() {
        error!("no worker is left");
        return Ok(ExitCode::FAILURE);
    }

    signal_all(&workers, SIGTERM);
    let mut grace = std::pin::pin!(tokio::time::sleep(GRACE));
    while !workers.is_empty() {
        tokio::select! {
            Some(exit) = exits.next() => report(&mut workers, exit?).await?,
            () = &mut grace, if !grace.is_elapsed() => {
                warn!("{} workers not stopped within {GRACE:?}: killing", workers.len());
                signal_all(&workers, SIGKILL);
            }
        }
    }
    hub.close().await;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

struct Worker {
    number: u32,
    child: Child,
    /// Signals this very process, whoever has its pid by then.
    pidfd: Pidfd,
}

impl Worker {
    async fn start(number: u32, hub: &Hub) -> Result<(Self, HubWatch)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .process_group(0) // Ctrl-C in a terminal reaches the service only.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let watch = hub.watch(&child).await?;
        let pidfd = Pidfd::open_ref(watch.process().into())?;
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_exact(&mut [0]).await?; // It is ready to be signalled.
        }
        let worker = Self {
            number,
            child,
            pidfd,
        };
        Ok((worker, watch))
    }
}

fn signal_all(workers: &HashMap<ProcessKey, Worker>, signal: i32) {
    for Worker { number, pidfd, .. } in workers.values() {
        if let Err(error) = pidfd.send_signal(signal) {
            warn!("worker {number} cannot be signalled: {error}");
        }
    }
}

/// Says how a worker ended, and takes it off the list and out of the system.
async fn report(workers: &mut HashMap<ProcessKey, Worker>, exit: kmonitor::Exit) -> Result<()> {
    if let Some(mut worker) = workers.remove(&exit.process) {
        info!("worker {} {}", worker.number, exit.status);
        worker.child.wait().await?; // Watching reaps nobody.
    }
    Ok(())
}

/// What a worker does: nothing, until it is told to stop or the service is gone.
async fn work(signals: &mut Signals) -> Result<ExitCode> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1); // The service holds the other end of our stdin.
    });
    println!("ready");
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}
