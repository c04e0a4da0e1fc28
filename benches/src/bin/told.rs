//! `told SIGNAL`: a monitor that prints, for each signal, when it had it: in
//! nanoseconds of the monotonic clock.

use std::io::{self, Write as _};

use kmonitor_benches::sys::wait_for_signal;
use kmonitor_event::Timestamp;
use kmonitor_signal::{Signal, block};

fn main() -> io::Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let signal: Signal = argument.parse().map_err(io::Error::other)?;
    block([signal])?;
    let mut output = io::stdout().lock();
    writeln!(output, "ready")?;
    loop {
        match wait_for_signal(signal.as_raw()) {
            Ok(()) => writeln!(output, "{}", Timestamp::now().as_nanos())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
