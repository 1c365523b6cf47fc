//! Identities that banger makes itself. They are written as lower-case hexadecimal.

use std::fmt;

use crate::hex;

/// A VM's identity: 48 random bits, unique in one store, written as 12 hexadecimal digits. Short enough to name a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId([u8; 6]);

impl VmId {
    /// An identity from random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no [`VmId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a VM id is 12 lower-case hexadecimal digits")
    }
}

impl std::error::Error for NotAnId {}

impl TryFrom<&str> for VmId {
    type Error = NotAnId;

    fn try_from(text: &str) -> Result<Self, NotAnId> {
        let digits: Vec<u8> = text
            .bytes()
            .map(|b| match b {
                b'0'..=b'9' => Ok(b - b'0'),
                b'a'..=b'f' => Ok(b - b'a' + 10),
                _ => Err(NotAnId),
            })
            .collect::<Result<_, _>>()?;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
        match (digits.len(), <[u8; 6]>::try_from(bytes)) {
            (12, Ok(bytes)) => Ok(Self(bytes)),
            _ => Err(NotAnId),
        }
    }
}

/// The identity of one thing that a user asked for: a UUID version 7 (RFC 9562), so ids sort by time. Shown in every log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(String);

impl OperationId {
    /// The identity that `uuid` writes as text.
    #[must_use]
    pub fn from_uuid(uuid: [u8; 16]) -> Self {
        let parts = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]];
        Self(parts.map(hex::encode).join("-"))
    }

    /// The UUID's bytes.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        let mut digits = self.0.bytes().filter_map(|b| char::from(b).to_digit(16));
        std::array::from_fn(|_| {
            let mut digit =
                || digits.next().and_then(|d| u8::try_from(d).ok()).expect("it is written as a UUID");
            digit() << 4 | digit()
        })
    }

    /// The identity as text, as a user types it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_ids_round_trip() {
        let id = VmId::from_bytes([0, 1, 0xab, 0xcd, 0xef, 0xff]);
        assert_eq!(id.to_string(), "0001abcdefff");
        assert_eq!(VmId::try_from("0001abcdefff"), Ok(id));
        for bad in ["", "0001abcdeff", "0001abcdefff0", "0001ABCDEFFF", "0001abcdeffg"] {
            assert_eq!(VmId::try_from(bad), Err(NotAnId), "{bad:?}");
        }
    }

    #[test]
    fn operation_ids_are_written_as_uuids() {
        let id = OperationId::from_uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(id.as_str(), "01020304-0506-0708-090a-0b0c0d0e0f10");
        assert_eq!(OperationId::from_uuid(id.uuid()), id);
    }
}
