//! Hexadecimal, as digests, secrets and UUIDs are written.

/// `bytes` in lower-case hexadecimal digits, two a byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `N` bytes that `text` has two digits each for; `None` where it is anything else.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok();
    let bytes: Option<Vec<u8>> = (0..N).map(byte).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(encode(&[0, 0x0a, 0xff]), "000aff");
        assert_eq!(encode(&[]), "");
    }

    #[test]
    fn exactly_so_many_bytes_are_read_back() {
        assert_eq!(decode("000aFf"), Some([0, 0x0a, 0xff]));
        for bad in ["", "000a", "000aff00", "000agg", "+0+a+f", "00é0f"] {
            assert_eq!(decode::<3>(bad), None, "{bad}");
        }
    }
}
