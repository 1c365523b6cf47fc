//! Finds out how a source is compressed, unpacks it, and stops where it goes beyond its limits.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;

use super::ImportError;
use crate::kernel::xz::WindowLimit;

/// What a source may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The bytes that it may unpack to, and the bytes of the image.
    pub bytes: u64,
    /// How many times its size it may unpack to.
    pub ratio: u64,
    /// The bytes up to which the ratio does not matter: little that is compressed well harms nobody.
    pub ratio_from: u64,
    /// Its entries.
    pub entries: u64,
    /// The window of a zstd stream in bytes.
    pub window: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 30, ratio: 200, ratio_from: 1 << 30, entries: 20_000_000, window: 32 << 20 }
    }
}

/// How far an import is, over all its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the source that were read.
    pub read: u64,
    /// Bytes that these were unpacked to.
    pub unpacked: u64,
    /// Entries that were found in these.
    pub entries: u64,
}

/// The dictionary that `xz -9` asks for.
pub(super) const XZ_WINDOW: u64 = 64 << 20;
/// How many bytes go by between two reports.
pub(super) const REPORT_EVERY: u64 = 4 << 20;

/// Why reading was stopped, as the cause of an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    TooLarge,
    Bomb,
    TooManyEntries,
    WindowTooLarge,
}

impl Stop {
    /// What stopped the reading that failed with `error`, if it was that.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::TooLarge => "unpacks to too much",
            Self::Bomb => "unpacks to too many times its size",
            Self::TooManyEntries => "has too many entries",
            Self::WindowTooLarge => "needs too much memory to unpack",
        })
    }
}

impl std::error::Error for Stop {}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> Self {
        io::Error::other(stop)
    }
}

/// What a source unpacks to.
pub(crate) struct Unpacked<'a> {
    unpacker: Box<dyn Read + 'a>,
    read: Rc<Cell<u64>>,
    unpacked: u64,
    entries: u64,
    next_report: u64,
    limits: Limits,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl<'a> Unpacked<'a> {
    /// What `source` unpacks to, by the format that its first bytes show. `before` is what other layers took of the limits.
    ///
    /// # Errors
    /// Where it cannot be read or its format is known but not supported.
    pub fn new(
        source: impl Read + 'a,
        limits: Limits,
        before: Progress,
        progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, ImportError> {
        let read = Rc::new(Cell::new(before.read));
        let mut source = Counted { source, read: Rc::clone(&read) };
        let mut magic = [0; 8];
        let mut have = 0;
        while have < magic.len() {
            match source.read(&mut magic[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ImportError::Read(e)),
            }
        }
        let source = Headed { head: magic, at: 0, have, rest: source };
        let unpacker: Box<dyn Read + 'a> = match &magic[..have] {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(buffered(source))),
            // A frame, or one that only has something to skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::Decoder::with_buffer(buffered(source)).map_err(ImportError::Read)?;
                decoder.window_log_max(limits.window.ilog2()).map_err(ImportError::Read)?;
                Box::new(Zstd(decoder))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                {
                    // A second stream behind the first would go past the limit, and nobody makes that.
                    let limited = WindowLimit::new(buffered(source), XZ_WINDOW);
                    Box::new(Xz(lzma_rust2::XzReader::new(limited, false)))
                }
            }
            [b'B', b'Z', b'h', ..] => return Err(ImportError::UnsupportedCompression("bzip2")),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err(ImportError::UnsupportedCompression("lz4")),
            [b'L', b'Z', b'I', b'P', ..] => return Err(ImportError::UnsupportedCompression("lzip")),
            [0x5d, 0, 0, ..] => return Err(ImportError::UnsupportedCompression("lzma")),
            [0x1f, 0x9d, ..] => return Err(ImportError::UnsupportedCompression("compress")),
            _ => Box::new(source),
        };
        let Progress { unpacked, entries, .. } = before;
        Ok(Self { unpacker, read, unpacked, entries, next_report: 0, limits, progress })
    }

    /// Says that one more entry was found.
    pub fn count_entry(&mut self) -> io::Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries { Err(Stop::TooManyEntries.into()) } else { Ok(()) }
    }

    /// How far it is.
    pub fn so_far(&self) -> Progress {
        Progress { read: self.read.get(), unpacked: self.unpacked, entries: self.entries }
    }

    fn check(&mut self) -> Result<(), Stop> {
        if self.unpacked > self.limits.bytes {
            return Err(Stop::TooLarge);
        }
        let allowed = self.read.get().saturating_mul(self.limits.ratio).max(self.limits.ratio_from);
        if self.unpacked > allowed {
            return Err(Stop::Bomb);
        }
        if self.unpacked < self.next_report {
            return Ok(());
        }
        self.next_report = self.unpacked + REPORT_EVERY;
        let so_far = self.so_far();
        match (self.progress)(so_far) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Cancelled),
        }
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.unpacker.read(out)?;
        self.unpacked += count as u64;
        self.check()?;
        Ok(count)
    }
}

/// Counts what is read.
struct Counted<R> {
    source: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(out)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// A source whose first bytes were already read.
struct Headed<R> {
    head: [u8; 8],
    at: usize,
    have: usize,
    rest: R,
}

fn buffered<R: Read>(source: R) -> BufReader<R> {
    BufReader::with_capacity(128 << 10, source)
}

impl<R: Read> Read for Headed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.have {
            return self.rest.read(out);
        }
        let count = out.len().min(self.have - self.at);
        out[..count].copy_from_slice(&self.head[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Tells a frame that needs too much memory from a damaged one.
struct Zstd<R: BufRead>(zstd::Decoder<'static, R>);

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| {
            if error.to_string().contains("requires too much memory") {
                Stop::WindowTooLarge.into()
            } else {
                error
            }
        })
    }
}

/// Tells a block that needs too much memory from a damaged one.
struct Xz<R>(R);

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => Stop::WindowTooLarge.into(),
            _ => error,
        })
    }
}
