//! A set of pids as a bitmap: most events concern processes that nobody asked
//! for, and those must cost next to nothing, however many are asked for.

use kmonitor_event::Pid;

/// So many bits there are for each pid at least, after the set was made. The fewer,
/// the more are looked up only because a tracked one has the same bit; the more, the
/// more of the cache the map takes.
const BITS_EACH: usize = 32;

/// Half of the pids that any Linux hands out (`PID_MAX_LIMIT`): then two share a bit,
/// and the map takes 256 KiB. With 8 to a bit an unmatched event cost a quarter more
/// at 100 000 subscriptions.
const BITS_MAX: usize = 1 << 21;

const BITS_MIN: usize = 1 << 12;

/// The pids that may be in the tracker's table: a pid that is not in here is
/// surely not tracked.
///
/// A pid's bit is its number, folded to the size of the map: what the kernel hands
/// out in a row lies side by side. Nothing is taken out: when as much has been put in
/// as the map is good for, it is made anew.
#[derive(Debug)]
pub(super) struct Pids {
    words: Box<[u64]>,
    /// How many more may be put in.
    room: usize,
}

impl Default for Pids {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Pids {
    /// An empty set that is good for about so many pids.
    pub(super) fn new(pids: usize) -> Self {
        let wanted = pids.saturating_mul(BITS_EACH).clamp(BITS_MIN, BITS_MAX);
        // A power of two, so that folding is a mask.
        let bits = wanted.next_power_of_two();
        Self {
            words: vec![0; bits / 64].into(),
            room: (bits / BITS_EACH).max(pids) + pids / 2,
        }
    }

    fn place(&self, pid: Pid) -> (usize, u64) {
        // No pid is negative.
        let number = pid.as_raw().unsigned_abs() as usize;
        let word = (number / 64) & (self.words.len() - 1);
        (word, 1 << (number % 64))
    }

    /// Puts a pid in. Whether the set should be made anew.
    pub(super) fn insert(&mut self, pid: Pid) -> bool {
        let (word, bit) = self.place(pid);
        self.words[word] |= bit;
        self.room = self.room.saturating_sub(1);
        self.room == 0
    }

    /// Whether the pid may be tracked.
    pub(super) fn may_contain(&self, pid: Pid) -> bool {
        let (word, bit) = self.place(pid);
        self.words[word] & bit != 0
    }

    /// Touches the places of these pids.
    pub(super) fn warm(&self, pids: &[Pid]) {
        let word = |pid: &Pid| self.words[self.place(*pid).0];
        std::hint::black_box(pids.iter().fold(0, |all, pid| all | word(pid)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(raw: usize) -> Pid {
        Pid::new(i32::try_from(raw).unwrap()).unwrap()
    }

    #[test]
    fn holds_what_was_put_in_and_little_else() {
        for count in [1, 100, 10_000, 100_000] {
            let mut pids = Pids::new(count);
            let put_in = |at: usize| pid(at * 41 + 1);
            for at in 0..count {
                assert!(!pids.insert(put_in(at)), "{at} of {count} is too much");
            }
            assert!((0..count).all(|at| pids.may_contain(put_in(at))));
            let all = 1_usize << 22;
            let taken = (1..all).filter(|raw| pids.may_contain(pid(*raw))).count();
            let too_many = (taken - count) as f64 / all as f64;
            assert!(too_many < 0.06, "{too_many} at {count}");
            assert!(pids.may_contain(put_in(0)));
        }
        assert!(!Pids::default().may_contain(pid(i32::MAX as usize)));
    }

    #[test]
    fn says_when_to_make_it_anew() {
        let mut pids = Pids::new(0);
        let inserted = (1..).map(pid).take_while(|it| !pids.insert(*it)).count();
        assert!((64..1024).contains(&inserted), "{inserted}");
    }
}
