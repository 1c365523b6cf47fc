//! How fast VMs may be: what their configuration says of it.

use super::{Wrong, bytes};
use crate::size::{self, MIB};

/// How much of something a VM may have: bytes in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Read from and written to each of its disks, together.
    pub disk: Option<u64>,
    /// Sent, and as much received.
    pub network: Option<u64>,
}

/// Instead of a rate.
const NONE: &str = "none";
/// What a guest gets by on, and more than any device does.
const MIN: u64 = MIB;
const MAX: u64 = 1 << 40;

pub(super) fn rate(text: &str) -> Result<Option<u64>, Wrong> {
    match bytes(text, MIN, MAX) {
        _ if text == NONE => Ok(None),
        Ok(rate) => Ok(Some(rate)),
        Err(wrong @ Wrong::Range { .. }) => Err(wrong),
        Err(_) => Err(Wrong::Rate),
    }
}

pub(super) fn rate_text(rate: Option<u64>) -> String {
    rate.map_or_else(|| NONE.to_owned(), size::exact)
}
