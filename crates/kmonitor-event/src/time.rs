//! When something happened.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// An instant on the kernel's monotonic clock (`CLOCK_MONOTONIC`), in
/// nanoseconds. It stands still while the machine sleeps.
///
/// Events are delivered in the order of the kernel's queue; their timestamps may
/// step back by some hundred microseconds between CPUs. They are told, and never
/// sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Timestamp(u64);

impl Timestamp {
    /// The instant so many nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The clock now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// The time from `earlier` to this instant; zero where it is not earlier.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant less a while; not before the clock's start.
    #[must_use]
    pub fn saturating_sub(self, while_: Duration) -> Self {
        let nanos = u64::try_from(while_.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// This instant and a while.
    #[must_use]
    pub fn saturating_add(self, while_: Duration) -> Self {
        let nanos = u64::try_from(while_.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// This instant as wall time, by the clocks as they stand now. For many
    /// timestamps, or for the same answer twice, keep a [`ClockAnchor`].
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        ClockAnchor::now().wall_time(self)
    }
}

/// Seconds and microseconds since the clock's start.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1_000;
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// One moment on both clocks, to turn timestamps into wall time.
///
/// Wrong by as much as the wall clock was set, or the machine slept, between the
/// two moments.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use kmonitor_event::{ClockAnchor, Timestamp};
///
/// let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(43_200);
/// let anchor = ClockAnchor::new(Timestamp::from_nanos(5_000_000_000), noon);
/// let earlier = anchor.wall_time(Timestamp::from_nanos(4_000_000_000));
/// assert_eq!(noon.duration_since(earlier).unwrap(), Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockAnchor {
    monotonic: Timestamp,
    wall: SystemTime,
}

impl ClockAnchor {
    /// Both clocks at the same moment.
    #[must_use]
    pub const fn new(monotonic: Timestamp, wall: SystemTime) -> Self {
        Self { monotonic, wall }
    }

    /// Both clocks now.
    #[must_use]
    pub fn now() -> Self {
        Self::new(Timestamp::now(), SystemTime::now())
    }

    /// The wall time of an instant. Saturates at the anchor where the system's
    /// time type cannot hold the answer.
    #[must_use]
    pub fn wall_time(&self, at: Timestamp) -> SystemTime {
        let shifted = if at >= self.monotonic {
            self.wall.checked_add(at.saturating_since(self.monotonic))
        } else {
            self.wall.checked_sub(self.monotonic.saturating_since(at))
        };
        shifted.unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_goes_on_and_maps_to_the_wall_clock() {
        let first = Timestamp::now();
        let second = Timestamp::now();
        assert!(second >= first && first.as_nanos() > 0);
        let wall = second.to_system_time();
        let off = SystemTime::now()
            .duration_since(wall)
            .unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(5), "off by {off:?}");
    }

    #[test]
    fn display_is_seconds_and_micros() {
        assert_eq!(
            Timestamp::from_nanos(12_000_345_999).to_string(),
            "12.000345"
        );
    }
}
