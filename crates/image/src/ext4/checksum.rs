//! CRC-32C as ext4 uses it: started from a seed, not inverted at either end.

/// The start of a checksum that has no seed.
pub const START: u32 = !0;

/// `seed` continued over `bytes`.
#[must_use]
pub fn update(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The seed of everything that belongs to inode `number`, whose generation is always 0.
#[must_use]
pub fn inode_seed(seed: u32, number: u32) -> u32 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    update(seed, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_polynomial() {
        assert_eq!(!update(START, b"123456789"), 0xe306_9283);
    }
}
