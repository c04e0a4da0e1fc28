//! `awaiter free|hub|hub-inline`: for each pid that comes as a line, watches it, prints
//! `ready`, waits for its end, and prints the clock (`CLOCK_MONOTONIC`, nanoseconds)
//! when that is known. What `c/pidfd_poll.c` does, by the library.
//!
//! The hub listens by the connector without pauses: its latency budget is zero.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use futures::FutureExt as _;
use kmonitor_connector::ConnectorSource;
use kmonitor_event::{Pid, Timestamp};
use kmonitor_hub::Hub;
use kmonitor_pidfd::LinuxProbe;

type Failure = Box<dyn Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let by = std::env::args().nth(1).unwrap_or_default();
    let hub = match by.as_str() {
        "free" => None,
        "hub" => Some(hub(false).await?),
        "hub-inline" => Some(hub(true).await?),
        other => return Err(format!("free, hub or hub-inline, not {other:?}").into()),
    };
    for line in std::io::stdin().lock().lines() {
        let pid: Pid = line?.trim().parse()?;
        // The clock is read before anything is let go of, as in C.
        let known = if let Some(hub) = &hub {
            let mut watch = hub.watch(pid).await?;
            say("ready")?;
            watch.exited().await?;
            Timestamp::now()
        } else {
            let mut watch = kmonitor_pidfd::watch(pid);
            // It begins when it is first asked.
            if watch.exited().now_or_never().is_some() {
                return Err("it was dead already".into());
            }
            say("ready")?;
            watch.exited().await?;
            Timestamp::now()
        };
        say(&known.as_nanos().to_string())?;
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

async fn hub(inline: bool) -> Result<Hub, Failure> {
    let source = ConnectorSource::builder().latency_budget(Duration::ZERO);
    let builder = Hub::builder()
        .source(source.open().await?)
        .probe(LinuxProbe::new());
    let builder = if inline {
        builder.on_current_runtime()
    } else {
        builder
    };
    Ok(builder.open().await?)
}
