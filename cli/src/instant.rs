//! Instants on the command line: UTC as RFC 3339 has it, or seconds since the Unix epoch behind an `@`.
//!
//! Invariant: to the millisecond; an instant is read back as it was written. No time zones but UTC: what an operator
//! copies from a log must mean the same everywhere.

use std::fmt;
use std::str::FromStr;

const MS_OF_DAY: u64 = 24 * 3600 * 1000;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) u64);

impl FromStr for Instant {
    type Err = String;

    fn from_str(text: &str) -> Result<Instant, String> {
        let read = match text.strip_prefix('@') {
            Some(seconds) => since_epoch(seconds),
            None => date_and_time(text),
        };
        read.map(Instant).ok_or_else(|| {
            "give a time in UTC such as 2026-01-31T12:00:00Z or @1769860800".to_owned()
        })
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date_of(self.0 / MS_OF_DAY);
        let ms = self.0 % MS_OF_DAY;
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / 1000 % 60, ms % 1000);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"
        )
    }
}

fn since_epoch(text: &str) -> Option<u64> {
    let (seconds, ms) = with_fraction(text)?;
    number(seconds)?.checked_mul(1000)?.checked_add(ms)
}

fn date_and_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = parts(date, '-')?;
    let (time, ms) = with_fraction(time)?;
    let [hour, minute, second] = parts(time, ':')?;
    let is_time = hour < 24 && minute < 60 && second < 60;
    let days = days_of(year, month, day).filter(|_| is_time)?;
    let seconds = hour
        .checked_mul(3600)?
        .checked_add(minute.checked_mul(60)?)?
        .checked_add(second)?;
    days.checked_mul(MS_OF_DAY)?
        .checked_add(seconds.checked_mul(1000)?)?
        .checked_add(ms)
}

/// What stands before a point, and the milliseconds behind it.
fn with_fraction(text: &str) -> Option<(&str, u64)> {
    let Some((whole, fraction)) = text.split_once('.') else {
        return Some((text, 0));
    };
    let digits = fraction.get(..fraction.len().min(3))?;
    number(fraction)?;
    let ms = number(digits)?;
    Some((
        whole,
        match digits.len() {
            1 => ms.checked_mul(100)?,
            2 => ms.checked_mul(10)?,
            _ => ms,
        },
    ))
}

fn parts(text: &str, at: char) -> Option<[u64; 3]> {
    let parts: Option<Vec<u64>> = text.split(at).map(number).collect();
    parts?.try_into().ok()
}

fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// Days since the epoch of a date from 1970 to 9999.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_date = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day);
    let years: u64 = (1970..year).map(days_in_year).sum();
    let months: u64 = (1..month.min(12)).map(|month| days_in(year, month)).sum();
    let days = years.saturating_add(months).saturating_add(day);
    is_date.then(|| days.saturating_sub(1))
}

/// The date of a day since the epoch.
fn date_of(mut days: u64) -> (u64, u64, u64) {
    let (mut year, mut month) = (1970u64, 1u64);
    while days >= days_in_year(year) {
        days = days.saturating_sub(days_in_year(year));
        year = year.saturating_add(1);
        if year > 9999 {
            // Nothing of this is ever read back.
            return (year, 1, 1);
        }
    }
    while days >= days_in(year, month) {
        days = days.saturating_sub(days_in(year, month));
        month = month.saturating_add(1);
    }
    (year, month, days.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_instant_is_read_in_both_ways() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("@0", 0),
            ("@1769860800.25", 1_769_860_800_250),
            ("2026-01-31T12:00:00Z", 1_769_860_800_000),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2024-12-31T00:00:00.5Z", 1_735_603_200_500),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999),
        ] {
            assert_eq!(text.parse(), Ok(Instant(ms)), "{text}");
        }
        for wrong in [
            "",
            "@",
            "@x",
            "@1.",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "2026-1-31T12:00Z",
            "2026-01-31T12:00:00+01:00",
            "2026-00-10T00:00:00Z",
        ] {
            assert!(wrong.parse::<Instant>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_instant_is_read_back_as_it_was_written(ms in 0u64..253_402_300_800_000) {
            let instant = Instant(ms);
            prop_assert_eq!(instant.to_string().parse(), Ok(instant));
        }
    }
}
