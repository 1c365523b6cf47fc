//! Understands the JSON that a guest answers with: what is shown of it is short, whatever it is.

use serde::de::DeserializeOwned;

use crate::control::ErrorBody;

/// The most characters that are shown of what a guest says.
const SHOWN: usize = 1000;

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AnswerError(String);

/// The answer in `bytes`.
///
/// # Errors
/// Where it is none, or another one.
pub fn answer<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AnswerError> {
    // The message repeats texts of the answer at their length.
    serde_json::from_slice(bytes).map_err(|error| AnswerError(shown(error.to_string())))
}

/// Why the guest refused something, as it says in `bytes`; `None` where it says nothing that is understood.
#[must_use]
pub fn refusal(bytes: &[u8]) -> Option<ErrorBody> {
    let body: ErrorBody = answer(bytes).ok()?;
    let said = std::iter::once(body.message).chain(body.causes).collect::<Vec<_>>().join(": ");
    // How it is told, and what could be done, is for the host to say.
    Some(ErrorBody::new(body.code, shown(said)))
}

fn shown(text: String) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::Code, guest::Ports};

    #[test]
    fn little_is_shown_of_a_long_answer() {
        let long = "é".repeat(100_000);
        let error = answer::<Ports>(format!("{long:?}").as_bytes()).unwrap_err().to_string();
        assert_eq!(error.chars().count(), SHOWN + 4);
        assert!(error.starts_with("invalid type: string \"éé") && error.ends_with("é ..."), "{error}");
        let body = ErrorBody { causes: vec![long.clone()], ..ErrorBody::new(Code::Conflict, long.clone()) };
        let found = refusal(&serde_json::to_vec(&body).unwrap()).unwrap();
        assert_eq!(found, ErrorBody::new(Code::Conflict, format!("{} ...", "é".repeat(SHOWN))));
        assert_eq!(refusal(b"{}"), None);
    }
}
