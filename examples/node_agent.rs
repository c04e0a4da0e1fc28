//! The smallest agent of a cluster's node: runs what a file says, and follows changes
//! of the file. Each line is a name and a command:
//!
//! ```text
//! web   nginx -g 'daemon off;'
//! cache redis-server --port 6380
//! ```
//!
//! ```text
//! cargo run -p kmonitor-examples --bin node_agent -- DESIRED_STATE STATE_DIRECTORY
//! ```
//!
//! What did not change goes on when the file does, and what runs is adopted when the
//! agent itself is killed and started again.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmonitor_supervisor::backend::linux::LinuxBackend;
use kmonitor_supervisor::spec::{Restart, Stop};
use kmonitor_supervisor::{Handle, Service, Supervisor, SupervisorBuilder};

/// How often the file is looked at. A real agent is told by its cluster's manager.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(desired), Some(state)) = (args.next(), args.next()) else {
        return Err("give a file of the desired state and a directory for our own".into());
    };
    let desired = PathBuf::from(desired);
    let mut builder = LinuxBackend::builder().state_dir(state);
    // Without one, children are held by pidfds, and trees are scanned for.
    match kmonitor_hub::Hub::open().await {
        Ok(hub) => builder = builder.hub(hub),
        Err(error) => eprintln!("no events: {error}"),
    }
    let backend = builder.build().await?;

    let text = tokio::fs::read_to_string(&desired).await?;
    let tree = declaration(&text)?
        .start_on(Arc::new(backend.clone()))
        .await?;
    for child in tree.handle().snapshot().children {
        println!("{}: {:?} {:?}", child.path, child.state, child.origin);
    }
    // What a former run started, and the file no longer names.
    for left in backend.leftovers() {
        println!("stopping {}, which is no longer wanted", left.path);
        for survivor in backend.stop_leftover(&left, &Stop::default()).await? {
            eprintln!("it outlived being killed: {survivor}");
        }
    }

    let handle = tree.handle();
    tokio::select! {
        // First, so that signals are heard before anything is said.
        biased;
        // That the node gave up, or left something, is how the agent ends.
        report = tree.run_until_signal() => report?.result()?,
        () = follow(&desired, text, &handle) => {}
    }
    Ok(())
}

/// Applies each change of the file.
async fn follow(desired: &Path, mut applied: String, handle: &Handle) {
    println!("the node runs what it should");
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        // It may be missing for a moment.
        let Ok(text) = tokio::fs::read_to_string(desired).await else {
            continue;
        };
        if text == applied {
            continue;
        }
        let result = match declaration(&text) {
            Ok(declaration) => handle.reload(&declaration).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => println!("applied"),
            Err(error) => eprintln!("not applied: {error}"),
        }
        applied = text;
    }
}

/// The tree that the file says. Words are separated by blanks; a real format would
/// quote.
fn declaration(text: &str) -> Result<SupervisorBuilder, String> {
    let mut node = Supervisor::builder("node");
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| !name.starts_with('#')) else {
            continue;
        };
        let program = words.next().ok_or(format!("{name} has no command"))?;
        let service = Service::command(name, program).args(words);
        node = node.child(service.restart(Restart::Always));
    }
    Ok(node)
}
