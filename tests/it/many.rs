//! As many processes watched at once as a machine's default has pids for.

use std::path::Path;

use crate::HAZARD;
use crate::crowd::{Crowd, watch_and_end};
use crate::elsewhere::alone;

/// Of 32 768 pids, with room for the rest of the machine.
const CROWD: Crowd = Crowd {
    parents: 1,
    children: 25_000,
    queue_bytes: 32 << 20,
};

#[test]
#[ignore = "needs the proc connector and room for 25 000 processes"]
fn watches_of_25_000_take_no_descriptors_and_miss_no_exit() {
    alone(
        "many::watches_of_25_000_take_no_descriptors_and_miss_no_exit",
        || watch_and_end(Path::new(HAZARD), CROWD, || {}),
    );
}
