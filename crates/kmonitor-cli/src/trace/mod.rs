//! `kmonitor trace`: prints lifecycle events of a command, of processes, or of
//! the whole host.
//!
//! [`open`] finds the source and subscribes, [`spawn`] runs the command,
//! [`session`] follows the stream; [`table`] knows who is meant and who lives;
//! [`view`] prints.

mod batch;
mod clock;
mod enrich;
mod live;
mod open;
mod session;
mod spawn;
mod summary;
mod table;
mod view;
mod words;

use kmonitor::{EventMask, Pid};

use self::live::Live;
use self::session::{Ending, Session};
use self::spawn::Traced;
use self::table::Table;
use self::view::View;
use crate::args::TraceArgs;
use crate::complain::{chain, complain};
use crate::exit::Code;
use crate::output::Output;

/// Runs the command.
pub(crate) fn run(args: &TraceArgs) -> Code {
    // The hub has a thread of its own, so that a slow terminal here loses
    // nothing there.
    let done = crate::runtime::start().and_then(|runtime| runtime.block_on(trace(args)));
    done.unwrap_or_else(|code| code)
}

async fn trace(args: &TraceArgs) -> Result<Code, Code> {
    let mask = args.mask();
    if mask.is_empty() {
        complain("--events: no events selected");
        return Err(Code::Usage);
    }
    let own = Pid::current();
    if args.pids.iter().any(|process| process.pid == own) {
        complain(format_args!(
            "{own} is kmonitor itself, which would trace for ever"
        ));
        return Err(Code::Usage);
    }
    let output = match &args.output {
        None => Output::stdout(),
        Some(path) => Output::file(path).map_err(|error| {
            let path = path.display();
            complain(format_args!("cannot write to {path}: {}", chain(&error)));
            Code::Failure
        })?,
    };
    let signals = session::signals().map_err(|error| {
        complain(format_args!("cannot handle signals: {}", chain(&error)));
        Code::Failure
    })?;

    let (hub, events) = open::subscribe(args).await?;
    let started = kmonitor::Timestamp::now();
    // From here on everything the command does is reported, its birth included.
    let traced = if args.command.is_empty() {
        None
    } else {
        Some(Traced::spawn(&args.command)?)
    };
    let table = match &traced {
        Some(traced) => Table::of_tree(own, traced.pid()),
        // Without exits nobody could ever be struck off.
        None => Table::of_all(mask.contains(EventMask::EXIT)),
    };
    let view = View::new(output, args, mask, started);
    let live = Live::new(args.quiet || traced.is_some());
    let mut session = Session::new(hub, events, signals, table, view, live);
    session.traced = traced;
    session.until_exit = args.until_exit;
    let ending = session.follow().await;
    // Whoever does not read on does not want a summary either.
    let summary = !args.quiet && !matches!(ending, Ok(Ending::Closed));
    let code = conclude(&mut session, ending).await;
    if summary {
        session.summary.print(&session.table, started);
    }
    code
}

/// What follows from how the stream ended, and the command's own status.
async fn conclude(session: &mut Session, ending: std::io::Result<Ending>) -> Result<Code, Code> {
    let ending = match ending {
        Ok(ending) => ending,
        Err(error) => {
            complain(format_args!("cannot write: {}", chain(&error)));
            // The command goes on, and is waited for as if nothing were wrong.
            session.wait_for_command().await;
            return Err(Code::Failure);
        }
    };
    match ending {
        Ending::Ended => {}
        Ending::Interrupted(signal) => {
            session.tell_survivors();
            return Ok(Code::Interrupted(signal));
        }
        Ending::CommandEnded => session.tell_survivors(),
        Ending::Closed => {
            if let Some(signal) = session.wait_for_command().await {
                return Ok(Code::Interrupted(signal));
            }
        }
        Ending::Broken(reason) => {
            complain(format_args!("the events ended early: {reason}"));
            session.wait_for_command().await;
            return Err(Code::Failure);
        }
    }
    match session.traced.as_mut() {
        None => Ok(Code::Success),
        Some(traced) => match traced.reap() {
            Ok(status) => Ok(Code::Target(status)),
            Err(error) => {
                complain(format_args!(
                    "cannot wait for the command: {}",
                    chain(&error)
                ));
                Err(Code::Failure)
            }
        },
    }
}
