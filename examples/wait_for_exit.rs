//! Waits for processes that need not be children, each named by PID or
//! PID:INODE: `kmonitor::watch` alone, without a hub and without privilege.
//!
//! ```text
//! $ sh -c 'sleep 1; exit 3' & cargo run -p kmonitor-examples --bin wait_for_exit $!
//! 4711:90 exited with status 3
//! $ echo $?
//! 3
//! ```
//! One process: exits with its code, or 128 and its signal, or 125 where nobody
//! can know its status. Several: exits with 0 when all have ended. 1 is a failure.

use std::future::IntoFuture;
use std::process::ExitCode;

use futures::stream::{FuturesUnordered, StreamExt as _};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        eprintln!("usage: wait_for_exit PID[:INODE]...");
        return ExitCode::from(2);
    }
    // Each takes hold of its process here, before any of them is waited for.
    let watches = names.iter().map(|name| kmonitor::watch(name.as_str()));
    let mut exits: FuturesUnordered<_> = watches.map(IntoFuture::into_future).collect();
    let mut code = 0;
    while let Some(exit) = exits.next().await {
        match exit {
            Ok(exit) => {
                println!("{exit}");
                if names.len() == 1 {
                    code = exit.status.shell_code().unwrap_or(125);
                }
            }
            // Gone already, a thread, no number: the message says which.
            Err(error) => {
                eprintln!("wait_for_exit: {error}");
                code = 1;
            }
        }
    }
    ExitCode::from(code)
}
