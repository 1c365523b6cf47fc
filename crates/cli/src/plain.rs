//! A guest's bytes on their way to a terminal: text, line ends and colours pass, whatever else could steer it is shown
//! as an escape.
//!
//! ```text
//! Text ──ESC──▶ Escape ──[──▶ Sequence ──m──▶ passes, Text
//!   └──0xC2──▶ Latin ──0x80..0x9F──▶ shown, Text
//! ```

use std::io::Write as _;

/// Where in a sequence the bytes so far end.
#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// After `ESC [`: the parameters so far.
    Sequence(Vec<u8>),
    /// After the first byte of U+0080 to U+00BF, of which the first half are controls.
    Latin,
}

/// The most parameter bytes of a colour.
const MAX_PARAMETERS: usize = 32;

/// A filter over a stream of bytes, cut anywhere.
#[derive(Debug, Default)]
pub struct Plain(State);

impl Plain {
    /// What to print for the next `bytes`.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.0 = step(std::mem::take(&mut self.0), byte, &mut out);
        }
        out
    }
}

fn step(state: State, byte: u8, out: &mut Vec<u8>) -> State {
    match (state, byte) {
        (State::Text, 0x1b) => State::Escape,
        (State::Text, 0xc2) => State::Latin,
        // A terminal in its usual mode makes the carriage return itself.
        (State::Text, b'\r') => State::Text,
        (State::Text, _) => {
            show(out, byte);
            State::Text
        }
        (State::Escape, b'[') => State::Sequence(Vec::new()),
        (State::Escape, _) => {
            show(out, 0x1b);
            step(State::Text, byte, out)
        }
        (State::Sequence(parameters), b'm') => {
            out.extend_from_slice(b"\x1b[");
            out.extend_from_slice(&parameters);
            out.push(b'm');
            State::Text
        }
        (State::Sequence(mut parameters), b'0'..=b'9' | b';' | b':') if parameters.len() < MAX_PARAMETERS => {
            parameters.push(byte);
            State::Sequence(parameters)
        }
        (State::Sequence(parameters), _) => {
            show(out, 0x1b);
            out.push(b'[');
            out.extend_from_slice(&parameters);
            step(State::Text, byte, out)
        }
        (State::Latin, 0x80..=0x9f) => {
            let _ = write!(out, "\\u{{{byte:x}}}");
            State::Text
        }
        (State::Latin, _) => {
            out.push(0xc2);
            step(State::Text, byte, out)
        }
    }
}

fn show(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'\n' | b'\t' | 0x20..=0x7e | 0x80.. => out.push(byte),
        0..=0x1f | 0x7f => {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_and_colours_reach_the_terminal() {
        for (bytes, expect) in [
            ("text\r\n\ttab é ▶", "text\n\ttab é ▶"),
            ("[\x1b[0;32m OK \x1b[0m]", "[\x1b[0;32m OK \x1b[0m]"),
            ("\x1b[2J", "\\x1b[2J"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\x1b\x1b[m", "\\x1b\x1b[m"),
            ("\x1b[1\x1b[2m", "\\x1b[1\x1b[2m"),
            ("\u{9b}2J \u{a0}", "\\u{9b}2J \u{a0}"),
            ("\x1b[6n\x08", "\\x1b[6n\\x08"),
        ] {
            let whole = Plain::default().take(bytes.as_bytes());
            assert_eq!(String::from_utf8_lossy(&whole), expect);
            let mut cut = Plain::default();
            let pieces: Vec<u8> = bytes.bytes().flat_map(|byte| cut.take(&[byte])).collect();
            assert_eq!(whole, pieces, "cutting changes nothing");
        }
    }
}
