//! Reads a Debian package (`deb(5)`): an `ar` archive that holds a packed tar of what the package installs.
//!
//! The package is read once, front to back, without unpacking it to disk. It is not trusted: every length is checked
//! before it is believed, and what it unpacks to is bounded in size and in ratio.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    ops::ControlFlow,
};

use super::compression::{self, Bounded, Compression, FREE, MAX_RATIO};

/// The most that a package unpacks to.
const MAX_UNPACKED: u64 = 8 << 30;
/// The most entries that a package has.
const MAX_ENTRIES: usize = 500_000;
/// The longest path, and the longest extended header.
const MAX_NAME: u64 = 4096;
const MAX_EXTENDED: u64 = 1 << 16;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It is something else.
    #[error("it is no Debian package")]
    NotDeb,
    /// It names more than it has.
    #[error("it is cut short")]
    Truncated,
    /// The part that holds the files is not there.
    #[error("it has no files to install")]
    NoData,
    /// It cannot be read or unpacked.
    #[error("its files cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// An entry is not one that a package has.
    #[error("its entry {entry:?} {why}")]
    Entry {
        /// The path.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A regular file of a package: its path without leading `./`, its size, and its content.
pub(crate) struct PackedFile<'a> {
    pub(crate) path: &'a str,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    pub(crate) content: &'a mut dyn Read,
}

/// What an entry that is no directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    /// A link, a device, or what else a tar can hold.
    Other,
}

/// Gives each file of the package `deb` to `visit`, and how far the package was read to `progress`, which may stop it: then
/// an error is given back, whichever.
pub(crate) fn each_file<E: From<DebError>>(
    deb: &File,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    visit: &mut dyn FnMut(PackedFile<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let length = deb.metadata().map_err(DebError::Unpack)?.len();
    let (packed_length, packed) = data(deb, length)?;
    let mut read = 0;
    let counted = Counted {
        reader: packed,
        count: |n| {
            read += n;
            progress(read, packed_length)
        },
    };
    let mut packed = BufReader::with_capacity(1 << 18, counted);
    let head = io::BufRead::fill_buf(&mut packed).map_err(DebError::Unpack)?;
    let packing = Compression::of(head);
    let limit = packed_length.saturating_mul(MAX_RATIO).clamp(FREE, MAX_UNPACKED);
    let mut unpacked =
        Bounded::new(compression::reader_of_large(packing, packed).map_err(DebError::Unpack)?, limit);
    each_entry(&mut unpacked, visit)?;
    // To the very end: the packers' checksums come last.
    io::copy(&mut unpacked, &mut io::sink()).map_err(DebError::Unpack)?;
    Ok(())
}

/// The member that holds the files, packed: its length and a reader of it.
fn data(deb: &File, length: u64) -> Result<(u64, impl Read + '_), DebError> {
    const GLOBAL: u64 = 8;
    const HEADER: u64 = 60;
    let mut at = GLOBAL;
    let magic = read_at::<8>(deb, 0).map_err(|_| DebError::NotDeb)?;
    if &magic != b"!<arch>\n" {
        return Err(DebError::NotDeb);
    }
    while at < length {
        let header = read_at::<60>(deb, at)?;
        let text = |range: std::ops::Range<usize>| str::from_utf8(&header[range]).ok().map(str::trim_end);
        let size = text(48..58)
            .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|t| t.parse::<u64>().ok());
        let (Some(name), Some(size), b"`\n") = (text(0..16), size, &header[58..60]) else {
            return Err(DebError::NotDeb);
        };
        let name = name.trim_end_matches('/');
        if at == GLOBAL && name != "debian-binary" {
            return Err(DebError::NotDeb);
        }
        let begin = at + HEADER;
        let end = begin.checked_add(size).filter(|end| *end <= length).ok_or(DebError::Truncated)?;
        if name == "data.tar" || name.starts_with("data.tar.") {
            return Ok((size, At { file: deb, at: begin, end }));
        }
        at = end + size % 2;
    }
    Err(DebError::NoData)
}

/// Gives each file of the tar in `unpacked` to `visit`.
fn each_entry<E: From<DebError>>(
    unpacked: &mut dyn Read,
    visit: &mut dyn FnMut(PackedFile<'_>) -> Result<(), E>,
) -> Result<(), E> {
    use tar::EntryType;
    let mut archive = tar::Archive::new(unpacked);
    // Raw, because the long names would otherwise be read whole, whatever length they claim.
    let entries = archive.entries().map_err(DebError::Unpack)?.raw(true);
    let mut long_name: Option<Vec<u8>> = None;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(DebError::Unpack)?;
        let refuse =
            |name: &[u8], why| DebError::Entry { entry: String::from_utf8_lossy(name).into_owned(), why };
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(DebError::Unpack)?;
        let name = entry.header().path_bytes().into_owned();
        if count >= MAX_ENTRIES {
            return Err(refuse(&name, "is one too many").into());
        }
        match kind {
            EntryType::GNULongName | EntryType::XHeader => {
                let limit = if kind == EntryType::XHeader { MAX_EXTENDED } else { MAX_NAME };
                let mut bytes = Vec::new();
                Bounded::new(&mut entry, limit).read_to_end(&mut bytes).map_err(DebError::Unpack)?;
                if kind == EntryType::XHeader {
                    if let Some(path) = extended_path(&bytes).map_err(|why| refuse(&name, why))? {
                        long_name = Some(path);
                    }
                } else {
                    bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
                    long_name = Some(bytes);
                }
                continue;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let name = long_name.take().unwrap_or(name);
        let path = str::from_utf8(&name).map_err(|_| refuse(&name, "has a name that is no text"))?;
        let path = path.strip_prefix("./").unwrap_or(path);
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(refuse(&name, "leads out of the package").into());
        }
        let kind = match kind {
            EntryType::Directory => continue,
            EntryType::Regular | EntryType::Continuous => FileKind::Regular,
            _ => FileKind::Other,
        };
        visit(PackedFile { path, kind, size, content: &mut entry })?;
    }
    Ok(())
}

/// The path in a pax header, whose records are `length key=value\n`.
fn extended_path(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    const BROKEN: &str = "has a broken extended header";
    let mut path = None;
    while !bytes.is_empty() {
        let digits = bytes.iter().position(|b| *b == b' ').ok_or(BROKEN)?;
        let length: usize =
            str::from_utf8(&bytes[..digits]).ok().and_then(|t| t.parse().ok()).ok_or(BROKEN)?;
        let (record, rest) = bytes.split_at_checked(length).ok_or(BROKEN)?;
        let record = record.get(digits + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or(BROKEN)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(BROKEN)?;
        match &record[..equals] {
            b"path" => path = Some(record[equals + 1..].to_vec()),
            // The header proper says another size then, and readers would disagree on where the next entry is.
            b"size" => return Err("has its size in an extended header"),
            _ => {}
        }
        bytes = rest;
    }
    Ok(path)
}

fn read_at<const N: usize>(file: &File, at: u64) -> Result<[u8; N], DebError> {
    let mut bytes = [0; N];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, at).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => DebError::Truncated,
        _ => DebError::Unpack(e),
    })?;
    Ok(bytes)
}

/// A part of a file.
struct At<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..length], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Tells how much was read.
struct Counted<R, F> {
    reader: R,
    count: F,
}

impl<R: Read, F: FnMut(u64) -> ControlFlow<()>> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match (self.count)(count as u64) {
            ControlFlow::Continue(()) => Ok(count),
            ControlFlow::Break(()) => Err(io::Error::other("cancelled")),
        }
    }
}
