//! A monitor as there were in 2004, in Rust: it is told of a process's events by
//! queued signals, and reads these as a stream. Here it registers itself; it could
//! as well have been registered by `kmonitor notify` or through `/dev/kmonitor`.
//!
//! ```text
//! $ sh -c 'sleep 1 & wait; kill -9 $$' & cargo run -p kmonitor-examples --bin told_by_signals $!
//! watching 4711
//! fork of 4712, uid 0
//! abort of 4711, uid 0
//! exit of 4711, uid 0
//! ```
//! Exits with 0 when the process has ended. 1 is a failure.

use std::error::Error;
use std::process::ExitCode;

use kmonitor::signal::{MonitorSignals, Signal, SignalAdapter, block};
use kmonitor::{EventMask, Hub, Pid};

fn main() -> ExitCode {
    let Some(target) = std::env::args().nth(1) else {
        eprintln!("usage: told_by_signals PID");
        return ExitCode::from(2);
    };
    match monitor(&target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("told_by_signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn monitor(target: &str) -> Result<(), Box<dyn Error>> {
    let target: Pid = target.parse()?;
    let signal = Signal::realtime(1)?;
    // Before there is any other thread: all that are started inherit it.
    block([signal])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = MonitorSignals::new([signal])?;
        let hub = Hub::open().await?;
        let adapter = SignalAdapter::new(&hub);
        let events = EventMask::LIFECYCLE | EventMask::ABORT;
        adapter
            .register(Pid::current(), target, events, signal)
            .await?;
        println!("watching {target}");
        loop {
            let told = signals.next().await?;
            println!("{} of {}, uid {}", told.event, told.pid, told.uid);
            if told.event == EventMask::EXIT && told.pid == target {
                return Ok(());
            }
        }
    })
}
