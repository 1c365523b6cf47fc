//! When the bytes of a ring came: beside each of its two files a list, a line a second at most.
//!
//! A line is `LENGTH MILLISECONDS`: how long the file was when something came at that time.

use std::{fs::File, io::Write, path::Path};

use host::{Error, Result, fs};

use super::{FILE, OLDER};

/// The list for the newer file, and for the older one.
const LIST: &str = "console.times";
const OLDER_LIST: &str = "console.times.1";
/// Bytes that come within this time, in milliseconds, of those before are not told from them.
const APART: u64 = 1000;
/// A list is full before its file where little comes again and again.
const FULL: u64 = 4 << 20;
/// The longest list that is read.
const LONGEST: u64 = 2 * FULL;

/// The list that is written.
#[derive(Debug)]
pub struct Times {
    file: File,
    length: u64,
    last: Option<u64>,
}

impl Times {
    /// Goes on with the list in `directory`, or begins it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(LIST);
        Ok(Self { file: fs::append(&path)?, length: fs::size(&path)?, last: None })
    }

    /// Whether it is time for a new one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.length >= FULL
    }

    /// Notes that bytes come `at_ms` where the file holds `length`.
    ///
    /// # Errors
    /// Where the disk is full or broken.
    pub fn note(&mut self, length: u64, at_ms: u64) -> Result<()> {
        // A clock that was put back is no reason to note nothing until it is there again.
        if self.last.is_some_and(|last| (last..last + APART).contains(&at_ms)) {
            return Ok(());
        }
        let line = format!("{length} {at_ms}\n");
        self.file.write_all(line.as_bytes()).map_err(|e| Error::new("write", LIST, e))?;
        self.length += line.len() as u64;
        self.last = Some(at_ms);
        Ok(())
    }

    /// Begins a new list, when the newer file becomes the older one.
    ///
    /// # Errors
    /// Where the files cannot be moved or made.
    pub fn turn(&mut self, directory: &Path) -> Result<()> {
        fs::rename(&directory.join(LIST), &directory.join(OLDER_LIST))?;
        *self = Self::open(directory)?;
        Ok(())
    }
}

/// Where what came since `since_ms` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At this byte of the older file.
    Older(u64),
    /// At this byte of the newer one.
    Newer(u64),
}

/// Where in the ring of `directory` that begins which came since `since_ms`, or up to a second before.
///
/// # Errors
/// Where a list is there and cannot be read.
pub fn begin(directory: &Path, since_ms: u64) -> Result<Begin> {
    if let Some(at) = first(directory, OLDER, OLDER_LIST, since_ms)? {
        return Ok(Begin::Older(at));
    }
    let path = directory.join(FILE);
    let end = || if fs::exists(&path) { fs::size(&path) } else { Ok(0) };
    first(directory, FILE, LIST, since_ms)?.map_or_else(end, Ok).map(Begin::Newer)
}

/// The byte of file `name` from which on it came since then; `None` where none did. A file without a list may be of any time.
fn first(directory: &Path, name: &str, list: &str, since_ms: u64) -> Result<Option<u64>> {
    let bytes = match fs::read_limited(&directory.join(list), LONGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.is_missing() => return Ok(fs::exists(&directory.join(name)).then_some(0)),
        Err(e) => return Err(e),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| {
        let (length, at) = line.split_once(' ')?;
        Some((length.parse::<u64>().ok()?, at.parse::<u64>().ok()?))
    });
    let mut late = lines.filter(|(_, at)| at.saturating_add(APART) > since_ms);
    Ok(late.next().map(|(length, _)| length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_then_is_found() {
        let dir = std::env::temp_dir().join(format!("banger-times-{}", std::process::id()));
        fs::remove_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        assert_eq!(begin(&dir, 0).unwrap(), Begin::Newer(0), "nothing came");
        fs::write_atomic(&dir.join(FILE), &[b'x'; 300]).unwrap();
        assert_eq!(begin(&dir, 99_999).unwrap(), Begin::Newer(0), "nobody noted when");
        let mut times = Times::open(&dir).unwrap();
        for (length, at) in [(0, 10_000), (5, 10_500), (100, 20_000), (200, 30_000)] {
            times.note(length, at).unwrap();
        }
        for (since, expect) in
            [(0, 0), (10_999, 0), (11_000, 100), (20_999, 100), (21_000, 200), (31_000, 300)]
        {
            assert_eq!(begin(&dir, since).unwrap(), Begin::Newer(expect), "{since}");
        }
        fs::rename(&dir.join(FILE), &dir.join(OLDER)).unwrap();
        times.turn(&dir).unwrap();
        fs::write_atomic(&dir.join(FILE), &[b'x'; 50]).unwrap();
        times.note(0, 40_000).unwrap();
        // The clock was put back.
        times.note(20, 5_000).unwrap();
        let mut times = Times::open(&dir).unwrap();
        times.note(40, 50_000).unwrap();
        for (since, expect) in [
            (25_000, Begin::Older(200)),
            (35_000, Begin::Newer(0)),
            (45_000, Begin::Newer(40)),
            (60_000, Begin::Newer(50)),
        ] {
            assert_eq!(begin(&dir, since).unwrap(), expect, "{since}");
        }
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn a_list_is_bounded() {
        let dir = std::env::temp_dir().join(format!("banger-times-full-{}", std::process::id()));
        fs::remove_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        let mut times = Times::open(&dir).unwrap();
        let seconds = (0..).find(|second| times.is_full() || times.note(*second, second * APART).is_err());
        assert!(seconds.is_some_and(|seconds| (100_000..1_000_000).contains(&seconds)), "{seconds:?}");
        assert!(fs::size(&dir.join(LIST)).unwrap() < LONGEST);
        fs::remove_all(&dir).unwrap();
    }
}
