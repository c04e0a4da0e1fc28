//! Being a subreaper: orphans among our descendants come to us and not to init.
//!
//! That is a property of the whole program, so it lasts as long as a backend follows
//! trees, and no longer: whoever gets orphans must reap them.

use std::sync::{Mutex, PoisonError};

use rustix::process::{child_subreaper, getpid, set_child_subreaper};

/// How many want it, and whether it was so before the first.
static WANTED: Mutex<(usize, bool)> = Mutex::new((0, false));

/// As long as one of these lives, we are a subreaper.
#[derive(Debug)]
pub(super) struct Subreaper(());

impl Subreaper {
    pub(super) fn begin() -> rustix::io::Result<Self> {
        let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.0 == 0 {
            wanted.1 = child_subreaper()?.is_some();
            set_child_subreaper(Some(getpid()))?;
        }
        wanted.0 += 1;
        Ok(Self(()))
    }

    /// Whether any backend of this program is one.
    pub(super) fn is_active() -> bool {
        WANTED.lock().unwrap_or_else(PoisonError::into_inner).0 > 0
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.0 = wanted.0.saturating_sub(1);
        if wanted.0 == 0 && !wanted.1 {
            // It worked before, and there is nobody to tell.
            let _ = set_child_subreaper(None);
        }
    }
}
