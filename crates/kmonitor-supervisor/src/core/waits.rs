//! How long a restart is put off, and how many are borne.

use std::collections::VecDeque;
use std::time::Duration;

use crate::spec::{Backoff, Intensity};

/// The wait before the `nth` restart in a row, from 0; `dice` is from 0 to 1.
pub(crate) fn wait(backoff: &Backoff, nth: u32, dice: f64) -> Duration {
    let plain = plain_wait(backoff, nth).as_secs_f64();
    let swing = backoff.jitter.clamp(0.0, 1.0) * (dice * 2.0 - 1.0);
    Duration::try_from_secs_f64(plain * (1.0 + swing)).unwrap_or(backoff.max)
}

/// The same without jitter.
pub(crate) fn plain_wait(backoff: &Backoff, nth: u32) -> Duration {
    let growth = backoff.factor.powf(f64::from(nth));
    Duration::try_from_secs_f64(backoff.first.as_secs_f64() * growth)
        .unwrap_or(Duration::MAX)
        .min(backoff.max)
}

/// The restarts of late.
///
/// Bounded by what the intensity bears, plus one.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Duration>);

impl Window {
    /// Counts a restart; `false`: it is one too many.
    pub(crate) fn bears(&mut self, intensity: Intensity, now: Duration) -> bool {
        while let Some(&oldest) = self.0.front()
            && now.saturating_sub(oldest) > intensity.period
        {
            self.0.pop_front();
        }
        self.0.push_back(now);
        self.0.len() <= intensity.restarts as usize
    }
}
