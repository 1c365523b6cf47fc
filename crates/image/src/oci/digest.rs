//! What names a blob: its SHA-256, as `sha256:` and 64 hexadecimal digits.

use std::{fmt, io::Read, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::json::shown;

/// The digest of a blob. Its text is safe as the name of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It is not `algorithm:hex`.
    #[error("{0:?} is no digest")]
    Malformed(String),
    /// It is of another algorithm.
    #[error("digests by {0:?} are not supported, only sha256")]
    Algorithm(String),
}

/// Why a blob is not what its descriptor says.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It ends early.
    #[error("it has {found} bytes instead of {expected}")]
    Shorter {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// It goes on.
    #[error("it has more than its {expected} bytes")]
    Longer {
        /// Bytes that it should have.
        expected: u64,
    },
    /// It is something else.
    #[error("its digest is {found}")]
    Digest {
        /// That of what is there.
        found: Digest,
    },
    /// It is too large to be what it should be.
    #[error("it has {size} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The allowed size.
        limit: u64,
    },
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
}

impl Digest {
    /// That of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(super) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// Its 64 digits.
    #[must_use]
    pub fn hex(&self) -> String {
        model::hex::encode(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(shown(text));
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(shown(algorithm)));
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(malformed()),
        };
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() {
            return Err(malformed());
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Reads a blob and compares it with what its descriptor says: never a byte more, and an error instead of an early end.
#[derive(Debug)]
pub struct Verified<R> {
    source: R,
    expected: Digest,
    size: u64,
    read: u64,
    hash: Sha256,
}

impl<R: Read> Verified<R> {
    /// The blob of `size` bytes and that digest that `source` should give.
    pub fn new(source: R, expected: Digest, size: u64) -> Self {
        Self { source, expected, size, read: 0, hash: Sha256::new() }
    }

    /// Reads what is left and says whether all of it was as it should be.
    ///
    /// # Errors
    /// Where it was not, or cannot be read.
    pub fn check(&mut self) -> Result<(), BlobError> {
        let mut rest = vec![0; 64 << 10];
        loop {
            match self.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.downcast::<BlobError>().unwrap_or_else(BlobError::Read)),
            }
        }
        let found = Digest::from_hash(self.hash.clone());
        if found == self.expected { Ok(()) } else { Err(BlobError::Digest { found }) }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let count = self.source.read(out)?;
        self.read += count as u64;
        let expected = self.size;
        if self.read > expected {
            return Err(std::io::Error::other(BlobError::Longer { expected }));
        }
        if count == 0 && self.read < expected {
            return Err(std::io::Error::other(BlobError::Shorter { expected, found: self.read }));
        }
        self.hash.update(&out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let hex = "0123456789abcdef".repeat(4);
        let check = |text: &str, expected: Result<(), &str>| {
            let found: Result<Digest, _> = text.parse();
            assert_eq!(
                found.as_ref().map(ToString::to_string).map_err(ToString::to_string),
                expected.map(|()| text.to_owned()).map_err(str::to_owned)
            );
        };
        check(&format!("sha256:{hex}"), Ok(()));
        check("", Err("\"\" is no digest"));
        check("sha256:", Err("\"sha256:\" is no digest"));
        check("sha256:../../etc/passwd", Err("\"sha256:../../etc/passwd\" is no digest"));
        let upper = format!("sha256:{}", hex.to_uppercase());
        check(&upper, Err(&format!("{upper:?} is no digest")));
        check("sha512:aa", Err("digests by \"sha512\" are not supported, only sha256"));
    }

    #[test]
    fn blobs_are_checked_to_the_last_byte() {
        let check = |bytes: &[u8], expected: &str| {
            let found = Verified::new(bytes, Digest::of(b"content"), 7).check();
            assert_eq!(
                found.map_err(|e| e.to_string()),
                if expected.is_empty() { Ok(()) } else { Err(expected.to_owned()) }
            );
        };
        check(b"content", "");
        check(b"conten", "it has 6 bytes instead of 7");
        check(b"content!", "it has more than its 7 bytes");
        check(b"contend", &format!("its digest is {}", Digest::of(b"contend")));
    }
}
