//! Commands as a user without privilege, or in namespaces of their own.

use std::process::Command;

/// `nobody`, by number: the name may be missing or differ.
const NOBODY: &str = "65534";

/// The same command, run as uid and gid 65534 without supplementary groups
/// or capabilities (needs root). `setpriv` execs, so the pid stays the
/// child's.
///
/// Program, arguments, environment and directory are taken over; redirected
/// streams cannot be read back from a [`Command`], so set those on the result.
#[must_use]
pub fn run_as_nobody(command: &Command) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
    append(setpriv, command)
}

/// The same command under `unshare FLAGS`, for example `&["--net"]`,
/// `&["--user", "--map-root-user"]` or `&["--pid", "--mount-proc"]`.
///
/// A new pid or time namespace needs a fork: `--fork --kill-child` is added when
/// `--pid` or `--time` is among the flags, so that killing `unshare` still kills the
/// command. Its pid is then not the child's.
/// About redirected streams see [`run_as_nobody`].
#[must_use]
pub fn in_unshare(flags: &[&str], command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(flags);
    if flags.contains(&"--pid") || flags.contains(&"--time") {
        unshare.args(["--fork", "--kill-child"]);
    }
    unshare.arg("--");
    append(unshare, command)
}

fn append(mut wrapper: Command, command: &Command) -> Command {
    wrapper.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapper.current_dir(directory);
    }
    wrapper
}
