//! Signatures of catalogs, as minisign makes them: Ed25519 over the hash of the whole file.

use minisign_verify::{Error, PublicKey, Signature};

/// The most bytes of a signature.
pub const LONGEST: u64 = 4 << 10;

/// Who may sign catalogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(PublicKey);

/// Why a text is no [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no public key of minisign, which is 56 characters that begin with RW")]
pub struct KeyError;

/// Why a catalog is not taken for what its signer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature in what should be one.
    #[error("its signature is none of minisign's")]
    Malformed,
    /// Somebody else signed it.
    #[error("it is signed with another key than the one that is trusted")]
    OtherKey,
    /// It, or its signature, was changed.
    #[error("its signature does not fit it")]
    Wrong,
    /// It is signed as minisign did long ago, without a hash.
    #[error("its signature is of the legacy form, which is not accepted")]
    Legacy,
}

impl TryFrom<&str> for Key {
    type Error = KeyError;

    fn try_from(text: &str) -> Result<Self, KeyError> {
        PublicKey::from_base64(text).map(Self).map_err(|_| KeyError)
    }
}

impl Key {
    /// Whether the holder of this key signed `bytes` with `signature`, the content of a `.minisig` file.
    ///
    /// # Errors
    /// Where not, and in what way.
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let text = std::str::from_utf8(signature).map_err(|_| SignatureError::Malformed)?;
        let signature = Signature::decode(text).map_err(|_| SignatureError::Malformed)?;
        self.0.verify(bytes, &signature, false).map_err(|error| match error {
            Error::UnexpectedKeyId => SignatureError::OtherKey,
            Error::UnexpectedAlgorithm | Error::UnsupportedAlgorithm | Error::UnsupportedLegacyMode => {
                SignatureError::Legacy
            }
            Error::InvalidEncoding | Error::IoError(_) => SignatureError::Malformed,
            Error::InvalidSignature => SignatureError::Wrong,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made once by minisign 0.11 for this test; the secret keys are gone.
    const KEY: &str = "RWTzo/NJiQzoxV6C4S91FyZbIQQqGgVx++mPdQdYGG2U0RR1wQVESeN4";
    const OTHER: &str = "RWSOKCnfqKfiQW28iN6UN1T161fVlR3pV/ypvA/0BjWrQVkmKYb/mmrC";
    const CONTENT: &[u8] = b"catalog\n";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUTzo/NJiQzoxfo2FHV/fspkoHeey92WhNxc2MBTCQE6NT8VilEEdJiaxHu/3Jjp3+OAW9nsRmOGVjFuF40z/SdOS2QynRip/AY=
trusted comment: images 7
r6SXk5j/iW1iRHrUBx7vcxWM6jB+jV8VvTE1qd2hbz2LgUwjTc4x5IBc10IrnxDhwAMzjSguF3bxnQkh9fYEAQ==
";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWTzo/NJiQzoxStMJSbQbfQiIH6ilb4mj55Zcgt5ZScLs7n8699kUUJH9RGGBLGv8X+4sMzva+cPEYO6Ir5iz3jA2QkI2aqnaQc=
trusted comment: timestamp:1795597974\tfile:c
AgR51RGNr9YrgDrfYr6JFmomyiHX/5zJd49l6EuaQmAdBQztjrcAY+OPQgWPOfaaBKf8KrJhg4Gx5mvqF7CIDw==
";

    #[test]
    fn only_what_the_trusted_key_signed_is_accepted() {
        let check = |key: &str, content: &[u8], signature: &str, expected| {
            let found = Key::try_from(key).unwrap().verify(content, signature.as_bytes());
            assert_eq!(found, expected, "{signature}");
        };
        check(KEY, CONTENT, SIGNATURE, Ok(()));
        check(OTHER, CONTENT, SIGNATURE, Err(SignatureError::OtherKey));
        check(KEY, b"catalog", SIGNATURE, Err(SignatureError::Wrong));
        check(KEY, b"", SIGNATURE, Err(SignatureError::Wrong));
        check(KEY, CONTENT, LEGACY, Err(SignatureError::Legacy));
        check(KEY, CONTENT, &SIGNATURE.replace("images 7", "images 8"), Err(SignatureError::Wrong));
        check(KEY, CONTENT, &SIGNATURE.replace("Tzo/NJ", "Tzo/NK"), Err(SignatureError::OtherKey));
        check(KEY, CONTENT, &SIGNATURE.replace("xfo2F", "xfo2G"), Err(SignatureError::Wrong));
        for broken in ["", "x", "a\nb\nc\nd\n", &SIGNATURE[..150]] {
            check(KEY, CONTENT, broken, Err(SignatureError::Malformed));
        }
        let not_text = Key::try_from(KEY).unwrap().verify(CONTENT, b"\xff");
        assert_eq!(not_text, Err(SignatureError::Malformed));
    }

    #[test]
    fn keys() {
        for bad in ["", "RW", "untrusted comment: x", &KEY[1..], &KEY.replace("RW", "RX"), &format!("{KEY}A")]
        {
            assert_eq!(Key::try_from(bad), Err(KeyError), "{bad}");
        }
    }
}
