//! Extended headers: `length key=value` lines that override or add to the fields of a header.

use super::{Malformed, sparse::MOST_SEGMENTS};
use crate::ext4::tree::Timestamp;

/// What Linux keeps of the names, and of the value of one, of a file's extended attributes; no file system has more of either.
const MOST_ATTRIBUTES: usize = 1024;
const LONGEST_ATTRIBUTES: usize = 64 << 10;

/// What extended headers say of an entry.
#[derive(Debug, Clone, Default)]
pub struct Extended {
    /// Its path.
    pub path: Option<Vec<u8>>,
    /// Its target.
    pub link_path: Option<Vec<u8>>,
    /// The size of its content in the archive.
    pub size: Option<u64>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// When it was changed.
    pub mtime: Option<Timestamp>,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// What GNU tar says of a sparse file.
    pub sparse: SparseFields,
}

/// The `GNU.sparse` fields of the three formats that use extended headers.
#[derive(Debug, Clone, Default)]
pub struct SparseFields {
    /// The format, from 1.0 on.
    pub major: Option<u64>,
    /// Its second number.
    pub minor: Option<u64>,
    /// The path, where the header has a made-up one.
    pub name: Option<Vec<u8>>,
    /// The size with holes.
    pub real_size: Option<u64>,
    /// Offsets and lengths in turn, where they are in the extended header.
    pub map: Vec<u64>,
}

impl Extended {
    /// Takes over the lines of an extended header.
    ///
    /// # Errors
    /// Where it is malformed.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (record, after) = record(rest).ok_or(Malformed::ExtendedHeader)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(Malformed::ExtendedHeader)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            rest = after;
        }
        Ok(())
    }

    /// An empty value means that the header's own counts.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let present = || (!value.is_empty()).then_some(value);
        let integer = |name| present().map(|value| decimal(value).ok_or(Malformed::Number(name))).transpose();
        let id = |name| match integer(name)? {
            Some(value) => u32::try_from(value).map(Some).map_err(|_| Malformed::Number(name)),
            None => Ok(None),
        };
        // No larger than in a header, so that what comes behind the content can be counted too.
        let size = |name| match integer(name)? {
            Some(value) if i64::try_from(value).is_err() => Err(Malformed::Number(name)),
            value => Ok(value),
        };
        match key {
            b"path" => self.path = present().map(<[u8]>::to_vec),
            b"linkpath" => self.link_path = present().map(<[u8]>::to_vec),
            b"size" => self.size = size("size")?,
            b"uid" => self.uid = id("uid")?,
            b"gid" => self.gid = id("gid")?,
            b"mtime" => {
                self.mtime =
                    present().map(|value| timestamp(value).ok_or(Malformed::Number("mtime"))).transpose()?;
            }
            b"GNU.sparse.major" => self.sparse.major = integer("GNU.sparse.major")?,
            b"GNU.sparse.minor" => self.sparse.minor = integer("GNU.sparse.minor")?,
            b"GNU.sparse.name" => self.sparse.name = present().map(<[u8]>::to_vec),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = size("GNU.sparse.size")?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // They come in turn, each in a line of its own.
                let wanted: &[u8] = if self.sparse.map.len().is_multiple_of(2) {
                    b"GNU.sparse.offset"
                } else {
                    b"GNU.sparse.numbytes"
                };
                if key != wanted {
                    return Err(Malformed::SparseMap);
                }
                self.sparse.map.push(decimal(value).ok_or(Malformed::SparseMap)?);
                if self.sparse.map.len() > 2 * MOST_SEGMENTS {
                    return Err(Malformed::SparseMap);
                }
            }
            b"GNU.sparse.map" => {
                self.sparse.map = value
                    .split(|byte| *byte == b',')
                    .map(|number| decimal(number).ok_or(Malformed::SparseMap))
                    .collect::<Result<_, _>>()?;
            }
            b"RHT.security.selinux" => self.set_attribute(b"security.selinux", value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_attribute(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces what is known of attribute `name`. Every entry gets those of all before it, so there cannot be many.
    fn set_attribute(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        self.attributes.retain(|(known, _)| known != name);
        self.attributes.push((name.to_vec(), value.to_vec()));
        let length: usize = self.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.attributes.len() > MOST_ATTRIBUTES || length > LONGEST_ATTRIBUTES {
            return Err(Malformed::Attributes);
        }
        Ok(())
    }
}

/// The first record of `bytes`, without its length and its end of line, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

/// A number without sign, spaces or anything else.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds since 1970 with a sign and a fraction, of which nine digits count.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0')).chain(std::iter::repeat(0));
    let nanoseconds = digits.take(9).fold(0, |value, digit| value * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<(i64, u32)>| {
            let expected = expected.map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds });
            assert_eq!(timestamp(text.as_bytes()), expected, "{text}");
        };
        check("1700000000", Some((1_700_000_000, 0)));
        check("1700000000.5", Some((1_700_000_000, 500_000_000)));
        check("0.1234567891", Some((0, 123_456_789)));
        check("-1.25", Some((-2, 750_000_000)));
        check("-3", Some((-3, 0)));
        check("-0.0", Some((0, 0)));
        check("1.", Some((1, 0)));
        check(".5", None);
        check("1e9", None);
    }

    #[test]
    fn records() {
        let mut extended = Extended::default();
        extended.parse(b"11 path=ab\n21 SCHILY.xattr.a=\0\n\n").unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(extended.attributes, [(b"a".to_vec(), b"\0\n".to_vec())]);
        for bad in
            [&b"11 path=abc"[..], b"9 path=ab\n", b"x path=ab\n", b"99999999999999999999 a=b\n", b"6 path\n"]
        {
            assert!(Extended::default().parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
