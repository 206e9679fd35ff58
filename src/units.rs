//! Percentages, ages and sizes: how they are typed, computed and shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time, UTC.
pub type Time = jiff::Timestamp;

/// A whole percentage from
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct Percent(u8);

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(percent: u8) -> Result<Self, String> {
        if percent <= 100 { Ok(Self(percent)) } else { Err(format!("{percent} is no percentage")) }
    }
}

impl Percent {
    pub const FULL: Self = Self(100);

    /// `part` of `whole`, rounded up as `df` rounds; `None` if the whole is 0.
    ///
    /// Source of the rounding: coreutils `src/df.c`, which adds one for any remainder.
    pub fn of(part: u64, whole: u64) -> Option<Self> {
        let percent = (u128::from(part) * 100).div_ceil(u128::from((whole > 0).then_some(whole)?));
        Some(Self(u8::try_from(percent.min(100)).unwrap_or(100)))
    }

    /// 0 to 100.
    pub fn minus(self, points: u8) -> Self {
        Self(self.0.saturating_sub(points))
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%').unwrap_or(text).parse() {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err("expected a whole number from 0 to 100, such as 80".into()),
        }
    }
}

/// Parse a duration such as `90s`, `30m`, `24h`, `7d` or `1h 30m`.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a duration such as 90s, 30m, 24h, 7d or \"1h 30m\""))
}

/// Parse a size in bytes such as `500M`, `20G` (decimal) or `1.5TiB` (binary).
///
/// # Errors
/// Says what a size looks like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let hint = "expected a size such as 500M, 20G or 1.5TiB";
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| hint.to_owned())
}

/// A greatest age, or `never` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge(pub Option<Duration>);

impl FromStr for MaxAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            age => {
                let age = parse_duration(age).map_err(|error| format!("{error}, or never"))?;
                if age.is_zero() {
                    Err("expected more than 0s, or never".into())
                } else {
                    Ok(Self(Some(age)))
                }
            }
        }
    }
}

/// How long ago `then` was; zero if it is in the future.
pub fn elapsed(now: Time, then: Time) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// An age in one unit: seconds up to 2 minutes, minutes up to 2 hours, hours up to 3 days, then days.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..259_200 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A duration as it would be typed: `90s`, `24h`, `7d`, `1h 1m 30s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // The largest unit of which it is a multiple, except hours from some days on (`8766h`).
    for (unit, name, least, most) in
        [(86_400, "d", 2, u64::MAX), (3_600, "h", 1, 72), (60, "m", 1, 120), (1, "s", 0, 120)]
    {
        let whole = seconds.is_multiple_of(unit) && duration.subsec_nanos() == 0;
        if whole && (least..=most).contains(&(seconds / unit)) {
            return format!("{}{name}", seconds / unit);
        }
    }
    humantime::format_duration(duration).to_string().replace("days", "d").replace("day", "d")
}

/// A size in decimal units, as `docker images` shows it: `1.2 GB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().si().to_string()
}

/// Text from outside, for a terminal, a log or a metrics file: without control characters.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_and_what_is_taken_is_in_range(text in ".{0,40}") {
            if let Ok(percent) = text.parse::<Percent>() {
                proptest::prop_assert!(percent.get() <= 100);
            }
            if let Ok(taken) = parse_duration(&text) {
                // It shows as it would be typed, and is no other then.
                proptest::prop_assert_eq!(parse_duration(&duration(taken)), Ok(taken));
            }
            proptest::prop_assert!(!clean(&text).contains(char::is_control));
        }

        #[test]
        fn any_duration_shows_as_it_is_typed(seconds in 0..100 * 365 * 86_400_u64) {
            let taken = Duration::from_secs(seconds);
            proptest::prop_assert_eq!(parse_duration(&duration(taken)), Ok(taken));
        }

        #[test]
        fn percentages_stay_in_range(part: u64, whole: u64) {
            let percent = Percent::of(part, whole).map(Percent::get);
            proptest::prop_assert_eq!(percent.is_none(), whole == 0);
            proptest::prop_assert!(percent.is_none_or(|percent| percent <= 100));
        }
    }

    #[test]
    fn percentages_round_up_and_need_a_whole() {
        let table = [
            (0, 100, Some(0)),
            (1, 1000, Some(1)),
            (800, 1000, Some(80)),
            (801, 1000, Some(81)),
            (7, 0, None),
            (100 << 40, 100 << 40, Some(100)),
            (u64::MAX, u64::MAX, Some(100)),
            (u64::MAX, 1, Some(100)),
        ];
        for (part, whole, expected) in table {
            assert_eq!(Percent::of(part, whole).map(Percent::get), expected, "{part} of {whole}");
        }
    }

    #[test]
    fn percentages_are_whole_numbers_to_100() {
        for (text, expected) in [("0", 0), ("80", 80), ("100", 100), ("95%", 95)] {
            assert_eq!(text.parse::<Percent>().map(Percent::get), Ok(expected));
        }
        for text in ["", "101", "-1", "80.5", "eighty", "%", "80%%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("1h 30m", 5400), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "h", "-1h", "1 fortnight", "99999999999999999999d"] {
            assert!(parse_duration(text).unwrap_err().contains("24h"), "{text}");
        }
    }

    #[test]
    fn durations_show_as_they_are_typed() {
        for (text, expected) in [
            ("24h", "24h"),
            ("1d", "24h"),
            ("7d", "7d"),
            ("1w", "7d"),
            ("1h 30m", "90m"),
            ("90s", "90s"),
            ("0s", "0s"),
            ("1h 1m 30s", "1h 1m 30s"),
            ("1500ms", "1s 500ms"),
        ] {
            assert_eq!(duration(parse_duration(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn ages_take_the_unit_a_person_would_pick() {
        for (seconds, expected) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (219_600, "61h"), (777_600, "9d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn the_future_is_no_age() {
        let now: Time = "2026-11-20T00:00:00Z".parse().unwrap();
        assert_eq!(elapsed(now, "2999-01-01T00:00:00Z".parse().unwrap()), Duration::ZERO);
        assert_eq!(elapsed(now, "2026-11-19T23:00:00Z".parse().unwrap()), Duration::from_secs(3600));
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("500M", 500_000_000), ("20G", 20_000_000_000), ("1.5TiB", 3 << 39), ("4096", 4096), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1G", "20X", "many"] {
            assert!(parse_size(text).unwrap_err().contains("20G"), "{text}");
        }
    }

    #[test]
    fn sizes_are_decimal() {
        for (bytes, expected) in [(0, "0 B"), (1_200_000_000, "1.2 GB"), (5_128_026, "5.1 MB")] {
            assert_eq!(size(bytes), expected);
        }
    }
}
