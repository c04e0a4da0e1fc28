//! A source of one's own behind the same hub: processes that a script tells of,
//! and a probe that answers from the same script. `source.rs` says how each part of
//! `EventSource`'s contract is kept, and `probe.rs` that of `ProcessProbe`.
//!
//! ```text
//! $ cargo run -p kmonitor-examples --bin custom_source [SCRIPT]
//! 1 fork: child 100
//! 100 exec
//! 100 fork: child 101
//! 101 exit: exited with status 0
//! 100 exit: exited with status 7
//! 1 exit: exited with status 0
//! watched: 1 exited with status 0
//! ```
//! A script has lines `fork PARENT CHILD`, `exec PID` and `exit PID CODE`; at its
//! beginning there is process 1. Exits with 0, or with 1 on a line it cannot use.

mod probe;
mod source;
mod world;

use std::error::Error;

use kmonitor::source::FactKind;
use kmonitor::{Filter, Hub, Pid, Status, StatusSource};

use crate::source::ScriptSource;
use crate::world::World;

const SCRIPT: &str = "fork 1 100\nexec 100\nfork 100 101\nexit 101 0\nexit 100 7\nexit 1 0";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let script = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => SCRIPT.to_owned(),
    };
    let init = Pid::try_from(1)?;
    let world = World::beginning_with(init);
    let hub = Hub::builder()
        .source(ScriptSource::new(world.clone()))
        .probe(world.clone())
        .open()
        .await?;
    let mut events = hub.subscribe(Filter::tree(init)).await?;
    let watch = hub.watch(init).await?;
    for (line, number) in script.lines().zip(1..) {
        let told = parse(line).and_then(|fact| Ok(world.tell(fact)?));
        told.map_err(|error| format!("line {number}, {line:?}: {error}"))?;
    }
    world.end();
    while let Some(event) = events.next().await {
        match event.process {
            Some(process) => println!("{process} {}", event.kind),
            None => println!("- {}", event.kind),
        }
    }
    match watch.await {
        Ok(exit) => println!("watched: {exit}"),
        Err(error) => println!("watched: {error}"), // The script let it live.
    }
    Ok(())
}

/// What a line of the script tells.
fn parse(line: &str) -> Result<FactKind, Box<dyn Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words[..] {
        ["fork", parent, child] => FactKind::Forked {
            parent: Some(parent.parse()?),
            child: child.parse()?,
        },
        ["exec", pid] => FactKind::Execed {
            process: pid.parse()?,
        },
        // The whole process at once. A source that only learns of single tasks
        // says `TaskExited`, and leaves it to the hub what that means.
        ["exit", pid, code] => FactKind::GroupDead {
            process: pid.parse()?,
            key: None,
            status: Status::from_raw(i32::from(code.parse::<u8>()?) << 8, StatusSource::Event),
        },
        _ => return Err("expected `fork PARENT CHILD`, `exec PID` or `exit PID CODE`".into()),
    })
}
