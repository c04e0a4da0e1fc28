//! Processes that each create the next and end at once. See `kmonitor_tests::chain`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kmonitor_tests::chain::main()
}
