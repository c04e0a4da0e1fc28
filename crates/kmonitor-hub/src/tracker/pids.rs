//! A set of pids as a bitmap: most events concern processes that nobody asked
//! for, and those must cost next to nothing, however many are asked for.

use kmonitor_event::Pid;

/// One more than the largest pid of any Linux (`PID_MAX_LIMIT`).
const PIDS_MAX: usize = 1 << 22;

/// So many neighbours share a bit: the fewer, the more of the cache the map takes;
/// the more, the more are looked up only because another one is tracked (with 8 an
/// unmatched event cost a quarter more at 100 000 subscriptions).
const NEIGHBOURS: usize = 2;

/// The pids that may be in the tracker's table: a pid that is not in here is
/// surely not tracked. At most 256 KiB, and what the kernel hands out in a row lies
/// side by side.
#[derive(Debug, Default)]
pub(super) struct Pids {
    words: Vec<u64>,
}

fn place(pid: Pid) -> (usize, u64) {
    let number = usize::try_from(pid.as_raw()).unwrap_or(usize::MAX) / NEIGHBOURS;
    (number / 64, 1 << (number % 64))
}

/// One more than the last word that there can be.
const WORDS_MAX: usize = PIDS_MAX / NEIGHBOURS / 64;

impl Pids {
    pub(super) fn insert(&mut self, pid: Pid) {
        let (word, bit) = place(pid);
        // No kernel gives larger ones; a recording may.
        if word >= WORDS_MAX {
            return;
        }
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Those that share a bit with this one, itself among them.
    pub(super) fn neighbours(pid: Pid) -> impl Iterator<Item = Pid> {
        let each = NEIGHBOURS as i32;
        let first = pid.as_raw() / each * each;
        (0..each).filter_map(move |at| Pid::new(first.checked_add(at)?))
    }

    /// Takes out a pid and all its neighbours.
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
            None => word >= WORDS_MAX,
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
        assert!(pids.may_contain(pid(64)) && !pids.may_contain(pid(66)));
        assert!(pids.may_contain(pid(4_194_303)));
        assert!(pids.may_contain(pid(i32::MAX)), "beyond the map");
        pids.remove(pid(64));
        assert!(!pids.may_contain(pid(64)));
    }

    #[test]
    fn neighbours_share_one_bit_and_nobody_else_does() {
        let pid = |raw| Pid::new(raw).unwrap();
        for raw in [1, 7, 8, 1000, 4_194_303, i32::MAX] {
            let mut pids = Pids::default();
            pids.insert(pid(raw));
            // Beyond the map everything may be.
            let end = raw.saturating_add(20).min(PIDS_MAX as i32);
            let near = raw.saturating_sub(20).max(1)..end;
            let neighbours: Vec<Pid> = Pids::neighbours(pid(raw)).collect();
            assert!(neighbours.contains(&pid(raw)));
            if raw < PIDS_MAX as i32 {
                let found = near.map(pid).filter(|it| pids.may_contain(*it));
                assert!(found.eq(neighbours), "of {raw}");
            }
        }
    }
}
