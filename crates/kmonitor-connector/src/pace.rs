//! When to pause: pure, without a clock or a socket.
//!
//! Being woken is what an event costs, not being copied: a wake-up and the way back
//! to sleep are many times the price of decoding it, and the process that caused the
//! event pays for waking us. So while events come thick the reader is not woken by
//! each: it pauses, and then reads all that has gathered.

use std::time::{Duration, Instant};

/// Over so many budgets wake-ups are counted.
const WINDOW_BUDGETS: u32 = 2;
/// With so many wake-ups in a window pausing begins: 8 for each pause that would have
/// spared 7 of them. One process that forks, execs and exits causes fewer, so it is
/// told of at once.
const WINDOW_WAKES: u32 = 16;
/// A pause that gathers fewer is the last: it delayed events, and spared little.
const GATHERED_MIN: u64 = 4;

/// Counts wake-ups, and says whether they are too many.
#[derive(Debug)]
pub(crate) struct Pace {
    budget: Duration,
    window_began: Option<Instant>,
    wakes: u32,
}

impl Pace {
    /// For pauses of this length; of none at all where it is zero.
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            budget,
            window_began: None,
            wakes: 0,
        }
    }

    /// How long a pause is.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Something woke us, and there was something to read.
    pub(crate) fn woken(&mut self, now: Instant) {
        let window = self.budget.saturating_mul(WINDOW_BUDGETS);
        let within = |began: &Instant| now.saturating_duration_since(*began) < window;
        if self.window_began.as_ref().is_some_and(within) {
            self.wakes += 1;
        } else {
            self.window_began = Some(now);
            self.wakes = 1;
        }
    }

    /// Whether a pause is due. Counting begins anew.
    pub(crate) fn begins_pause(&mut self) -> bool {
        let begins = self.wakes >= WINDOW_WAKES && !self.budget.is_zero();
        if begins {
            self.window_began = None;
            self.wakes = 0;
        }
        begins
    }

    /// Whether after a pause that gathered so many datagrams another one is due.
    pub(crate) fn goes_on(gathered: u64) -> bool {
        gathered >= GATHERED_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(2);

    /// After how many wake-ups, one each `every`, a pause begins.
    fn begins_after(budget: Duration, every: Duration) -> Option<usize> {
        let (mut pace, mut now) = (Pace::new(budget), Instant::now());
        (1..200).find(|_| {
            now += every;
            pace.woken(now);
            pace.begins_pause()
        })
    }

    #[test]
    fn it_pauses_where_wake_ups_come_thick_and_not_before() {
        let micros = Duration::from_micros;
        assert_eq!(begins_after(BUDGET, micros(20)), Some(16));
        assert_eq!(begins_after(BUDGET, micros(240)), Some(16));
        assert_eq!(begins_after(BUDGET, micros(400)), None);
        assert_eq!(begins_after(Duration::ZERO, micros(1)), None);
        assert_eq!(
            begins_after(Duration::MAX, Duration::from_secs(9)),
            Some(16)
        );
    }

    #[test]
    fn a_burst_that_ends_is_forgotten() {
        let (mut pace, mut now) = (Pace::new(BUDGET), Instant::now());
        for _ in 0..100 {
            for _ in 0..10 {
                now += Duration::from_micros(50);
                pace.woken(now);
                assert!(!pace.begins_pause());
            }
            now += 2 * BUDGET;
        }
    }

    #[test]
    fn it_goes_on_while_there_is_something_to_gather() {
        assert!(Pace::goes_on(4));
        assert!(!Pace::goes_on(3));
    }
}
