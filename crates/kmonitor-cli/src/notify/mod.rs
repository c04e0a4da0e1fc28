//! `kmonitor notify`: tells a process that runs already of others' events.

mod report;

use std::io;

use futures::future::FutureExt as _;
use futures::stream::StreamExt as _;
use kmonitor::signal::{Disposition, SignalAdapter, SignalStats, disposition};
use kmonitor::{Hub, HubWatch};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use self::report::{Reason, Report, lost};
use crate::args::NotifyArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;

/// Runs the command.
pub(crate) fn run(args: &NotifyArgs) -> Code {
    let runtime = match crate::runtime::start() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let mut report = Report::new(args);
    let told = runtime.block_on(async {
        let told = match start(args, &mut report).await? {
            Ok(mut session) => session.wait().await,
            Err(code) => return Ok(code),
        };
        let (reason, code, stats) = told;
        report.finished(reason, &stats)?;
        Ok(code)
    });
    told.unwrap_or_else(|error: io::Error| {
        complain(format_args!("cannot write: {}", chain(&error)));
        Code::Failure
    })
}

/// All that must live while signals are to be sent.
struct Session {
    hub: Hub,
    adapter: SignalAdapter,
    _owner: kmonitor::signal::Session,
    targets: Vec<HubWatch>,
    signals: Signals,
}

/// Registers all targets, or says what is wrong.
async fn start(args: &NotifyArgs, report: &mut Report<'_>) -> io::Result<Result<Session, Code>> {
    if !args.force && !expects(args) {
        return Ok(Err(Code::Failure));
    }
    let failed = |error: &dyn std::error::Error| {
        complain(chain(error));
        Ok(Err(Code::Failure))
    };
    let signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let hub = match Hub::open().await {
        Ok(hub) => hub,
        Err(error) => return failed(&error),
    };
    let adapter = SignalAdapter::new(&hub);
    let owner = adapter.session();
    let mut targets = Vec::new();
    for target in &args.targets {
        match hub.watch(*target).await {
            Ok(watch) => targets.push(watch),
            Err(error) => return failed(&error),
        }
        let registered = owner.register(args.monitor, *target, args.mask(), args.signal);
        if let Err(error) = registered.await {
            for reason in &hub.capabilities().passed_over {
                complain(chain(reason));
            }
            return failed(&error);
        }
        report.registered(*target)?;
    }
    Ok(Ok(Session {
        hub,
        adapter,
        _owner: owner,
        targets,
        signals,
    }))
}

/// Whether the signal would not hurt the monitor.
fn expects(args: &NotifyArgs) -> bool {
    let (pid, signal) = (args.monitor.pid, args.signal);
    let would = match disposition(pid, signal) {
        Ok(Disposition::Caught | Disposition::Blocked) => return true,
        Ok(Disposition::Ignored) => "ignores it",
        Ok(_) => "would be ended by it",
        // Registering will say what is wrong.
        Err(_) => return true,
    };
    complain(format_args!(
        "process {pid} does not expect {signal}: it {would}; choose the signal that it \
         has a handler for, or use --force"
    ));
    false
}

impl Session {
    /// Until nothing is left to be told.
    async fn wait(&mut self) -> (Reason, Code, SignalStats) {
        tokio::select! {
            Some(signal) = self.signals.next() => {
                return (Reason::Interrupted, Code::Interrupted(signal), self.adapter.stats());
            }
            () = self.adapter.idle() => {}
            () = self.adapter.closed() => {}
        }
        let stats = self.adapter.stats();
        // An answer of the hub's: what it was doing about the last end is done.
        if let Err(closed) = self.hub.stats().await {
            complain(chain(&closed));
            return (Reason::Failed, Code::Failure, stats);
        }
        let mut ended = self.targets.iter_mut().map(|target| {
            let exit = target.exited().now_or_never();
            exit.is_some_and(|exit| exit.is_ok())
        });
        if !ended.all(|it| it) {
            return (Reason::MonitorEnded, Code::MonitorEnded, stats);
        }
        let lost = lost(&stats);
        if lost > 0 {
            complain(format_args!(
                "{lost} events were lost, and nobody was told of them"
            ));
        }
        let unsent = stats.dropped + stats.refused + stats.withdrawn;
        if unsent > 0 {
            complain(format_args!("{unsent} signals could not be sent"));
        }
        let code = if lost + unsent > 0 {
            Code::Failure
        } else {
            Code::Success
        };
        (Reason::TargetsEnded, code, stats)
    }
}
