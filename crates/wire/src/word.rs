//! A word of a command line or environment: any bytes but NUL (execve(2)).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes that are usually text. In JSON a string where they are UTF-8, else `{"hex": "…"}`, so no word is changed or lost.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Word(Vec<u8>);

impl Word {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for Word {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { hex: String },
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Bytes { hex: model::hex::encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes { hex } => {
                let byte = |pair: &[u8]| {
                    let text = std::str::from_utf8(pair).ok()?;
                    u8::from_str_radix(text, 16).ok().filter(|_| pair.len() == 2)
                };
                let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
                bytes.ok_or_else(|| D::Error::custom("not hexadecimal"))?
            }
        };
        if bytes.contains(&0) {
            return Err(D::Error::custom("a word cannot contain a NUL byte"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json() {
        for bytes in [&b"plain"[..], b"", "é".as_bytes(), b"\xff\xfe x", b"{\"hex\":\"00\"}"] {
            let json = serde_json::to_string(&Word(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap().as_bytes(), bytes, "{json}");
        }
        for bad in ["\"a\\u0000b\"", "{\"hex\":\"0\"}", "{\"hex\":\"zz\"}", "{\"hex\":\"00\"}", "7"] {
            assert!(serde_json::from_str::<Word>(bad).is_err(), "{bad}");
        }
    }
}
