//! Words for people: tables, ages, and strings that others chose made safe to print.

use std::{borrow::Cow, fmt::Write as _};

/// `text` with everything that could steer a terminal written as an escape.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The lines of `text`, each made [`visible`].
pub fn visible_lines(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.lines().map(visible)
}

/// Control characters, and those that reorder or hide what is around them.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Rows under a header, padded to columns; the last column is not padded. Cells are made [`visible`].
#[must_use]
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[Cow<'_, str>; N]> =
        rows.iter().map(|row| std::array::from_fn(|i| visible(&row[i]))).collect();
    let width: [usize; N] = std::array::from_fn(|i| {
        rows.iter().map(|row| row[i].chars().count()).chain([header[i].len()]).max().unwrap_or(0)
    });
    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(width) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(header);
    rows.iter().for_each(|row| line(std::array::from_fn(|i| row[i].as_ref())));
    out
}

/// `key: value` lines with the values under each other; a value of several lines keeps its column.
#[must_use]
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len() + 1).max().unwrap_or(0);
    let mut out = String::new();
    for (key, value) in rows {
        let mut lines = visible_lines(value);
        let _ = writeln!(out, "{:width$} {}", format!("{key}:"), lines.next().unwrap_or_default());
        lines.for_each(|line| {
            let _ = writeln!(out, "{:width$} {line}", "");
        });
    }
    out
}

/// How long before `now` the moment `then` was, roughly; both in milliseconds since the Unix epoch.
#[must_use]
pub fn age(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then) / 1000;
    let (count, unit) = match seconds {
        0..=59 => (seconds, "second"),
        60..=3599 => (seconds / 60, "minute"),
        3600..=86_399 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// The moment `ms` milliseconds after the Unix epoch, in UTC by RFC 3339.
#[must_use]
pub fn timestamp(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1000 % 86_400);
    // Days to a date in the proleptic Gregorian calendar, counting years from March so that leap days come last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_steers_the_terminal() {
        for (text, expect) in [
            ("plain · ümlaut", "plain · ümlaut"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\r\t", "a\\nb\\r\\t"),
            ("x\u{9b}y", "x\\u{9b}y"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(visible(text), expect);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [["a".into(), "running".into()], ["\x1bbcd".into(), String::new()]];
        let expect = "ID         STATE\na          running\n\\u{1b}bcd\n";
        assert_eq!(table(["ID", "STATE"], &rows), expect);
    }

    #[test]
    fn fields_keep_their_column() {
        let rows = [("id", "1".to_owned()), ("reason", "a\nb".to_owned())];
        assert_eq!(fields(&rows), "id:     1\nreason: a\n        b\n");
    }

    #[test]
    fn ages_are_rough() {
        for (ms, expect) in [
            (0, "0 seconds ago"),
            (1_000, "1 second ago"),
            (119_000, "1 minute ago"),
            (7_200_000, "2 hours ago"),
            (86_400_000 * 3, "3 days ago"),
        ] {
            assert_eq!(age(ms, 0), expect);
        }
        assert_eq!(age(0, 5_000), "0 seconds ago", "a clock that went back");
    }

    #[test]
    fn timestamps_are_dates() {
        for (seconds, expect) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds * 1000), expect);
        }
    }
}
