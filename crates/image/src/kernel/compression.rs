//! Decompression of what kernels come in, and the bounds that keep a small file from becoming a large one.

use std::io::{self, BufReader, Read};

use super::{lz4, xz::WindowLimit, xz_blocks::Blocks};

/// The most memory that a packer's history may take.
const WINDOW_LOG: u32 = 27;

/// The most that a byte of a packed file stands for on the whole: several times what the best packer makes of kernels.
pub(crate) const MAX_RATIO: u64 = 64;
/// What a file may unpack to whatever its packed length.
pub(crate) const FREE: u64 = 16 << 20;

/// How bytes are packed, told by how they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all, or in no way known here.
    None,
    Gzip,
    Xz,
    Zstd,
    /// The legacy frames of LZ4, the only ones that kernels use.
    Lz4,
    Lzma,
    Bzip2,
    Lzo,
}

impl Compression {
    /// The packing of what begins with `head`.
    pub(crate) fn of(head: &[u8]) -> Self {
        const MAGIC: [(&[u8], Compression); 7] = [
            (b"\x1f\x8b\x08", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x5d\0\0", Compression::Lzma),
            (b"BZh", Compression::Bzip2),
            (b"\x89LZO", Compression::Lzo),
        ];
        MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map_or(Self::None, |(_, found)| *found)
    }

    /// A reader of what `packed` holds. Bytes after its end are left alone: kernels append the length.
    ///
    /// # Errors
    /// Where the form is not supported, or its header is broken.
    pub(crate) fn reader<'a>(self, packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let packed = BufReader::with_capacity(1 << 16, packed);
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new(WindowLimit::new(packed, 1 << WINDOW_LOG), false)),
            Self::Zstd => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(packed)?;
                reader.window_log_max(WINDOW_LOG)?;
                Box::new(reader.single_frame())
            }
            Self::Lz4 => Box::new(lz4::LegacyReader::new(packed)),
            Self::Lzma => {
                Box::new(lzma_rust2::LzmaReader::new_mem_limit(packed, 1 << (WINDOW_LOG - 10), None)?)
            }
            // Its blocks have 900 KB at most, whatever it says.
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
            Self::Lzo => return Err(unsupported("LZO")),
        })
    }
}

/// A reader as that of [`Compression::reader`] for a large file, parts of which are unpacked at the same time where it has such.
///
/// # Errors
/// Where the form is not supported, or its header is broken.
pub(crate) fn reader_of_large<'a>(
    packing: Compression,
    packed: impl Read + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    if packing != Compression::Xz {
        return packing.reader(packed);
    }
    // More would wait for who takes what is unpacked, and keep it in memory.
    const AT_ONCE: usize = 4;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Box::new(Blocks::new(packed, 1 << WINDOW_LOG, processors.min(AT_ONCE))?))
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{name} compression is not supported"))
}

/// What `packed` bytes may unpack to, where files of their kind have no more than `limit`.
pub(crate) fn bound(packed: usize, limit: u64) -> u64 {
    limit.min((packed as u64).saturating_mul(MAX_RATIO).max(FREE))
}

/// All of `packed`, unpacked where it is packed.
///
/// # Errors
/// Where it is damaged, or holds more than `limit` bytes, or more than files of its kind do for their packed length.
pub(crate) fn unpack(packed: Vec<u8>, limit: u64) -> io::Result<Vec<u8>> {
    let limit = bound(packed.len(), limit);
    match Compression::of(&packed) {
        Compression::None => Ok(packed),
        other => read_all(&mut other.reader(packed.as_slice())?, limit),
    }
}

/// All that `reader` gives.
///
/// # Errors
/// Where it fails, or gives more than `limit` bytes.
pub(crate) fn read_all(reader: &mut dyn Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Bounded::new(reader, limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A reader that fails, instead of ending, beyond a limit.
#[derive(Debug)]
pub(crate) struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Bounded<R> {
    /// At most `limit` bytes of `reader`.
    pub(crate) fn new(reader: R, limit: u64) -> Self {
        Self { reader, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "it unpacks to more than anything of its kind does")
        })?;
        Ok(count)
    }
}
