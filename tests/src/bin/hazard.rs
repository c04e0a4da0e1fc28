//! Forces the hazards of process lifecycles, and is their oracle.
//! See `kmonitor_tests::hazard` for the command line and the protocol.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmonitor_tests::hazard::main()
}
