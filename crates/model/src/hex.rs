//! Hexadecimal, as digests, secrets and UUIDs are written.

/// `bytes` in lower-case hexadecimal digits, two a byte.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(encode(&[0, 0x0a, 0xff]), "000aff");
        assert_eq!(encode(&[]), "");
    }
}
