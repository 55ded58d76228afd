//! Durations and sizes as an operator writes them: `5s`, `1h30m`, `64KiB`.

use std::fmt::Write;
use std::time::Duration;

/// A year: more is a slip of the finger, and sums of such durations cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("has no unit")]
    MissingUnit,
    #[error("has an unknown unit")]
    UnknownUnit,
    #[error("has a unit that is not smaller than the one before it")]
    UnitOrder,
    #[error("does not begin with a whole number")]
    NotANumber,
    #[error("is too large")]
    TooLarge,
}

/// Reads whole numbers with the units `h`, `m`, `s`, `ms`, largest first. A bare number is refused, because nobody can
/// see whether it means seconds or milliseconds.
///
/// # Errors
/// One variant a rule.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text;
    let mut millis: u64 = 0;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() || unit_before == u64::MAX {
        let (number, after) = leading_number(rest)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(UnitError::MissingUnit);
        }
        let (_, unit_millis) =
            DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?;
        if unit_millis >= unit_before {
            return Err(UnitError::UnitOrder);
        }
        unit_before = unit_millis;
        millis =
            number.checked_mul(unit_millis).and_then(|part| millis.checked_add(part)).ok_or(UnitError::TooLarge)?;
        rest = after;
    }
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX { Err(UnitError::TooLarge) } else { Ok(duration) }
}

/// The shortest text that [`parse_duration`] reads as the same whole number of milliseconds.
pub fn print_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_millis) in DURATION_UNITS {
        if millis >= unit_millis {
            let _ = write!(text, "{}{unit}", millis / unit_millis);
            millis %= unit_millis;
        }
    }
    text
}

/// Reads bytes: a whole number, alone or with `KiB`, `MiB`, `GiB`. Decimal units are refused: `64KB` is read as 64,000
/// by some and as 65,536 by others.
///
/// # Errors
/// One variant a rule.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = leading_number(text)?;
    let unit_bytes = match unit {
        "" => 1,
        unit => SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?.1,
    };
    number.checked_mul(unit_bytes).ok_or(UnitError::TooLarge)
}

/// The text that [`parse_size`] reads as `bytes`, in the largest unit that divides it.
pub fn print_size(bytes: u64) -> String {
    for (unit, unit_bytes) in SIZE_UNITS.into_iter().rev() {
        if bytes >= unit_bytes && bytes.is_multiple_of(unit_bytes) {
            return format!("{}{unit}", bytes / unit_bytes);
        }
    }
    bytes.to_string()
}

fn leading_number(text: &str) -> Result<(u64, &str), UnitError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NotANumber);
    }
    // Digits alone can only fail to parse by being too many.
    number.parse().map(|number| (number, rest)).map_err(|_: std::num::ParseIntError| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("5s", 5000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1m1s1ms", 61_001),
            ("0s", 0),
            ("90s", 90_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_other_durations() {
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("5", UnitError::MissingUnit),
            ("1h30", UnitError::MissingUnit),
            ("s", UnitError::NotANumber),
            ("-5s", UnitError::NotANumber),
            ("+5s", UnitError::NotANumber),
            (" 5s", UnitError::NotANumber),
            ("5 s", UnitError::UnknownUnit),
            ("1.5s", UnitError::UnknownUnit),
            ("5S", UnitError::UnknownUnit),
            ("5sec", UnitError::UnknownUnit),
            ("1d", UnitError::UnknownUnit),
            ("1m1h", UnitError::UnitOrder),
            ("1s1s", UnitError::UnitOrder),
            ("99999999999999999999s", UnitError::TooLarge),
            ("18446744073709551615h", UnitError::TooLarge),
            ("9000h", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn reads_and_refuses_sizes() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("65536", Ok(65536)),
            ("64KiB", Ok(65536)),
            ("1MiB", Ok(1 << 20)),
            ("2GiB", Ok(2 << 30)),
            ("64KB", Err(UnitError::UnknownUnit)),
            ("64k", Err(UnitError::UnknownUnit)),
            ("KiB", Err(UnitError::NotANumber)),
            ("-1", Err(UnitError::NotANumber)),
            ("99999999999GiB", Err(UnitError::TooLarge)),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_as_the_same(millis in 0_u64..31_000_000_000, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
