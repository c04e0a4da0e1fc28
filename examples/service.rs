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
use kmonitor::{Exit, Hub, HubWatch, ProcessKey};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WORKERS: usize = 2;

/// How long the workers may take to stop.
const GRACE: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    // Before anything else, so that no signal finds the default action.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if std::env::args().nth(1).is_some_and(|arg| arg == "worker") {
        return work(&mut signals).await;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let hub = Hub::open().await?;
    tracing::info!("watching through the {} source", hub.capabilities().source.kind);

    let mut workers = HashMap::new();
    let mut exits = FuturesUnordered::new();
    for number in 1..=WORKERS {
        let (worker, watch) = Worker::start(number, &hub).await?;
        workers.insert(watch.process(), worker);
        exits.push(watch.into_future());
    }
    tracing::info!("ready");

    let signal = loop {
        tokio::select! {
            Some(signal) = signals.next() => break signal,
            Some(exit) = exits.next() => reap(&mut workers, exit?).await?,
            else => {
                tracing::error!("no worker is left");
                return Ok(ExitCode::FAILURE);
            }
        }
    };

    tracing::info!("signal {signal}: stopping {} workers", workers.len());
    signal_all(&workers, SIGTERM);
    let all_gone = async {
        while let Some(exit) = exits.next().await {
            reap(&mut workers, exit?).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    match tokio::time::timeout(GRACE, all_gone).await {
        Ok(stopped) => stopped?,
        Err(_) => {
            tracing::warn!("killing {} workers: not stopped within {GRACE:?}", workers.len());
            signal_all(&workers, SIGKILL);
            while let Some(exit) = exits.next().await {
                reap(&mut workers, exit?).await?;
            }
        }
    }
    hub.close().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
