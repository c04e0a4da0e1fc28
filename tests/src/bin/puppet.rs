//! Processes on strings: they fork, exec and end when a test says so.
//! See `kmonitor_tests::puppet` for the protocol.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmonitor_tests::puppet::main()
}
