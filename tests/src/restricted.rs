//! Callers to whom the kernel denies what kmonitor likes best.

use std::io;

use crate::sys;

/// Runs `call` on a thread of its own, to which, and to all that it starts, the
/// kernel answers `errno` instead of opening pidfds: a real seccomp filter.
///
/// # Errors
/// The filter cannot be installed.
///
/// # Panics
/// When `call` does.
pub fn without_pidfd_open<T: Send>(errno: i32, call: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let restricted = scope.spawn(move || {
            sys::forbid_pidfd_open(errno)?;
            Ok(call())
        });
        restricted
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
