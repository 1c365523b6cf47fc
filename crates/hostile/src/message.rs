//! Messages, which people read and which are recorded: short, whatever they are about.

use std::error::Error;

/// More than anybody reads of a message.
const LONGEST: usize = 16 << 10;

/// Looks at `error` and what caused it.
///
/// # Panics
/// Where one of the messages is long.
pub fn check(error: &dyn Error) {
    let mut at = Some(error);
    while let Some(error) = at {
        let text = error.to_string();
        assert!(text.len() <= LONGEST, "a message of {} bytes", text.len());
        at = error.source();
    }
}
