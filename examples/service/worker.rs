//! A worker process: how the service starts it, and what it does itself.

use std::process::{ExitCode, Stdio};

use futures::stream::StreamExt as _;
use kmonitor::pidfd::Pidfd;
use kmonitor::{Hub, HubWatch};
use signal_hook_tokio::Signals;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use crate::Result;

pub(crate) struct Worker {
    pub(crate) number: u32,
    pub(crate) child: Child,
    /// Signals this very process, whoever has its pid by then.
    pub(crate) pidfd: Pidfd,
}

impl Worker {
    pub(crate) async fn start(number: u32, hub: &Hub) -> Result<(Self, HubWatch)> {
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

/// What a worker does: nothing, until it is told to stop or the service is gone.
pub(crate) async fn work(signals: &mut Signals) -> Result<ExitCode> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1); // The service holds the other end of our stdin.
    });
    println!("ready");
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}
