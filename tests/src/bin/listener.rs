//! A monitor that says which signals it got.
//! See `kmonitor_tests::listener` for the protocol.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmonitor_tests::listener::main()
}
