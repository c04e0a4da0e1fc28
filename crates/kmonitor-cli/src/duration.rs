//! Durations as people type them: `1.5`, `30s`, `2m`, `1h`.

use std::fmt;
use std::time::Duration;

/// As in FreeBSD's `pwait`: about three years.
const SECONDS_MAX: f64 = 100_000_000.0;

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurationError {
    Value,
    Unit,
    TooLong,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "expected a number that is not negative, such as 1.5, 30s, 2m or 1h",
            Self::Unit => "unknown unit; known are s (seconds), m (minutes) and h (hours)",
            Self::TooLong => "longer than 100000000 seconds",
        })
    }
}

impl std::error::Error for DurationError {}

/// An integer or decimal number, and `s`, `m` or `h`; seconds without a unit.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    // `f64` would also take a lone "." for a number on no system; digits it needs.
    let number: f64 = number.parse().map_err(|_| DurationError::Value)?;
    let factor = match unit {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            return Err(DurationError::Unit);
        }
        _ => return Err(DurationError::Value),
    };
    let seconds = number * factor;
    if seconds > SECONDS_MAX {
        return Err(DurationError::TooLong);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| DurationError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_units() {
        let millis = |text| parse(text).unwrap().as_millis();
        assert_eq!(millis("0"), 0);
        assert_eq!(millis("1.5"), 1500);
        assert_eq!(millis(".25"), 250);
        assert_eq!(millis("30s"), 30_000);
        assert_eq!(millis("2m"), 120_000);
        assert_eq!(millis("1.5h"), 5_400_000);
        assert_eq!(millis("100000000"), 100_000_000_000);
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", ".", "-1", "s", "x", "1..2", "1 s", "nan", "inf", "+1"] {
            assert_eq!(parse(text), Err(DurationError::Value), "{text:?}");
        }
        for text in ["1d", "1S", "1ms", "3e4", "5sec"] {
            assert_eq!(parse(text), Err(DurationError::Unit), "{text:?}");
        }
        for text in [
            "100000001",
            "30000h",
            "99999999999999999999999999999999999999",
        ] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text:?}");
        }
    }
}
