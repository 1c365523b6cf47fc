//! What a guest writes to its console, on disk and bounded.
//!
//! Two files, `console.log` and before it `console.log.1`, of at most 4 MiB each. A guest that floods its console is cut to a
//! rate, and a line in the log says how much was left out. The bytes are the guest's own: [`last_lines`] makes them fit
//! to be shown, [`read`] does not.

mod times;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use host::{Error, Result, fs};

use times::Times;
pub use times::{Begin, begin};

/// The newer file.
pub const FILE: &str = "console.log";
/// The older file.
pub const OLDER: &str = "console.log.1";
/// The most that each of the two holds.
const HALF: u64 = 4 << 20;
/// As much at once is always taken.
const BURST: u64 = 1 << 20;
/// As much is taken for long.
const PER_SECOND: u64 = 256 << 10;

/// The writing end, one at a time.
#[derive(Debug)]
pub struct Ring {
    directory: PathBuf,
    file: File,
    times: Times,
    size: u64,
    /// Bytes that may be written now.
    budget: u64,
    refilled: Instant,
    left_out: u64,
}

impl Ring {
    /// Goes on with the ring in `directory`, or begins it.
    ///
    /// # Errors
    /// Where its file cannot be opened.
    pub fn open(directory: &Path, now: Instant) -> Result<Self> {
        let path = directory.join(FILE);
        let file = fs::append(&path)?;
        Ok(Self {
            size: fs::size(&path)?,
            times: Times::open(directory)?,
            directory: directory.to_owned(),
            file,
            budget: BURST,
            refilled: now,
            left_out: 0,
        })
    }

    /// Adds `bytes` that came at `now`, or as many as the rate allows.
    ///
    /// # Errors
    /// Where the disk is full or broken.
    pub fn write(&mut self, bytes: &[u8], now: Instant) -> Result<()> {
        self.refill(now);
        // A part of what comes after a gap would only be a torn line, so the gap ends when there is room for more.
        let room = if self.left_out > 0 && self.budget < PER_SECOND / 4 { 0 } else { self.budget };
        let taken = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        if taken > 0 {
            self.mark_gap()?;
            self.put(&bytes[..taken])?;
            self.budget -= taken as u64;
        }
        self.left_out += (bytes.len() - taken) as u64;
        Ok(())
    }

    /// Says what was left out last.
    ///
    /// # Errors
    /// Where the disk is full or broken.
    pub fn finish(mut self) -> Result<()> {
        self.mark_gap()
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
        let gained = PER_SECOND * u64::try_from(passed.as_millis()).unwrap_or(0) / 1000;
        if gained > 0 {
            self.budget = (self.budget + gained).min(BURST);
            self.refilled = now;
        }
    }

    fn mark_gap(&mut self) -> Result<()> {
        if self.left_out == 0 {
            return Ok(());
        }
        let mark = format!("\n[banger: {} bytes of console output left out]\n", self.left_out);
        self.left_out = 0;
        self.put(mark.as_bytes())
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.size >= HALF || self.times.is_full() {
                self.turn()?;
            }
            self.times.note(self.size, host::clock::now_ms())?;
            let room = usize::try_from(HALF - self.size).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.file.write_all(now).map_err(|e| Error::path("write", &self.directory.join(FILE), e))?;
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let path = self.directory.join(FILE);
        fs::rename(&path, &self.directory.join(OLDER))?;
        self.file = fs::append(&path)?;
        self.size = 0;
        self.times.turn(&self.directory)
    }
}

/// All that the ring in `directory` holds, in order; nothing where there is none.
///
/// # Errors
/// Where a file is there and cannot be read.
pub fn read(directory: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for name in [OLDER, FILE] {
        match fs::read_limited(&directory.join(name), HALF) {
            Ok(bytes) => all.extend(bytes),
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The last `count` lines that are not blank, fit to be shown: control bytes are written out.
///
/// # Errors
/// Where a file is there and cannot be read.
pub fn last_lines(directory: &Path, count: usize) -> Result<Vec<String>> {
    Ok(lines_of(&read(directory)?, count))
}

/// The last `count` lines of `bytes` that are not blank, fit to be shown.
#[must_use]
pub fn lines_of(bytes: &[u8], count: usize) -> Vec<String> {
    /// What a line is cut to.
    const WIDTH: usize = 500;
    let lines =
        bytes.rsplit(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty());
    let mut last: Vec<String> = lines
        .take(count)
        .map(|line| {
            let text = String::from_utf8_lossy(&line[..line.len().min(WIDTH)]);
            text.chars().fold(String::new(), |shown, c| match c {
                '\t' => shown + " ",
                c if c.is_control() => shown + &c.escape_default().to_string(),
                c => shown + c.encode_utf8(&mut [0; 4]),
            })
        })
        .collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("banger-ring-{name}-{}", std::process::id()));
        fs::remove_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn the_ring_turns_and_keeps_the_end() {
        let dir = scratch("turn");
        let mut now = Instant::now();
        let mut ring = Ring::open(&dir, now).unwrap();
        let line = |n: u32| format!("{n:0>1023}\n");
        for n in 0..10_000 {
            now += Duration::from_millis(10);
            ring.write(line(n).as_bytes(), now).unwrap();
        }
        ring.finish().unwrap();
        let all = read(&dir).unwrap();
        assert!((HALF..=2 * HALF).contains(&(all.len() as u64)), "{}", all.len());
        assert!(all.ends_with(line(9_999).as_bytes()));
        let first: u32 = std::str::from_utf8(&all[..1023]).unwrap().parse().unwrap();
        let expect: String = (first..10_000).map(line).collect();
        assert!(all == expect.as_bytes(), "nothing is missing in between");
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn a_ring_is_continued() {
        let dir = scratch("continue");
        let now = Instant::now();
        for text in ["one\n", "two\r\n"] {
            Ring::open(&dir, now).unwrap().write(text.as_bytes(), now).unwrap();
        }
        assert_eq!(read(&dir).unwrap(), b"one\ntwo\r\n");
        assert_eq!(last_lines(&dir, 5).unwrap(), ["one", "two"]);
        assert_eq!(last_lines(&dir, 1).unwrap(), ["two"]);
        assert_eq!(read(&dir.join("missing")).unwrap(), b"");
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn a_flood_is_cut_and_said() {
        let dir = scratch("flood");
        let now = Instant::now();
        let mut ring = Ring::open(&dir, now).unwrap();
        let flood = vec![b'x'; 3 << 20];
        ring.write(&flood, now).unwrap();
        ring.write(&flood, now).unwrap();
        ring.write(b"\nafterwards\n", now + Duration::from_secs(2)).unwrap();
        ring.finish().unwrap();
        let all = read(&dir).unwrap();
        let left_out = (6 << 20) - BURST;
        let tail = format!("x\n[banger: {left_out} bytes of console output left out]\n\nafterwards\n");
        assert!(all.ends_with(tail.as_bytes()));
        assert_eq!(all.len() as u64, BURST - 1 + tail.len() as u64);
        fs::remove_all(&dir).unwrap();
    }

    #[test]
    fn lines_are_fit_to_be_shown() {
        let shown = lines_of(b"a\tb\r\n\n \x1b[2Jc\xff\x07\nlast", 9);
        assert_eq!(shown, ["a b", " \\u{1b}[2Jc\u{fffd}\\u{7}", "last"]);
        assert_eq!(lines_of(&[b'x'; 600], 1), ["x".repeat(500)]);
    }
}
