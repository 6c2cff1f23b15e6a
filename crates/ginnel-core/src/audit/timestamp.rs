//! When: RFC 3339 in UTC with microseconds, always of the same width, so that text order is time order.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The last microsecond of the year 9999, the last that RFC 3339 can write.
const MICROS_MAX: u64 = 253_402_300_799_999_999;

/// A point of wall-clock time in whole microseconds, from 1970, which is the default, to 9999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time after so long, at most the last that can be written.
    #[must_use]
    pub fn saturating_add(self, time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MICROS_MAX);
        Self(self.0.saturating_add(micros).min(MICROS_MAX))
    }
}

/// A text that is neither an RFC 3339 time nor a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written 2026-01-31T13:45:00Z, or 2026-01-31 for that day's midnight in UTC, and is not before 1970")]
pub struct NotATime;

/// A time outside the range becomes its nearer end: a clock that is so wrong must not keep a record from being written.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_micros()).unwrap_or(MICROS_MAX).min(MICROS_MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        Self::UNIX_EPOCH + Duration::from_micros(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000).map_err(|_| fmt::Error)?;
        write!(f, "{:04}-{:02}-{:02}T", at.year(), u8::from(at.month()), at.day())?;
        write!(f, "{:02}:{:02}:{:02}.{:06}Z", at.hour(), at.minute(), at.second(), at.microsecond())
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let whole;
        let text = if text.len() == "2026-01-31".len() {
            whole = format!("{text}T00:00:00Z");
            &whole
        } else {
            text
        };
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NotATime)?;
        let micros = u64::try_from(at.unix_timestamp_nanos().div_euclid(1000)).map_err(|_| NotATime)?;
        if micros > MICROS_MAX { Err(NotATime) } else { Ok(Self(micros)) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_microseconds_in_utc_and_reads_them_back() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_795_312_573_120_000, "2026-11-22T01:56:13.120000Z"),
            (MICROS_MAX, "9999-12-31T23:59:59.999999Z"),
        ];
        for (micros, text) in cases {
            let time = Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
    }

    #[test]
    fn reads_offsets_and_days() {
        let cases = [
            ("2026-11-22T02:56:13.12+01:00", "2026-11-22T01:56:13.120000Z"),
            ("2026-11-22T01:56:13Z", "2026-11-22T01:56:13.000000Z"),
            ("2026-11-22", "2026-11-22T00:00:00.000000Z"),
        ];
        for (text, same) in cases {
            assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(same.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in
            ["", "now", "1969-12-31", "2026-02-30", "2026-11-22T01:56", "22.11.2026", "9999-12-31T23:59:59-23:59"]
        {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn bends_an_impossible_clock_to_the_nearer_end() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let after = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Timestamp::from(before).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from(after).to_string(), "9999-12-31T23:59:59.999999Z");
    }
}
