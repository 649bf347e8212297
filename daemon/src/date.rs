//! Days of the calendar, in universal time.

use std::time::{SystemTime, UNIX_EPOCH};

/// The day it is, `2026-01-20`, by the system's clock.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    day(seconds / 86_400)
}

/// Days from 1970-01-01 to a day written as `2026-01-20`; `None` for what is no day, or one before 1970 or after 9999.
pub fn parse(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    };
    let (year, month) = (number(0, 4)?, number(5, 7)?);
    // No day is farther from the one that 366 days a year and 31 a month lead to.
    let most = year.checked_sub(1970)? * 366 + month * 31 + 31;
    let least = (year - 1970) * 365 + month.saturating_sub(1) * 28;
    (least..=most).find(|&days| day(days) == text)
}

/// The day `days` after 1970-01-01, in the Gregorian calendar.
pub fn day(days: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_472, "2026-01-19"),
            (20_818, "2026-12-31"),
        ] {
            assert_eq!(day(days), expected);
            assert_eq!(parse(expected), Some(days));
        }
        assert_eq!(parse("9999-12-31").map(day).as_deref(), Some("9999-12-31"));
        for bad in [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "1969-12-31",
            "2026-11-2x",
            "2026-11-201",
            "-026-11-20",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
