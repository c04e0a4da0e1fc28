//! The diagnostic log, on stderr; off unless asked for, or usual for the command.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::complain::complain;
use crate::exit::Code;

/// The variable that stands in for `--log`.
const VARIABLE: &str = "KMONITOR_LOG";

/// Starts logging at the given level, or at that of the environment, or at the
/// one that is usual for the command.
pub(crate) fn start(level: Option<&str>, usual: Option<&str>) -> Result<(), Code> {
    let from_environment = std::env::var(VARIABLE).ok();
    let (origin, Some(directives)) = (match level {
        Some(level) => ("--log", Some(level)),
        None => (VARIABLE, from_environment.as_deref().or(usual)),
    }) else {
        return Ok(());
    };
    if directives.is_empty() {
        return Ok(());
    }
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        complain(format_args!(
            "{origin}: {error}; expected error, warn, info, debug or trace, \
             or directives such as kmonitor_hub=debug"
        ));
        Code::Usage
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        // The journal notes the time itself.
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}
