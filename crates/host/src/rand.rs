//! Randomness from the kernel.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` bytes of `getrandom(2)`.
///
/// # Panics
/// Where the kernel has no `getrandom`, which no supported Linux lacks.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut out[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no randomness: {}", io::Error::from(error)),
        }
    }
    out
}
