//! The files that are open now, within bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::FxHashMap;
use rustix::io::Errno;

/// How many files may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Of all users together; then `ENFILE`.
    pub(crate) total_max: usize,
    /// Of one user; then `EMFILE`. So nobody locks the others out.
    pub(crate) per_user_max: usize,
}

/// One open file, and what was registered through it.
#[derive(Debug)]
pub(crate) struct OpenFile<S> {
    pub(crate) session: S,
    user: u32,
    refusal_told: AtomicBool,
}

impl<S> OpenFile<S> {
    /// Whether this is the first refusal through this file. The log tells one
    /// for each, so that a caller in a loop does not fill it.
    pub(crate) fn is_first_refusal(&self) -> bool {
        !self.refusal_told.swap(true, Ordering::Relaxed)
    }
}

/// All open files, by a handle that is never used again.
#[derive(Debug)]
pub(crate) struct Files<S> {
    bounds: Bounds,
    open: FxHashMap<u64, Arc<OpenFile<S>>>,
    /// How many of them are whose. As many entries at most as there are files.
    per_user: FxHashMap<u32, usize>,
    next: u64,
}

impl<S> Files<S> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            open: FxHashMap::default(),
            per_user: FxHashMap::default(),
            next: 1,
        }
    }

    /// Another file, with a session of its own.
    pub(crate) fn open(&mut self, user: u32, session: impl FnOnce() -> S) -> Result<u64, Errno> {
        if self.open.len() >= self.bounds.total_max {
            return Err(Errno::NFILE);
        }
        let of_user = self.per_user.entry(user).or_default();
        if *of_user >= self.bounds.per_user_max {
            return Err(Errno::MFILE);
        }
        *of_user += 1;
        let handle = self.next;
        self.next += 1;
        let file = OpenFile {
            session: session(),
            user,
            refusal_told: AtomicBool::new(false),
        };
        self.open.insert(handle, Arc::new(file));
        Ok(handle)
    }

    pub(crate) fn get(&self, handle: u64) -> Option<Arc<OpenFile<S>>> {
        self.open.get(&handle).cloned()
    }

    /// Takes out a file that was closed. Its records go with the last user of
    /// what is returned.
    pub(crate) fn close(&mut self, handle: u64) -> Option<Arc<OpenFile<S>>> {
        let file = self.open.remove(&handle)?;
        if let Some(count) = self.per_user.get_mut(&file.user) {
            *count -= 1;
            if *count == 0 {
                self.per_user.remove(&file.user);
            }
        }
        Some(file)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files<()> {
        Files::new(Bounds {
            total_max: 3,
            per_user_max: 2,
        })
    }

    #[test]
    fn one_user_cannot_lock_out_another() {
        let mut files = files();
        let first = files.open(1, || ()).unwrap();
        files.open(1, || ()).unwrap();
        assert_eq!(files.open(1, || ()), Err(Errno::MFILE));
        files.open(2, || ()).unwrap();
        assert_eq!(files.open(2, || ()), Err(Errno::NFILE));
        assert!(files.close(first).is_some());
        assert!(files.close(first).is_none());
        files.open(1, || ()).unwrap();
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn what_is_closed_leaves_nothing_behind() {
        let mut files = files();
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..100 {
            let handle = files.open(user, || ()).unwrap();
            assert!(seen.insert(handle), "a handle is never used again");
            assert!(files.get(handle).is_some());
            files.close(handle);
            assert!(files.get(handle).is_none());
        }
        assert!(files.per_user.is_empty() && files.open.is_empty());
    }
}
