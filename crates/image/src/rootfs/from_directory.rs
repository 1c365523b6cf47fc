//! A directory of this host as an image, everything in it kept as a tar of it would keep it.
//!
//! Each directory's entries are applied in the order of their names, then those below it; so the same directory gives the same
//! bytes. They go through the merge like those of an archive that is no layer. What somebody puts there meanwhile cannot lead
//! the reading elsewhere: nothing is reached through a link, and what is no file is never opened. Left out are sockets, which are
//! nobody's without their process, and what is in other file systems that are mounted there: `/proc` has no end.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use host::tree::{self, Found, Tree};

use super::{
    Image, ImportError, ImportOptions, Limits, Progress, Report, RootfsReport, Stop,
    decompress::REPORT_EVERY,
    import_error,
    tar::{self, Entry, Kind},
};
use crate::ext4::{
    Segment,
    tree::{Meta, Timestamp},
};

/// The most parts that a sparse file is read in; holes behind them are read as zeros.
const MOST_PARTS: usize = 64 << 10;

/// Makes what is in directory `dir` the new image file `out`: owners, modes, times, links, devices, holes and extended attributes
/// as they are.
///
/// # Errors
/// Where it cannot be read, is empty or changes meanwhile, or the image cannot be written; `out` does not exist then, unless it
/// did before.
pub fn import_directory(
    dir: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<RootfsReport, ImportError> {
    let tree = Tree::open(dir)?;
    let mut image = Image::create(out, options)?;
    let meter = Meter { limits: options.limits, so_far: Progress::default(), next_report: 0, progress };
    let mut reading = Reading { tree, meter, first_names: HashMap::new() };
    let top = reading.tree.find(Path::new(""))?.ok_or_else(|| changed(dir))?;
    reading.apply(&mut image, PathBuf::new(), &top)?;
    let (device, _) = top.identity();
    let mut rest = vec![PathBuf::new()];
    while let Some(parent) = rest.pop() {
        let mut directories = Vec::new();
        for name in reading.tree.names(&parent)?.ok_or_else(|| changed(&dir.join(&parent)))? {
            let path = parent.join(name);
            let Some(found) = reading.tree.find(&path)? else { return Err(changed(&dir.join(path))) };
            reading.meter.count_entry().map_err(|stop| limit(stop, options.limits))?;
            if found.kind() == tree::Kind::Directory && found.identity().0 == device {
                directories.push(path.clone());
            }
            reading.apply(&mut image, path, &found)?;
        }
        rest.extend(directories.into_iter().rev());
    }
    image.so_far = reading.meter.so_far;
    image.finish()
}

fn changed(path: &Path) -> ImportError {
    ImportError::Changed { path: path.to_owned() }
}

fn limit(stop: Stop, limits: Limits) -> ImportError {
    import_error(tar::Error::Read(stop.into()), None, limits)
}

/// A directory that is being read.
struct Reading<'a> {
    tree: Tree,
    meter: Meter<'a>,
    /// Of each file with several names the one that was found first.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Reading<'_> {
    fn apply(&mut self, image: &mut Image<'_>, path: PathBuf, found: &Found) -> Result<(), ImportError> {
        let name = path.into_os_string().into_encoded_bytes();
        let mut content = Content { file: None, parts: Vec::new(), meter: &mut self.meter };
        let kind = match found.kind() {
            tree::Kind::Socket => return Ok(()),
            tree::Kind::Directory => Kind::Directory,
            _ if self.first_names.contains_key(&found.identity()) => {
                Kind::HardLink(self.first_names[&found.identity()].clone())
            }
            tree::Kind::File(size) => content.open(found, size)?,
            tree::Kind::Link => Kind::SymbolicLink(found.target()?),
            tree::Kind::CharacterDevice(major, minor) => Kind::CharacterDevice(major, minor),
            tree::Kind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            tree::Kind::Pipe => Kind::Pipe,
        };
        if found.kind() != tree::Kind::Directory && found.names() > 1 {
            self.first_names.entry(found.identity()).or_insert_with(|| name.clone());
        }
        let ((uid, gid), (seconds, nanoseconds)) = (found.owner(), found.modified());
        let meta = Meta { mode: found.mode(), uid, gid, mtime: Timestamp { seconds, nanoseconds } };
        let attributes = match kind {
            Kind::HardLink(_) => Vec::new(),
            _ => found.attributes()?,
        };
        let entry = Entry { path: name.clone(), kind, meta, attributes };
        let limits = content.meter.limits;
        image.merge.apply(entry, &mut content).map_err(|error| match error {
            tar::Error::Truncated => changed(found.path()),
            tar::Error::Read(cause) if Stop::of(&cause).is_none() => {
                host::Error::path("read", found.path(), cause).into()
            }
            error => import_error(error, Some(name), limits),
        })
    }
}

/// The content of one file, without its holes.
struct Content<'a, 'b> {
    file: Option<File>,
    /// What is still to be read, the last first.
    parts: Vec<Range<u64>>,
    meter: &'a mut Meter<'b>,
}

impl Content<'_, '_> {
    /// Makes it that of the file that was `found`.
    fn open(&mut self, found: &Found, size: u64) -> Result<Kind, ImportError> {
        let file = found.open()?;
        let parts = tree::data(&file, size, MOST_PARTS);
        self.parts = parts.map_err(|cause| host::Error::path("read", found.path(), cause))?;
        self.file = Some(file);
        let kind = match &self.parts[..] {
            [all] if *all == (0..size) => Kind::File(size),
            parts => {
                let segment =
                    |part: &Range<u64>| Segment { offset: part.start, length: part.end - part.start };
                Kind::Sparse(size, parts.iter().map(segment).collect())
            }
        };
        self.parts.reverse();
        Ok(kind)
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (Some(file), Some(part)) = (&self.file, self.parts.last_mut()) else { return Ok(0) };
        let wanted = usize::try_from(part.end - part.start).unwrap_or(usize::MAX).min(out.len());
        let count = file.read_at(&mut out[..wanted], part.start)?;
        part.start += count as u64;
        if part.is_empty() {
            self.parts.pop();
        }
        self.meter.count(count as u64)?;
        Ok(count)
    }
}

/// Counts what is read, tells of it, and stops where it goes beyond limits.
struct Meter<'a> {
    limits: Limits,
    so_far: Progress,
    next_report: u64,
    progress: Report<'a>,
}

impl Meter<'_> {
    fn count_entry(&mut self) -> Result<(), Stop> {
        self.so_far.entries += 1;
        if self.so_far.entries > self.limits.entries {
            return Err(Stop::TooManyEntries);
        }
        // Empty files are read too.
        if self.so_far.entries.is_multiple_of(1024) { self.report() } else { Ok(()) }
    }

    fn count(&mut self, bytes: u64) -> Result<(), Stop> {
        self.so_far.read += bytes;
        self.so_far.unpacked += bytes;
        if self.so_far.unpacked > self.limits.bytes {
            return Err(Stop::TooLarge);
        }
        if self.so_far.unpacked < self.next_report { Ok(()) } else { self.report() }
    }

    fn report(&mut self) -> Result<(), Stop> {
        self.next_report = self.so_far.unpacked + REPORT_EVERY;
        match (self.progress)(self.so_far) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Cancelled),
        }
    }
}
