//! What the command line looks like. What the options mean is told here once,
//! for `--help` and the manual; longer texts are in [`pages`].

mod notify;
pub(crate) mod pages;
mod serve;
mod trace;
mod wait;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::notify::NotifyArgs;
pub(crate) use self::serve::ServeArgs;
pub(crate) use self::trace::{TimeArg, TraceArgs};
pub(crate) use self::wait::WaitArgs;

/// Process-lifecycle events as a stream: wait for any process, trace forks,
/// execs and exits, and see what works on this host
#[derive(Debug, Parser)]
#[command(name = "kmonitor", version, after_long_help = pages::MAIN.as_help())]
#[command(disable_help_subcommand = true, subcommand_required = true)]
pub(crate) struct Cli {
    /// Log to stderr: error, warn, info, debug, trace, or directives such as
    /// `kmonitor_hub=debug`. The variable `KMONITOR_LOG` does the same
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait for processes to end: any processes, not only children
    #[command(after_long_help = pages::WAIT.as_help())]
    Wait(WaitArgs),

    /// Print lifecycle events: of a command and all it starts, of processes, or
    /// of the whole host
    #[command(after_long_help = pages::TRACE.as_help())]
    Trace(Box<TraceArgs>),

    /// Tell a process of others' events by signals, until they end
    #[command(after_long_help = pages::NOTIFY.as_help())]
    Notify(NotifyArgs),

    /// Say what works on this host, and why the rest does not
    #[command(after_long_help = pages::DOCTOR.as_help())]
    Doctor(DoctorArgs),

    /// Offer /dev/kmonitor: the device of 2004, for programs that were written for it
    #[command(after_long_help = pages::SERVE.as_help())]
    Serve(ServeArgs),

    /// Print a completion script for a shell
    #[command(hide = true, after_long_help = pages::COMPLETIONS.as_help())]
    Completions(CompletionsArgs),

    /// Print the manual page, or write the pages of all commands
    #[command(hide = true, after_long_help = pages::MAN.as_help())]
    Man(ManArgs),

    /// The child that `doctor` watches
    #[command(name = "probe-child", hide = true)]
    ProbeChild(ProbeChildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object on one line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The command whose page is wanted; without it, that of kmonitor itself
    #[arg(conflicts_with = "dir")]
    pub(crate) command: Option<String>,

    /// Write all pages into this directory
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeChildArgs {
    /// Exit with this code when stdin is closed
    pub(crate) code: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_a_page() {
        for command in Cli::command().get_subcommands() {
            let page = pages::of(command.get_name());
            assert_eq!(page.is_none(), command.get_name() == "probe-child");
        }
    }

    #[test]
    fn negative_pids_are_read_as_pids_and_refused() {
        for args in [["kmonitor", "wait", "-5"], ["kmonitor", "wait", "0"]] {
            let error = Cli::try_parse_from(args).unwrap_err().to_string();
            assert!(error.contains("ids are positive"), "{error}");
        }
    }

    #[test]
    fn a_time_limit_of_zero_is_none() {
        let parse = |limit: &str| {
            let cli = Cli::try_parse_from(["kmonitor", "wait", "-t", limit, "1"]).unwrap();
            match cli.command {
                Command::Wait(args) => args.limit(),
                _ => unreachable!(),
            }
        };
        assert_eq!(parse("0"), None);
        assert_eq!(parse("1.5").unwrap().as_millis(), 1500);
    }
}
