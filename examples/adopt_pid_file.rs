//! Takes over a daemon that somebody else started: the process that a pid file names.
//! When it ends, its exit status is told, though it is no child; and a command, if one
//! is given, is run in its place from then on.
//!
//! ```text
//! cargo run -p kmonitor-examples --bin adopt_pid_file -- PID_FILE [COMMAND [ARGUMENT…]]
//! ```
//!
//! Who is younger than the file is refused: the pid was used again.

use std::error::Error;

use kmonitor_supervisor::spec::{Adopt, Restart};
use kmonitor_supervisor::{Service, Supervisor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let file = args.next().ok_or("give a pid file")?;
    let mut daemon = Service::adopt("daemon", Adopt::PidFile(file.into()));
    match args.next() {
        Some(program) => {
            daemon = daemon
                .or_command(program)
                .args(args)
                .restart(Restart::Always);
        }
        None => daemon = daemon.restart(Restart::Never),
    }
    let tree = Supervisor::builder("adopted").child(daemon).begin().await?;
    let handle = tree.handle();
    let (_, mut events) = handle.subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            println!("{event}");
        }
    });
    let up = async {
        if tree.ready().await.is_err() {
            return; // The report says why.
        }
        for child in handle.snapshot().children {
            if let (Some(process), Some(origin)) = (child.process, child.origin) {
                println!("{}: {} {origin:?}", child.path, process.pid);
            }
        }
    };
    // In this order: signals are heard from the first moment, so that what was started in
    // the daemon's place does not outlive us.
    let (report, ()) = tokio::join!(biased; tree.run_until_signal(), up);
    Ok(report?.result()?)
}
