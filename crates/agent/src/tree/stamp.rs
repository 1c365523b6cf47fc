//! Stamps: what is another once anything of a file was changed, so that most files need not be read to tell that.
//!
//! As git's index has it: inode, size, mode, and the times to the nanosecond. The time of the last change of an inode cannot
//! be set, so a write whose traces somebody wiped off is seen too.

use rustix::{
    fs::Stat,
    time::{ClockId, clock_gettime},
};
use wire::tree::Stamped;

/// Two changes that are so many seconds apart have different times, whatever the file system keeps of them.
const TICK: i64 = 2;

/// The stamp of a file.
pub fn of(stat: &Stat) -> String {
    format!(
        "{}-{}-{:o}-{}.{}-{}.{}",
        stat.st_ino,
        stat.st_size,
        stat.st_mode,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec
    )
}

/// Whether a file was changed so short a time ago that its next change might leave the same stamp.
pub fn is_fresh(stat: &Stat) -> bool {
    stat.st_ctime + TICK > clock_gettime(ClockId::Realtime).tv_sec
}

/// The stamps of what was unpacked. Its times of modification are those of the tar, so that no later write leaves the same.
#[derive(Debug, Default)]
pub struct Stamps(Vec<Stamped>);

impl Stamps {
    /// Notes the stamp of the file at `path`, where there is room for it.
    pub fn note(&mut self, path: &std::path::Path, stat: &Stat) {
        if self.0.len() < wire::tree::MAX_STAMPS {
            let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec().into();
            self.0.push(Stamped { path, stamp: of(stat) });
        }
    }

    /// A JSON line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for stamped in &self.0 {
            serde_json::to_writer(&mut lines, stamped).expect("two texts");
            lines.push(b'\n');
        }
        lines
    }
}
