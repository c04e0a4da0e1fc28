//! `kmonitor wait`: waits for any processes to end.

mod report;
mod targets;

use std::time::Duration;

use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use kmonitor::source::{Identity, ProcessProbe as _, ProcessState};
use kmonitor::{Exit, ProcessKey, Status, UnknownReason, Watch, WatchError};
use tokio::time::Instant;

use self::report::{Format, Report};
use self::targets::Opened;
use crate::args::WaitArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(args: &WaitArgs) -> Code {
    // First of all, so that a pid cannot be used again before it is held.
    let opened = match targets::open(args) {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    let runtime = match crate::runtime::start() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let format = match (args.json, args.verbose) {
        (true, _) => Format::Json,
        (false, true) => Format::Text,
        (false, false) => Format::None,
    };
    let mut report = Report::new(Output::stdout(), format);
    match runtime.block_on(wait(args, opened, &mut report)) {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("cannot write: {}", chain(&error)));
            Code::Failure
        }
    }
}

async fn wait(args: &WaitArgs, opened: Opened, report: &mut Report) -> std::io::Result<Code> {
    let deadline = args
        .limit()
        .and_then(|limit| Instant::now().checked_add(limit));
    let Opened { watches, gone } = opened;
    let total = watches.len() + gone.len();
    let goal = match args.count {
        Some(count) => count.get(),
        None if args.any => 1,
        None => total,
    };
    // Among many, and if nobody is told, the moment of death is all that matters.
    let statuses_matter = total == 1 || args.verbose || args.json;
    let grace = if statuses_matter {
        args.grace
    } else {
        Duration::ZERO
    };
    let mut running: Vec<Option<ProcessKey>> = watches.iter().map(Watch::process).collect();
    let mut ends: FuturesUnordered<_> = watches
        .into_iter()
        .enumerate()
        .map(|(at, watch)| end_of(watch, grace, deadline).map(move |end| (at, end)))
        .collect();

    let mut ended = 0;
    for process in &gone {
        report.gone(*process)?;
        ended += 1;
    }
    let mut code = Code::Success;
    while ended < goal {
        let (at, end) = tokio::select! {
            // What has ended in time counts, even if both are noticed together.
            biased;
            Some(end) = ends.next() => end,
            () = sleep_until(deadline) => {
                report.timeout()?;
                code = Code::Timeout;
                break;
            }
        };
        let process = running.get_mut(at).and_then(Option::take);
        match end {
            Ok(exit) => {
                ended += 1;
                report.ended(&exit)?;
                if let Status::Unknown(reason) = exit.status
                    && statuses_matter
                {
                    let pid = exit.process.pid();
                    complain(format_args!(
                        "process {pid} ended, status unknown: {reason}"
                    ));
                }
                if total == 1 {
                    code = match exit.status {
                        Status::Known { status, .. } => Code::Target(status),
                        _ => Code::StatusUnknown,
                    };
                }
            }
            Err(error) => {
                let name = process.map_or_else(String::new, |key| format!("{key}: "));
                complain(format_args!("{name}{}", chain(&error)));
                return Ok(Code::Failure);
            }
        }
    }
    if args.print_running {
        running.sort_unstable_by_key(|key| key.map(|key| key.pid()));
        for key in running.into_iter().flatten().filter(|key| lives(*key)) {
            report.running(key)?;
        }
    }
    report.flush()?;
    Ok(code)
}

/// The end of one process, with its status if that is to be had within the
/// grace and before the deadline.
async fn end_of(
    mut watch: Watch,
    grace: Duration,
    deadline: Option<Instant>,
) -> Result<Exit, WatchError> {
    let mut exit = watch.exited().await?;
    if exit.status != Status::Pending {
        return Ok(exit);
    }
    let mut watch = watch.status_grace(grace);
    tokio::select! {
        biased;
        settled = (&mut watch).into_future() => settled,
        () = sleep_until(deadline) => {
            // It has ended in time, and only the knowledge how comes too late.
            exit.status = Status::Unknown(UnknownReason::NotReaped);
            Ok(exit)
        }
    }
}

/// Never, without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether a process that nothing was heard of yet lives; not its pid's next owner.
fn lives(key: ProcessKey) -> bool {
    let state =
        kmonitor::pidfd::LinuxProbe::new().state(key.pid(), key.inode().map(Identity::Inode));
    matches!(state, Ok(ProcessState::Alive) | Err(_))
}
