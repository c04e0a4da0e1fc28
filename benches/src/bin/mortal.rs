//! `mortal`: when its input ends, prints the monotonic clock in nanoseconds, and
//! exits at once.

use std::io::{self, Read as _, Write as _};

use kmonitor_event::Timestamp;

fn main() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    let mut output = io::stdout();
    output.write_all(format!("{}\n", Timestamp::now().as_nanos()).as_bytes())?;
    output.flush()
}
