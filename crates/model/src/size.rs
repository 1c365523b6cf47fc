//! Sizes as people type them: `512M`, `8G`; a plain number is MiB.

use std::fmt;

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// It is not a number with an optional unit.
    Syntax,
    /// It is zero or negative.
    NotPositive,
    /// It is more than banger can count, 2^63 bytes.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "a size is a whole number and a unit, like 512M or 8G (a plain number is MiB)",
            Self::NotPositive => "a size must be more than zero",
            Self::TooLarge => "that is more than any machine has",
        })
    }
}

impl std::error::Error for SizeError {}

/// The number of bytes that `text` names. Units are `K M G T`, each also as `KiB` or `KB`, in either case, powers of 1024.
///
/// # Errors
/// [`SizeError`] when it is no size, or none that a machine could have.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match letter {
        "k" => 10,
        "" if unit.is_empty() => 20,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(SizeError::Syntax),
    };
    if number.is_empty() {
        return Err(SizeError::Syntax);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    if negative || number == 0 {
        return Err(SizeError::NotPositive);
    }
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes <= 1 << 63 => Ok(bytes),
        _ => Err(SizeError::TooLarge),
    }
}

/// `bytes` in the largest binary unit that loses nothing, or with one decimal: `512 MiB`, `8 GiB`, `1.5 GiB`.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let scale = 1u64 << (10 * unit);
    let (whole, tenth) = (bytes / scale, u128::from(bytes % scale) * 10 / u128::from(scale));
    match tenth {
        0 => format!("{whole} {}", UNITS[unit]),
        _ => format!("{whole}.{tenth} {}", UNITS[unit]),
    }
}

/// `bytes` as a size that [`parse`] reads back exactly: `512M`, `8G`, `1536M`; less than a KiB is lost.
#[must_use]
pub fn exact(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M')];
    let (shift, letter) =
        units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift).unwrap_or((10, 'K'));
    format!("{}{letter}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_people_type() {
        for (text, expect) in [
            ("512M", Ok(512 * MIB)),
            ("512", Ok(512 * MIB)),
            ("8G", Ok(8 * GIB)),
            ("8GiB", Ok(8 * GIB)),
            ("8gb", Ok(8 * GIB)),
            ("64k", Ok(64 << 10)),
            ("1T", Ok(1 << 40)),
            ("0", Err(SizeError::NotPositive)),
            ("0G", Err(SizeError::NotPositive)),
            ("-1G", Err(SizeError::NotPositive)),
            ("", Err(SizeError::Syntax)),
            ("G", Err(SizeError::Syntax)),
            ("8X", Err(SizeError::Syntax)),
            ("8.5G", Err(SizeError::Syntax)),
            ("b", Err(SizeError::Syntax)),
            ("1b", Err(SizeError::Syntax)),
            ("99999999999T", Err(SizeError::TooLarge)),
            ("99999999999999999999999", Err(SizeError::TooLarge)),
        ] {
            assert_eq!(parse(text), expect, "{text:?}");
        }
    }

    #[test]
    fn shows_sizes_shortly() {
        for (bytes, expect) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (512 * MIB, "512 MiB"),
            (8 * GIB, "8 GiB"),
            (3 * GIB / 2, "1.5 GiB"),
        ] {
            assert_eq!(human(bytes), expect);
        }
    }

    #[test]
    fn exact_sizes_are_read_back() {
        for (bytes, expect) in
            [(512 * MIB, "512M"), (8 * GIB, "8G"), (3 * GIB / 2, "1536M"), (1 << 40, "1T"), (65 << 10, "65K")]
        {
            assert_eq!(exact(bytes), expect);
            assert_eq!(parse(expect), Ok(bytes));
        }
    }
}
