//! Runs a command and prints what happens in its tree: the processes it starts,
//! the programs they execute, and how they end. The typed stream with the
//! combinators of `tokio_stream`.
//!
//! ```text
//! $ cargo run -p kmonitor-examples --bin follow_tree -- sh -c 'sleep 0.1 & /bin/true; wait'
//! 4711 exec
//! 4711 fork: child 4712
//! 4711 fork: child 4713
//! 4712 exec
//! 4713 exec
//! 4713 exit: exited with status 0
//! 4712 exit: exited with status 0
//! 4711 exit: exited with status 0
//! ```
//! Exits as the command did. Only the proc connector sees a tree; where that does
//! not work, this program says why and what to do, and exits with 69.

use std::collections::HashSet;
use std::error::Error;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use kmonitor::{Event, EventKind, Filter, Hub, Pid, ProcessKey, SubscribeError};
use tokio::process::Command;
use tokio_stream::StreamExt as _;

/// After so long without an event, it says that it is still waiting.
const QUIET: Duration = Duration::from_secs(5);

/// `EX_UNAVAILABLE` of `sysexits.h`.
const UNAVAILABLE: u8 = 69;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        let default = ["sh", "-c", "sleep 0.1 & /bin/true; wait"];
        words = default.map(str::to_owned).to_vec();
    }
    let hub = Hub::open().await?;
    let myself = Pid::current();
    // Subscribed first and started second: whatever the command does comes after
    // `subscribe` has returned, so nothing of it is missed.
    let events = match hub.subscribe(Filter::descendants(myself)).await {
        Ok(events) => events,
        Err(SubscribeError::Refused(refusal)) => {
            eprintln!("follow_tree: {refusal}");
            explain(&hub);
            return Ok(ExitCode::from(UNAVAILABLE));
        }
        Err(error) => return Err(error.into()),
    };
    let mut child = Command::new(&words[0]).args(&words[1..]).spawn()?;

    let mut alive = HashSet::new();
    let lines = events
        .map(|event| (event, still_alive(&mut alive, &event)))
        // That this program started the command is no news.
        .filter(|(event, _)| event.pid() != Some(myself))
        .timeout(QUIET);
    let mut lines = pin!(lines);
    let mut waiting_for = 1;
    // The stream would go on as long as the process whose descendants it tells of,
    // which is this one; so it ends here, with the last of the descendants.
    while waiting_for > 0 {
        match lines.next().await {
            Some(Ok((event, alive))) => {
                match event.process {
                    Some(process) => println!("{process} {}", event.kind),
                    None => println!("- {}", event.kind), // `lost`, mostly.
                }
                waiting_for = alive;
            }
            Some(Err(_)) => eprintln!("quiet; processes alive: {waiting_for}"),
            None => return Err("the hub was closed".into()),
        }
    }
    // Being watched took nothing away: the child is still there to be reaped.
    let status = child.wait().await?;
    let signalled = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signalled).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code)?))
}

/// How many of the processes that the stream told of live after this event. By
/// key and not by pid: a pid may be told of as forked again before it is told of
/// as ended.
fn still_alive(alive: &mut HashSet<ProcessKey>, event: &Event) -> usize {
    match (event.kind, event.process) {
        (EventKind::Fork { child }, _) => {
            alive.insert(child);
        }
        (EventKind::Exit(_), Some(process)) => {
            alive.remove(&process);
        }
        _ => {}
    }
    alive.len()
}

/// What to do where a tree cannot be followed.
fn explain(hub: &Hub) {
    for error in &hub.capabilities().passed_over {
        eprintln!("  {error}");
    }
    eprintln!(
        "To follow a tree, run this in the host's own namespaces (a container: \
         --network=host --pid=host --userns=host), as root before Linux 6.6; \
         `kmonitor doctor` tells what is in the way.\n\
         Without that, name the processes one by one: kmonitor::watch(pid), or \
         Filter::pids([pid]).events(EventMask::EXIT)."
    );
}
