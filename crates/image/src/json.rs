//! JSON from outside, and what is shown of it: never as much as its maker wants.

use std::fmt;

use serde::de::DeserializeOwned;

/// The most characters of a text from outside that a message repeats.
const SHOWN: usize = 100;

/// What is wrong with a JSON text, and where.
#[derive(Debug)]
pub struct JsonError(serde_json::Error);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It repeats names and texts of the document at their length, so that it can be as long as that.
        let told = self.0.to_string();
        if told.chars().nth(2 * SHOWN).is_none() {
            return f.write_str(&told);
        }
        write!(f, "{} ... at line {} column {}", shown(&told), self.0.line(), self.0.column())
    }
}

impl std::error::Error for JsonError {}

/// The value that `bytes` describe.
///
/// # Errors
/// Where it is no JSON, or not such a value.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice(bytes).map_err(JsonError)
}

/// What is shown of `text`, which comes from outside.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_short_whatever_the_document_is() {
        let check = |json: &str, expected: &str| {
            assert_eq!(parse::<u8>(json.as_bytes()).unwrap_err().to_string(), expected);
        };
        check("\"a\"", "invalid type: string \"a\", expected u8 at line 1 column 3");
        let begin = "invalid type: string \"";
        let shown = "y".repeat(SHOWN - begin.len());
        check(&format!("\n\"{}\"", "y".repeat(9000)), &format!("{begin}{shown} ... at line 2 column 9002"));
    }
}
