//! The lock: at most one supervisor uses a directory, and its two lines say which
//! directory that is and who it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Locks a file against all other programs, waiting so long. Whether that worked.
pub(in crate::backend::linux) async fn flocked(
    file: &File,
    patience: Duration,
) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What the lock file says: the directory's id, and who holds it.
pub(super) fn lock_text(lock: &File) -> (Option<String>, Option<i32>) {
    let mut bytes = [0; 128];
    let length = lock.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
    let mut lines = text.lines();
    let id = lines
        .next()
        .filter(|id| id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let holder = lines.next().and_then(|pid| pid.trim().parse().ok());
    (id.map(str::to_owned), holder)
}

/// Writes down that we hold the lock. The id stays as it is: cgroups are named by it.
pub(super) fn note_holder(lock: &File) -> io::Result<String> {
    let id = match lock_text(lock).0 {
        Some(id) => id,
        None => {
            lock.set_len(0)?;
            let id = new_id();
            lock.write_all_at(format!("{id}\n").as_bytes(), 0)?;
            id
        }
    };
    let after = ID_LENGTH as u64 + 1;
    lock.set_len(after)?;
    lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), after)?;
    Ok(id)
}

pub(super) const ID_LENGTH: usize = 16;

fn new_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}
