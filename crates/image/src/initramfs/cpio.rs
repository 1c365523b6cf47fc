//! Writes the `newc` form of cpio, which the kernel unpacks. Owner root, time zero: the same entries give the same bytes.

use std::io::{self, Write};

/// The entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// What the kernel takes of a name or a target, the zero byte at its end included. It skips entries that have more.
const LONGEST: usize = 4096;

/// What lies at a path of the archive.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// A directory, mode 0755.
    Directory,
    /// A regular file.
    File {
        /// The permission bits.
        mode: u32,
        /// What is in it.
        content: &'a [u8],
    },
    /// A character device.
    CharDevice {
        /// The permission bits.
        mode: u32,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: &'a str,
    },
}

/// An archive being written. A directory must be added before what is in it.
#[derive(Debug)]
#[must_use = "an archive without its end is refused by the kernel: call finish"]
pub struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An archive that begins where `out` stands, which must be at a multiple of four.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds `entry` at `path`, which is relative to the root.
    ///
    /// # Errors
    /// Where it cannot be written, its content is 4 GiB or more, or the kernel would read another entry than this or none: the
    /// archive is as it was then, except where writing failed.
    pub fn add(&mut self, path: &str, entry: &Entry<'_>) -> io::Result<()> {
        if path == TRAILER || !is_readable(path) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        if let Entry::Symlink { target } = entry
            && !is_readable(target)
        {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let (kind, mode, device, content): (u32, u32, (u32, u32), &[u8]) = match *entry {
            Entry::Directory => (0o040_000, 0o755, (0, 0), &[]),
            Entry::File { mode, content } => (0o100_000, mode, (0, 0), content),
            Entry::CharDevice { mode, major, minor } => (0o020_000, mode, (major, minor), &[]),
            Entry::Symlink { target } => (0o120_000, 0o777, (0, 0), target.as_bytes()),
        };
        // Every entry has its own inode number; two of the same number would be taken for hard links.
        let inode = self.inode + 1;
        self.entry(path, inode, kind | mode, device, content)?;
        self.inode = inode;
        Ok(())
    }

    /// Ends the archive and gives the stream back, which then stands at a multiple of four again.
    ///
    /// # Errors
    /// Where the end cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, 0, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let name_size = path.len() + 1;
        // Magic, inode, mode, uid, gid, links, mtime, size, device of the file system, device, name size, checksum.
        write!(
            self.out,
            "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}{0:08X}{0:08X}{major:08X}{minor:08X}\
             {name_size:08X}{0:08X}",
            0, 1
        )?;
        self.out.write_all(path.as_bytes())?;
        // The name ends with a zero, and name and content are each filled up to a multiple of four.
        self.out.write_all(&[0; 4][..1 + (110 + name_size).wrapping_neg() % 4])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..content.len().wrapping_neg() % 4])
    }
}

/// Whether the kernel reads a name or a target as it is.
fn is_readable(text: &str) -> bool {
    (1..LONGEST).contains(&text.len()) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_misread_is_refused_and_leaves_no_trace() {
        let expected = {
            let mut archive = Archive::new(Vec::new());
            archive.add("a", &Entry::Directory).unwrap();
            archive.add("b", &Entry::Directory).unwrap();
            archive.finish().unwrap()
        };
        let refuse = |path: &str, entry: Entry<'_>| {
            let mut archive = Archive::new(Vec::new());
            archive.add("a", &Entry::Directory).unwrap();
            let error = archive.add(path, &entry).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidFilename, "{path:?} {entry:?}");
            archive.add("b", &Entry::Directory).unwrap();
            assert_eq!(archive.finish().unwrap(), expected, "{path:?} {entry:?}");
        };
        let long = "x".repeat(LONGEST);
        for text in ["", "a\0b", &long] {
            refuse(text, Entry::File { mode: 0o644, content: b"content" });
            refuse("link", Entry::Symlink { target: text });
        }
        refuse(TRAILER, Entry::Directory);
        let longest = &long[1..];
        let mut archive = Archive::new(Vec::new());
        archive.add(longest, &Entry::Symlink { target: longest }).unwrap();
        archive.add("dir/TRAILER!!!", &Entry::Symlink { target: TRAILER }).unwrap();
    }
}
