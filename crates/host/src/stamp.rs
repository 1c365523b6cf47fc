//! Stamps: what is another once anything of a file was changed, so that most files need not be read to tell that.
//!
//! As git's index has it: inode, size, mode, and the times to the nanosecond. The time of the last change of an inode cannot
//! be set, so a write whose traces somebody wiped off is seen too.

use rustix::{
    fs::Stat,
    time::{ClockId, clock_gettime},
};

/// Two changes that are so many seconds apart have different times, whatever the file system keeps of them.
const TICK: i64 = 2;

/// The stamp of a file or link.
#[must_use]
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

/// Whether it was changed so short a time ago that its next change might leave the same stamp.
#[must_use]
pub fn is_fresh(stat: &Stat) -> bool {
    stat.st_ctime + TICK > clock_gettime(ClockId::Realtime).tv_sec
}
