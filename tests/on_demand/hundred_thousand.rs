//! More processes than a machine's default has pids for.

use std::path::Path;
use std::time::Instant;

use crate::crowd::{Crowd, watch_and_end};
use crate::memory::{available_kib, resident_kib};

const CROWD: Crowd = Crowd {
    parents: 10,
    children: 10_000,
    queue_bytes: 128 << 20,
};

/// With room for the rest of the machine.
const PID_MAX: u32 = 131_072;

pub(crate) async fn run(hazard: &Path) {
    let _raised = PidMax::raise_to(PID_MAX);
    let began = Instant::now();
    let (resident, available) = (resident_kib(), available_kib());
    watch_and_end(hazard, CROWD, || {
        println!(
            "all live and are watched after {:.1?}: {} KiB here, {} KiB in all",
            began.elapsed(),
            resident_kib() - resident,
            available - available_kib()
        );
    })
    .await;
    println!(
        "each told once with its status, after {:.1?}",
        began.elapsed()
    );
}

/// Sets the machine's `pid_max` back when dropped, also where something failed.
struct PidMax {
    before: String,
}

const PID_MAX_FILE: &str = "/proc/sys/kernel/pid_max";

impl PidMax {
    fn raise_to(pids: u32) -> Self {
        let before = std::fs::read_to_string(PID_MAX_FILE).unwrap();
        let raised = before.trim().parse::<u32>().unwrap().max(pids);
        // Whoever kills this knows then what to set back.
        println!(
            "{PID_MAX_FILE}: {} becomes {raised} meanwhile",
            before.trim()
        );
        std::fs::write(PID_MAX_FILE, raised.to_string()).unwrap();
        Self { before }
    }
}

impl Drop for PidMax {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(PID_MAX_FILE, &self.before) {
            eprintln!("{PID_MAX_FILE} stays raised, from {}: {error}", self.before);
        }
    }
}
