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

mod worker;

use std::collections::HashMap;
use std::error::Error;
use std::future::IntoFuture as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use kmonitor::{Exit, Hub, ProcessKey};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook_tokio::Signals;
use tracing::{error, info, warn};

use crate::worker::Worker;

/// What goes wrong ends the service, and with it (`kill_on_drop`) its workers.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long the workers may take to stop.
const GRACE: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    // First of all, so that no signal finds the default action.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if std::env::args().nth(1).is_some_and(|arg| arg == "worker") {
        return worker::work(&mut signals).await;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
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

fn signal_all(workers: &HashMap<ProcessKey, Worker>, signal: i32) {
    for Worker { number, pidfd, .. } in workers.values() {
        if let Err(error) = pidfd.send_signal(signal) {
            warn!("worker {number} cannot be signalled: {error}");
        }
    }
}

/// Says how a worker ended, and takes it off the list and out of the system.
async fn report(workers: &mut HashMap<ProcessKey, Worker>, exit: Exit) -> Result<()> {
    if let Some(mut worker) = workers.remove(&exit.process) {
        info!("worker {} {}", worker.number, exit.status);
        worker.child.wait().await?; // Watching reaps nobody.
    }
    Ok(())
}
