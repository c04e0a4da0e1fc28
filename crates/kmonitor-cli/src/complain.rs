//! Words to the person at the keyboard, on stderr.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;

/// One line on stderr, with the name of the command before it.
///
/// Who closed stderr does not want to know: failing to write is no error, and
/// must not end the program as `eprintln!` would.
pub(crate) fn complain(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "kmonitor: {message}");
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Transparent errors say the same as their cause.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn causes_follow_on_the_same_line() {
        let inner = io::Error::other("no room");
        let error = kmonitor::WatchError::Io {
            action: "watch the process",
            source: inner,
        };
        assert_eq!(chain(&error), "failed to watch the process: no room");
    }
}
