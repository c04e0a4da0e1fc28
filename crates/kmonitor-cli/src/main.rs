//! The `kmonitor` command.
//!
//! Each subcommand is a module with a `run` that returns an exit [`Code`]; what
//! the command line looks like is in `args`, and what the manual says in
//! `args::pages`.
#![forbid(unsafe_code)]

mod args;
mod complain;
mod doctor;
mod duration;
mod exit;
mod log;
mod manual;
mod notify;
mod output;
mod runtime;
mod serve;
mod trace;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::exit::Code;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. A closed pipe is no error.
            let _ = error.print();
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Success
            };
            return code.into();
        }
    };
    let usual = match cli.command {
        Command::Serve(_) => Some(serve::LOGGED),
        _ => None,
    };
    if let Err(code) = log::start(cli.log.as_deref(), usual) {
        return code.into();
    }
    let code = match cli.command {
        Command::Wait(args) => wait::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Notify(args) => notify::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        Command::ProbeChild(args) => doctor::probe_child(&args),
    };
    code.into()
}
