//! What this process does about signals.

use crate::{Error, Result, fs};

/// The signals that whoever started this process wants it to ignore, as `nohup` does, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored(u64);

impl Ignored {
    /// Those of now.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn of_this_process() -> Result<Self> {
        let path = "/proc/self/status";
        let text = fs::read_text(path.as_ref())?;
        let set = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        set.map(Self).ok_or_else(|| {
            Error::path("understand", path.as_ref(), std::io::Error::from(std::io::ErrorKind::InvalidData))
        })
    }

    /// Whether signal `number` is one of them.
    #[must_use]
    pub fn contains(self, number: u8) -> bool {
        (1..=64).contains(&number) && self.0 >> (number - 1) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_programs_ignore_broken_pipes_and_cannot_ignore_kill() {
        let ignored = Ignored::of_this_process().unwrap();
        assert!(ignored.contains(13));
        assert!(!ignored.contains(9));
        assert!(!ignored.contains(0) && !ignored.contains(255));
    }
}
