//! A moment as people write it: how long ago, or a time in UTC.

use std::fmt;

/// Why a text is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MomentError;

impl fmt::Display for MomentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a moment is how long ago, like 90s, 5m, 2h or 3d, or a time in UTC, like 2026-01-31T18:00:00Z",
        )
    }
}

impl std::error::Error for MomentError {}

/// The moment that `text` means where it is `now`; both in milliseconds since the Unix epoch.
///
/// # Errors
/// Where it means none.
pub fn parse(text: &str, now: u64) -> Result<u64, MomentError> {
    let seconds = match text.strip_suffix('Z') {
        Some(time) => return utc(time).map(|seconds| seconds * 1000).ok_or(MomentError),
        None => ago(text).ok_or(MomentError)?,
    };
    Ok(now.saturating_sub(seconds.saturating_mul(1000)))
}

fn ago(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    number(&text[..text.len() - 1])?.checked_mul(unit)
}

/// Seconds from the Unix epoch to `YYYY-MM-DDTHH:MM:SS`.
fn utc(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T')?;
    let fields = |text: &str, mark: char| -> Option<[u64; 3]> {
        let fields: Vec<u64> = text.split(mark).map(number).collect::<Option<_>>()?;
        fields.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (fields(date, '-')?, fields(time, ':')?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year)
        || !(1..=length).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    // Years counted from March, so that the leap day comes last in them.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// A number of nothing but digits.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let now = 1_000_000_000_000;
        for (text, expect) in [
            ("0s", Some(now)),
            ("90s", Some(now - 90_000)),
            ("5m", Some(now - 300_000)),
            ("2h", Some(now - 7_200_000)),
            ("3d", Some(now - 259_200_000)),
            ("99999999d", Some(0)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2025-12-31T23:59:59Z", Some(1_767_225_599_000)),
            ("2001-02-29T00:00:00Z", None),
            ("2001-13-01T00:00:00Z", None),
            ("2001-01-01T24:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2001-01-01Z", None),
            ("2001-01-01T00:00:00", None),
            ("5", None),
            ("m", None),
            ("-5m", None),
            ("+5m", None),
            ("5\u{fc}", None),
            ("99999999999999999999s", None),
            ("", None),
        ] {
            assert_eq!(parse(text, now).ok(), expect, "{text:?}");
        }
    }
}
