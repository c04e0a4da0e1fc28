//! What takes minutes, or changes a setting of the machine: run by hand, as root,
//! with the proc connector.
//!
//! * `cargo test --release -p kmonitor-tests --test on_demand -- hundred-thousand`
//! * `cargo test --release -p kmonitor-tests --test on_demand -- soak --minutes 5`
//!
//! Not a test that `cargo test` runs unasked, so that nothing is skipped and then
//! counted as passed.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use kmonitor::{Filter, Pid};

#[path = "../it/crowd.rs"]
mod crowd;
mod hundred_thousand;
mod memory;
#[path = "../it/netlink.rs"]
mod netlink;
mod soak;

#[derive(Parser)]
enum Args {
    /// 100 000 real processes watched and ended at once; raises `pid_max` meanwhile.
    HundredThousand,
    /// Storms, subscriptions and watches for minutes: nothing may grow or get lost.
    Soak {
        /// For how long, apart from the warm-up.
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// What the subscriptions that come and go are to.
        #[arg(long, value_enum, default_value_t = Visited::Host)]
        visit: Visited,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Visited {
    Host,
    /// All that this program starts: what the others are subscribed to.
    Tree,
    /// This process, which nobody else is subscribed to.
    Process,
}

fn main() {
    let hazard = Path::new(env!("CARGO_BIN_EXE_hazard"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match Args::parse() {
        Args::HundredThousand => runtime.block_on(hundred_thousand::run(hazard)),
        Args::Soak { minutes, visit } => {
            let time = Duration::from_secs_f64(minutes * 60.0);
            let visited = match visit {
                Visited::Host => Filter::host(),
                Visited::Tree => Filter::tree(Pid::current()),
                Visited::Process => Filter::pid(Pid::current()),
            };
            runtime.block_on(soak::run(hazard, time, visited));
        }
    }
}
