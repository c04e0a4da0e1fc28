//! A pid that belongs to somebody else now.

use std::time::Instant;

use kmonitor_tests::HeldPid;

use crate::patience::PATIENCE;

/// The next owner of a pid that has just become free; the one after, where a
/// process of another test got it first.
pub(crate) fn successor(pid: i32) -> HeldPid {
    let since = Instant::now();
    loop {
        match HeldPid::spawn(pid) {
            Ok(held) => return held,
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists
                    && since.elapsed() < PATIENCE =>
            {
                std::thread::yield_now();
            }
            Err(error) => panic!("{pid} again: {error}"),
        }
    }
}
