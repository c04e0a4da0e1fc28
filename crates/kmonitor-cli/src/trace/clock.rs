//! Times as text.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use kmonitor::{ClockAnchor, Timestamp};

use crate::args::TimeArg;

/// Prints timestamps the way that was asked for.
pub(crate) struct Clock {
    which: TimeArg,
    started: Timestamp,
    anchor: ClockAnchor,
}

impl Clock {
    pub(crate) fn new(which: TimeArg, started: Timestamp) -> Self {
        Self {
            which,
            started,
            anchor: ClockAnchor::now(),
        }
    }

    pub(crate) fn write(&self, at: Timestamp, to: &mut String) {
        let _ = match self.which {
            TimeArg::Relative => {
                let since = at.saturating_since(self.started);
                write!(to, "{:>5}.{:06}", since.as_secs(), since.subsec_micros())
            }
            TimeArg::Monotonic => write!(to, "{at:>14}"),
            TimeArg::Wall => {
                to.push_str(&wall(self.anchor.wall_time(at)));
                Ok(())
            }
        };
    }
}

/// As RFC 3339 has it, in UTC: the standard library knows no time zones.
fn wall(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let micros = since.subsec_micros();
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a number of days since 1970-01-01, by eras of 400
/// years that begin on a first of March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| wall(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00.000000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn relative_times_never_go_below_zero() {
        let clock = Clock::new(TimeArg::Relative, Timestamp::from_nanos(5_000_000_000));
        let mut text = String::new();
        clock.write(Timestamp::from_nanos(6_500_001_000), &mut text);
        assert_eq!(text, "    1.500001");
        text.clear();
        clock.write(Timestamp::from_nanos(1), &mut text);
        assert_eq!(text, "    0.000000");
    }
}
