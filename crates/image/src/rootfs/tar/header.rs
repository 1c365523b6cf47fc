//! The header block of an entry.

use super::{BLOCK, Malformed};
use crate::ext4::tree::Timestamp;

/// A header whose checksum is right.
#[derive(Debug)]
pub struct Header([u8; BLOCK]);

impl Header {
    /// The header in `block`; `None` where the checksum is wrong.
    pub fn new(block: [u8; BLOCK]) -> Option<Self> {
        let stated = number(&block[148..156])?;
        // The checksum itself counts as spaces. Some old programs summed signed bytes.
        let mut summed = block;
        summed[148..156].fill(b' ');
        let unsigned = || summed.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let signed = || summed.iter().map(|byte| i32::from(*byte as i8)).sum::<i32>();
        (stated == i64::from(unsigned()) || stated == i64::from(signed())).then_some(Self(block))
    }

    /// The letter that says what the entry is.
    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path, as far as it fits into a header.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let is_ustar = &self.0[257..263] == b"ustar\0";
        // Star keeps times where ustar has the end of the prefix.
        let end = if &self.0[508..512] == b"tar\0" { 476 } else { 500 };
        match text(&self.0[345..end]) {
            prefix if is_ustar && !prefix.is_empty() => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    /// A link's target, as far as it fits into a header.
    pub fn target(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    /// Permissions, set-id and sticky bits.
    pub fn mode(&self) -> Result<u16, Malformed> {
        self.field(100..108, "mode").map(|mode: u64| (mode & 0o7777) as u16)
    }

    /// The owner.
    pub fn uid(&self) -> Result<u32, Malformed> {
        self.field(108..116, "uid")
    }

    /// The group.
    pub fn gid(&self) -> Result<u32, Malformed> {
        self.field(116..124, "gid")
    }

    /// The size of the content in the archive.
    pub fn size(&self) -> Result<u64, Malformed> {
        self.field(124..136, "size")
    }

    /// When the content was changed.
    pub fn mtime(&self) -> Result<Timestamp, Malformed> {
        Ok(Timestamp { seconds: self.field(136..148, "mtime")?, nanoseconds: 0 })
    }

    /// A device's major number.
    pub fn major(&self) -> Result<u32, Malformed> {
        self.field(329..337, "devmajor")
    }

    /// A device's minor number.
    pub fn minor(&self) -> Result<u32, Malformed> {
        self.field(337..345, "devminor")
    }

    /// The bytes of the block.
    pub fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    fn field<T: TryFrom<i64>>(&self, at: std::ops::Range<usize>, name: &'static str) -> Result<T, Malformed> {
        number(&self.0[at]).and_then(|value| T::try_from(value).ok()).ok_or(Malformed::Number(name))
    }
}

/// The bytes before the first zero.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The number in a field: octal digits, or two's complement where the highest bit is set. An empty field is 0.
pub fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
        let mut value = first;
        for byte in &field[1..] {
            value = value << 8 | i128::from(*byte);
            // Twelve bytes fit, so that the shift above loses nothing.
        }
        return i64::try_from(value).ok();
    }
    let field = field.trim_ascii_start();
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    field[..end].iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i64>); 9] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(1 << 33)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000688\0", None),
            (b"-000001\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
