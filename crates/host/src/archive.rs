//! A tar of files, written as it goes: all of them root's, since the users of this host mean nothing where it is unpacked.
//!
//! The form is GNU's. Names and targets are any bytes and stay as they are, sizes are any number; hard links, holes, devices and
//! attributes are not written.

use std::{
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    Error, clock,
    sparse::CopyError,
    tree::{Entry, Tree},
};

/// What a tar is made of.
const BLOCK: usize = 512;
/// Where these are in a header (tar(5)).
const NAME: usize = 0;
const TARGET: usize = 157;
/// The most bytes of either there.
const SHORT: usize = 100;

/// A tar that is written to `W`.
#[derive(Debug)]
pub struct Archive<W>(W);

/// What of a tree goes into a tar, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A file, with its permissions and bytes.
    File(u32, u64),
    /// A directory, with its permissions.
    Directory(u32),
    /// A symbolic link.
    Link,
    /// A fifo, a socket or a device, which stays.
    Special,
}

/// Why a tree was not packed.
#[derive(Debug)]
pub enum PackError {
    /// What lies there cannot be read.
    From(PathBuf, Error),
    /// The tar cannot be written.
    To(io::Error),
}

impl<W: Write> Archive<W> {
    /// One with nothing in it.
    pub fn new(out: W) -> Self {
        Self(out)
    }

    /// Begins a file, changed at `mtime`. Exactly `size` bytes are to be written next, then [`Archive::pad`].
    ///
    /// # Errors
    /// Where it cannot be written, as of all below.
    pub fn begin(&mut self, path: &[u8], mode: u32, size: u64, mtime: u64) -> io::Result<()> {
        self.name(b'L', path)?;
        self.header(b'0', &[(NAME, path)], mode, size, mtime)
    }

    /// Writes bytes of a file that was begun.
    ///
    /// # Errors
    /// As [`Archive::begin`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Ends a file of `size` bytes.
    ///
    /// # Errors
    /// As [`Archive::begin`].
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK as u64).expect("less than a block");
        self.0.write_all(&[0; BLOCK][..(BLOCK - rest) % BLOCK])
    }

    /// Writes a whole file. Its length is promised: one that shrinks meanwhile ends in zeros, one that grows is cut.
    ///
    /// # Errors
    /// On which side.
    pub fn file(
        &mut self,
        path: &[u8],
        mode: u32,
        size: u64,
        mtime: u64,
        content: &mut dyn Read,
    ) -> Result<(), CopyError> {
        self.begin(path, mode, size, mtime).map_err(CopyError::To)?;
        let mut content = content.chain(io::repeat(0)).take(size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return self.pad(size).map_err(CopyError::To),
                Ok(count) => self.write(&buffer[..count]).map_err(CopyError::To)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(CopyError::From(e)),
            }
        }
    }

    /// Writes a directory.
    ///
    /// # Errors
    /// As [`Archive::begin`].
    pub fn directory(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        // The slash at its end tells a directory also to those who do not look at the type.
        let path = [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        self.name(b'L', &path)?;
        self.header(b'5', &[(NAME, &path)], mode, 0, now())
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// As [`Archive::begin`].
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.name(b'K', target)?;
        self.name(b'L', path)?;
        self.header(b'2', &[(NAME, path), (TARGET, target)], 0o777, 0, now())
    }

    /// Writes what lies at `name` in `tree` with all below it, called `called`, in the order of names. `rule` hears of each by its
    /// place in the tree, gives its permissions in the tar, and may end it. Links are written as such and never followed.
    ///
    /// # Errors
    /// Those of `rule`; [`PackError`].
    pub fn tree<E: From<PackError>>(
        &mut self,
        tree: &Tree,
        name: &Path,
        called: &Path,
        mut rule: impl FnMut(&Path, Item) -> Result<u32, E>,
    ) -> Result<(), E> {
        let mut todo = vec![name.to_owned()];
        while let Some(path) = todo.pop() {
            let from = |cause| PackError::From(path.clone(), cause);
            let below = path.strip_prefix(name).expect("it is at it or below it");
            let there = if below.as_os_str().is_empty() { called.to_owned() } else { called.join(below) };
            let there = there.as_os_str().as_bytes();
            match tree.entry(&path).map_err(from)? {
                Some(Entry::File { mut file, size, mode, mtime }) => {
                    let mode = rule(&path, Item::File(mode, size))?;
                    self.file(there, mode, size, mtime, &mut file).map_err(|error| match error {
                        CopyError::From(cause) => from(Error::path("read", &path, cause)),
                        CopyError::To(cause) => PackError::To(cause),
                    })?;
                }
                Some(Entry::Link(target)) => {
                    rule(&path, Item::Link)?;
                    self.link(there, &target).map_err(PackError::To)?;
                }
                Some(Entry::Other) => match tree.names(&path).map_err(from)? {
                    Some(names) => {
                        let mode = rule(&path, Item::Directory(tree.mode(&path).map_err(from)?))?;
                        self.directory(there, mode).map_err(PackError::To)?;
                        todo.extend(names.into_iter().rev().map(|name| path.join(name)));
                    }
                    None => drop(rule(&path, Item::Special)?),
                },
                // It went since it was listed.
                None => {}
            }
        }
        Ok(())
    }

    /// Ends it, and gives what it was written to.
    ///
    /// # Errors
    /// As [`Archive::begin`].
    pub fn finish(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        self.0.flush()?;
        Ok(self.0)
    }

    /// A name that does not fit a header goes before it.
    fn name(&mut self, kind: u8, name: &[u8]) -> io::Result<()> {
        if name.len() <= SHORT {
            return Ok(());
        }
        let size = name.len() as u64 + 1;
        self.header(kind, &[(NAME, b"././@LongLink")], 0, size, 0)?;
        self.write(name)?;
        self.write(b"\0")?;
        self.pad(size)
    }

    fn header(
        &mut self,
        kind: u8,
        names: &[(usize, &[u8])],
        mode: u32,
        size: u64,
        mtime: u64,
    ) -> io::Result<()> {
        let mut header = [0; BLOCK];
        for (at, name) in names {
            let length = name.len().min(SHORT);
            header[*at..*at + length].copy_from_slice(&name[..length]);
        }
        number(&mut header[100..108], mode.into());
        number(&mut header[108..116], 0);
        number(&mut header[116..124], 0);
        number(&mut header[124..136], size);
        number(&mut header[136..148], mtime);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar  \0");
        // Its own field counts as spaces.
        let sum = header.iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ');
        number(&mut header[148..155], sum);
        header[155] = b' ';
        self.write(&header)
    }
}

/// When a link or directory is said to have been changed: theirs means nothing elsewhere.
fn now() -> u64 {
    clock::now_ms() / 1000
}

/// Writes `value` in octal digits that a zero byte ends; one of too many as a binary number with the first bit set.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value >> (3 * digits) == 0 {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        let start = field.len() - 8;
        field[start..].copy_from_slice(&value.to_be_bytes());
        field[0] = 0x80;
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::ffi::OsStringExt, process::Command};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("banger-host-archive-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            crate::fs::private_dir(&dir).unwrap();
            Self(dir)
        }

        /// What GNU tar says of an archive.
        fn tar(&self, words: &[&str]) -> String {
            let output =
                Command::new("tar").args(words).current_dir(&self.0).env("TZ", "UTC").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Names and targets as long as they fit a header and longer ones, in any bytes.
    #[test]
    fn a_tree_is_what_tar_reads() {
        let scratch = Scratch::new("tree");
        let top = scratch.0.join("top");
        crate::fs::private_dir(&top.join("dir/deep")).unwrap();
        let mut names: Vec<Vec<u8>> = vec![b"a\nb \xff".to_vec(), b"-x".to_vec()];
        names.extend([99, 100, 101, 102, 200].map(|length| vec![b'n'; length]));
        for (name, length) in names.iter().zip([0, 1, 511, 512, 513, 100_000, 3]) {
            let name = PathBuf::from(std::ffi::OsString::from_vec(name.clone()));
            crate::fs::write_atomic(&top.join("dir").join(&name), &vec![b'x'; length]).unwrap();
            crate::fs::symlink(&name, &top.join("dir/deep").join(&name)).unwrap();
        }
        crate::fs::restrict(&top.join("dir/-x"), 0o640).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            top.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut archive = Archive::new(crate::fs::create_new(&scratch.0.join("tar")).unwrap());
        let mut seen = Vec::new();
        let tree = Tree::open(&scratch.0).unwrap();
        let packed: Result<(), PackError> =
            archive.tree(&tree, Path::new("top"), Path::new("called"), |path, item| {
                seen.push((path.to_owned(), item));
                Ok(if let Item::File(mode, _) | Item::Directory(mode) = item { mode } else { 0 })
            });
        packed.unwrap();
        archive.finish().unwrap();
        assert_eq!(seen[0], ("top".into(), Item::Directory(0o700)));
        assert!(seen.contains(&("top/dir/-x".into(), Item::File(0o640, 1))));
        assert_eq!(seen.last(), Some(&("top/fifo".into(), Item::Special)));

        crate::fs::remove(&top.join("fifo")).unwrap();
        scratch.tar(&["-xf", "tar"]);
        let output = Command::new("diff")
            .args(["-r", "--no-dereference", "top", "called"])
            .current_dir(&scratch.0)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let listed = scratch.tar(&["--numeric-owner", "-tvf", "tar", "called/dir/-x"]);
        assert!(listed.starts_with("-rw-r----- 0/0"), "{listed}");
    }

    #[test]
    fn a_size_of_any_number_is_read() {
        let scratch = Scratch::new("size");
        for size in [0, (8 << 30) - 1, 8 << 30, 1 << 40] {
            let file = crate::fs::create_new(&scratch.0.join("tar")).unwrap();
            let mut archive = Archive::new(file);
            archive.begin(b"large", 0o600, size, 1_000_000_000).unwrap();
            // Holes are not read by who only lists.
            let length = BLOCK as u64 + size.next_multiple_of(BLOCK as u64);
            archive.0.set_len(length + 2 * BLOCK as u64).unwrap();
            drop(archive);
            let listed = scratch.tar(&["--full-time", "-tvf", "tar"]);
            assert!(listed.contains(&format!(" {size} 2001-09-09 01:46:40 large")), "{size}: {listed}");
            crate::fs::remove(&scratch.0.join("tar")).unwrap();
        }
    }

    #[test]
    fn a_file_has_the_length_that_was_promised() {
        for content in [&b"1"[..], b"123", b"12345"] {
            let mut archive = Archive::new(Vec::new());
            archive.file(b"x", 0o600, 3, 0, &mut &content[..]).unwrap();
            let mut expect = [content, b"\0\0"].concat();
            expect.truncate(3);
            let tar = archive.finish().unwrap();
            assert_eq!((tar.len(), &tar[BLOCK..BLOCK + 3]), (4 * BLOCK, &expect[..]));
        }
    }
}
