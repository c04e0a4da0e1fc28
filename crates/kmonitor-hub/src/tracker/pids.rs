//! A set of pids as a bitmap: most events concern processes that nobody asked
//! for, and those must cost next to nothing, however many are asked for.

use kmonitor_event::Pid;

/// One more than the largest pid of any Linux (`PID_MAX_LIMIT`).
const PIDS_MAX: usize = 1 << 22;

/// The pids that may be in the tracker's table: a pid that is not in here is
/// surely not tracked. At most half a MiB, and neighbours share a cache line, as
/// the kernel hands out pids in a row.
#[derive(Debug, Default)]
pub(super) struct Pids {
    words: Vec<u64>,
}

fn place(pid: Pid) -> (usize, u64) {
    let number = usize::try_from(pid.as_raw()).unwrap_or(usize::MAX);
    (number / 64, 1 << (number % 64))
}

impl Pids {
    pub(super) fn insert(&mut self, pid: Pid) {
        let (word, bit) = place(pid);
        // No kernel gives larger ones; a recording may.
        if word >= PIDS_MAX / 64 {
            return;
        }
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    pub(super) fn remove(&mut self, pid: Pid) {
        let (word, bit) = place(pid);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether the pid may be tracked.
    pub(super) fn may_contain(&self, pid: Pid) -> bool {
        let (word, bit) = place(pid);
        match self.words.get(word) {
            Some(word) => word & bit != 0,
            None => word >= PIDS_MAX / 64,
        }
    }

    /// Touches the places of these pids.
    pub(super) fn warm(&self, pids: &[Pid]) {
        let word = |pid: &Pid| self.words.get(place(*pid).0).copied().unwrap_or(0);
        std::hint::black_box(pids.iter().fold(0, |all, pid| all | word(pid)));
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_and_admits_what_it_cannot_know() {
        let pid = |raw| Pid::new(raw).unwrap();
        let mut pids = Pids::default();
        assert!(!pids.may_contain(pid(1)));
        pids.insert(pid(64));
        pids.insert(pid(4_194_303));
        pids.insert(pid(i32::MAX));
        assert!(pids.may_contain(pid(64)) && !pids.may_contain(pid(65)));
        assert!(pids.may_contain(pid(4_194_303)));
        assert!(pids.may_contain(pid(i32::MAX)), "beyond the map");
        pids.remove(pid(64));
        assert!(!pids.may_contain(pid(64)));
    }
}
