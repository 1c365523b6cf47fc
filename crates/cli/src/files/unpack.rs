//! Makes files of this host of a guest's tar.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

use host::{
    sparse::{self, Buffer, CopyError},
    tree::{Tree, set_changed},
};
use model::workspace::link_stays;
use tar::{Archive, Entry, EntryType};

use super::{FilesError, Left};

/// The most entries and the most bytes of all of them.
const MAX_ENTRIES: u64 = 1_000_000;
const MAX_BYTES: u64 = 256 << 30;
/// The most bytes of a name.
const MAX_NAME: u64 = 4096;

/// What was not made.
#[derive(Debug, Default)]
pub struct Unmade {
    /// Links that lead out of what was copied.
    pub links: Left,
    /// Devices, fifos and the like.
    pub special: Left,
}

/// Makes `called` in `tree` of the tar `from`: a file, or a directory with all below it. Permissions are kept but for what
/// the umask takes and the bits that make a file somebody else's program; owners are not.
///
/// # Errors
/// [`FilesError`]; what was made before stays, but for a file that came in part.
pub fn unpack(tree: &Tree, called: &OsStr, from: impl Read) -> Result<Unmade, FilesError> {
    let mut archive = Archive::new(from);
    let mut unpack = Unpack {
        tree,
        called,
        shape: Shape::Open,
        bytes: 0,
        dirs: Vec::new(),
        unmade: Unmade::default(),
        buffer: Buffer::default(),
    };
    let (mut long_path, mut long_link) = (None, None);
    // Raw, so that it is here that the length of a name is looked at.
    for (count, entry) in (0..).zip(archive.entries().map_err(FilesError::Malformed)?.raw(true)) {
        let mut entry = entry.map_err(FilesError::Malformed)?;
        if count >= MAX_ENTRIES {
            return Err(FilesError::TooMuch("a million files"));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => long_path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => long_link = Some(long_name(&mut entry)?),
            kind => {
                let path = long_path.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
                let link = || entry.header().link_name_bytes().unwrap_or_default().into_owned();
                let link = long_link.take().unwrap_or_else(link);
                unpack.entry(&mut entry, kind, Path::new(&OsString::from_vec(path)), link)?;
            }
        }
    }
    unpack.finish()
}

/// A name that is an entry of its own, ended by a zero byte.
fn long_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, FilesError> {
    let mut name = Vec::new();
    entry.take(MAX_NAME + 1).read_to_end(&mut name).map_err(FilesError::Malformed)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    if name.len() as u64 > MAX_NAME || name.contains(&0) {
        return Err(FilesError::TooMuch("a name that is none"));
    }
    Ok(name)
}

/// What the tar has turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing came yet.
    Open,
    /// A directory: it came as `.`, before all that is in it.
    Tree,
    /// One thing alone, whose name in the tar is not asked.
    Alone,
}

struct Unpack<'a> {
    tree: &'a Tree,
    called: &'a OsStr,
    shape: Shape,
    bytes: u64,
    /// Directories that their owner may not fill, for when all in them is there.
    dirs: Vec<(PathBuf, u32)>,
    unmade: Unmade,
    buffer: Buffer,
}

impl Unpack<'_> {
    fn entry(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        link: Vec<u8>,
    ) -> Result<(), FilesError> {
        let refused = || FilesError::Refused(path.to_owned());
        let below = beneath(path).ok_or_else(refused)?;
        let place = match (self.shape, kind, below.file_name().is_some()) {
            (Shape::Open | Shape::Tree, EntryType::Directory, false) => {
                self.shape = Shape::Tree;
                PathBuf::from(self.called)
            }
            (Shape::Open, _, true) => {
                self.shape = Shape::Alone;
                PathBuf::from(self.called)
            }
            (Shape::Tree, _, true) => Path::new(self.called).join(&below),
            (Shape::Open | Shape::Tree | Shape::Alone, _, _) => return Err(refused()),
        };
        let failed = |cause: host::Error| FilesError::Host(place.clone(), Box::new(cause));
        let mode = entry.header().mode().map_err(FilesError::Malformed)?;
        match kind {
            EntryType::Directory if self.shape == Shape::Tree => {
                self.tree.make_directory(&place, mode).map_err(failed)?;
                if mode & 0o700 != 0o700 {
                    self.dirs.push((place, mode));
                }
            }
            EntryType::Regular => self.file(entry, &place, mode)?,
            EntryType::Symlink => {
                let stays = link_stays(below.as_os_str().as_encoded_bytes(), &link);
                if stays && self.shape == Shape::Tree {
                    self.tree.make_link(&place, &link).map_err(failed)?;
                } else {
                    self.unmade.links.out(&below);
                }
            }
            EntryType::Link if self.shape == Shape::Tree => {
                let first = beneath(Path::new(&OsString::from_vec(link))).ok_or_else(refused)?;
                self.tree.make_name(&place, &Path::new(self.called).join(first)).map_err(failed)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.unmade.special.out(&below),
            _ => return Err(refused()),
        }
        Ok(())
    }

    fn file(&mut self, entry: &mut Entry<'_, impl Read>, place: &Path, mode: u32) -> Result<(), FilesError> {
        let header = entry.header();
        let size = header.entry_size().map_err(FilesError::Malformed)?;
        let changed = header.mtime().unwrap_or_default();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_BYTES {
            return Err(FilesError::TooMuch("256 GiB"));
        }
        let failed = |cause| FilesError::Host(place.to_owned(), cause);
        let mut file = self.tree.make_file(place, mode).map_err(|cause| failed(Box::new(cause)))?;
        let copied = copy(entry, &mut file, size, &mut self.buffer)
            .and_then(|()| set_changed(&file, changed).map_err(CopyError::To));
        copied.map_err(|error| {
            // What came in part is not taken for the file.
            let _ = self.tree.remove(place);
            match error {
                CopyError::From(cause) => FilesError::Malformed(cause),
                CopyError::To(cause) => failed(Box::new(cause)),
            }
        })
    }

    fn finish(self) -> Result<Unmade, FilesError> {
        if self.shape == Shape::Open {
            return Err(FilesError::Malformed(io::ErrorKind::UnexpectedEof.into()));
        }
        for (path, mode) in self.dirs.into_iter().rev() {
            self.tree
                .close_directory(&path, mode)
                .map_err(|cause| FilesError::Host(path, Box::new(cause)))?;
        }
        Ok(self.unmade)
    }
}

/// Copies `size` bytes, with holes where there are long runs of zeros.
fn copy(
    from: &mut impl Read,
    to: &mut std::fs::File,
    size: u64,
    buffer: &mut Buffer,
) -> Result<(), CopyError> {
    let length = sparse::copy(&mut from.take(size), to, buffer)?;
    if length == size { Ok(()) } else { Err(CopyError::From(io::ErrorKind::UnexpectedEof.into())) }
}

/// `path` relative to the top; `None` where it would lead out.
fn beneath(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_encoded_bytes().contains(&0) => clean.push(name),
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return None;
            }
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicU32, Ordering},
    };

    use tar::{
        Builder,
        EntryType::{Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink},
        Header,
    };

    use super::*;

    /// A directory with one to copy into, and beside it what nobody may touch.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let home =
                std::env::temp_dir().join(format!("banger-cli-unpack-{}-{number}", std::process::id()));
            let _ = host::fs::remove_all(&home);
            host::fs::private_dir(&home.join("to")).unwrap();
            host::fs::write_atomic(&home.join("outside"), b"good").unwrap();
            Self(home)
        }

        fn unpack(&self, tar: &[u8]) -> Result<Unmade, FilesError> {
            unpack(&Tree::open(&self.0.join("to")).unwrap(), OsStr::new("x"), tar)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let outside = host::fs::read(&self.0.join("outside")).unwrap();
            let beside = host::fs::list(&self.0).unwrap();
            host::fs::remove_all(&self.0).unwrap();
            assert_eq!((outside.as_slice(), beside.len()), (&b"good"[..], 2), "nothing is made outside");
        }
    }

    type Entries<'a> = &'a [(EntryType, &'a str, &'a str, &'a [u8])];

    /// A tar as a hostile guest writes it.
    fn tar(entries: Entries<'_>) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (kind, path, link, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            // Set by hand: the library refuses to write what it should refuse to read.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o6640);
            header.set_mtime(1_000_000_000);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    const TOP: (EntryType, &str, &str, &[u8]) = (Directory, "./", "", b"");

    #[test]
    fn what_a_guest_sends_leads_nowhere_else() {
        let cases: &[(&str, Entries<'_>)] = &[
            ("climbing", &[TOP, (Regular, "../outside", "", b"bad")]),
            ("climbing late", &[TOP, (Regular, "a/../../outside", "", b"bad")]),
            ("absolute", &[TOP, (Regular, "/tmp/banger-bad", "", b"bad")]),
            ("a hard link out", &[TOP, (Link, "a", "../../outside", b""), (Regular, "a", "", b"bad")]),
            ("a hard link to a link", &[TOP, (Symlink, "l", "a", b""), (Link, "b", "l", b"")]),
            (
                "through a link",
                &[TOP, (Symlink, "l", "a", b""), (Directory, "a", "", b""), (Regular, "l/b", "", b"bad")],
            ),
            ("a directory in a link's place", &[TOP, (Symlink, "l", "a", b""), (Directory, "l", "", b"")]),
            ("a file in a directory's place", &[TOP, (Directory, "a", "", b""), (Regular, "a", "", b"bad")]),
            ("a file that is the top", &[(Regular, "./", "", b"bad")]),
            ("a link that is the top", &[TOP, (Symlink, ".", "..", b"")]),
            ("two things alone", &[(Regular, "a", "", b""), (Regular, "b", "", b"bad")]),
            ("a directory alone with content", &[(Directory, "a", "", b""), (Regular, "a/b", "", b"bad")]),
            ("a hard link alone", &[(Link, "a", "../outside", b"")]),
            ("a sparse file", &[TOP, (GNUSparse, "a", "", b"")]),
            ("nothing", &[]),
        ];
        for (what, entries) in cases {
            let place = Place::new();
            assert!(place.unpack(&tar(entries)).is_err(), "{what}");
        }
    }

    #[test]
    fn links_that_lead_out_and_devices_are_left_out() {
        let place = Place::new();
        let unmade = place.unpack(&tar(&[
            TOP,
            (Directory, "a", "", b""),
            (Symlink, "a/stays", "../b", b""),
            (Symlink, "a/out", "../../outside", b""),
            (Symlink, "etc", "/etc", b""),
            (Symlink, "here", ".", b""),
            (Symlink, "round", "here/..", b""),
            (Char, "null", "", b""),
            (Fifo, "fi\x1bfo", "", b""),
        ]));
        let unmade = unmade.unwrap();
        let links = unmade.links.sentence("links").unwrap();
        assert_eq!(links, "left out 3 links: a/out, etc, round");
        assert_eq!(unmade.special.sentence("others").unwrap(), "left out 2 others: null, fi\\u{1b}fo");
        let x = place.0.join("to/x");
        assert_eq!(std::fs::read_link(x.join("a/stays")).unwrap(), Path::new("../b"));
        assert_eq!(host::fs::list(&x).unwrap(), [x.join("a"), x.join("here")]);
    }

    #[test]
    fn one_thing_is_called_as_it_is_asked_for() {
        let place = Place::new();
        host::fs::symlink(Path::new("../outside"), &place.0.join("to/x")).unwrap();
        let _ = place.unpack(&tar(&[(Regular, "passwd", "", b"content")])).unwrap();
        let x = place.0.join("to/x");
        let meta = std::fs::symlink_metadata(&x).unwrap();
        assert_eq!(
            (meta.permissions().mode(), meta.len()),
            (0o100_640, 7),
            "no link, and nobody else's program"
        );
        assert_eq!(
            meta.modified().unwrap(),
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)
        );
        let unmade = place.unpack(&tar(&[(Symlink, "a", "b", b"")])).unwrap();
        assert!(unmade.links.sentence("links").is_some(), "a link alone leads out of what was copied");
    }

    #[test]
    fn a_tar_that_is_cut_is_no_copy() {
        let whole = tar(&[TOP, (Regular, "a", "", &[7; 2000])]);
        for length in (0..1024 + 2000).step_by(100) {
            let place = Place::new();
            assert!(place.unpack(&whole[..length]).is_err(), "{length}");
            assert!(!host::fs::exists(&place.0.join("to/x/a")), "{length}");
        }
    }

    #[test]
    fn names_and_sizes_are_bounded() {
        let place = Place::new();
        let long = vec![b'a'; 1 << 20];
        for kind in [EntryType::GNULongName, EntryType::GNULongLink] {
            let error = place.unpack(&tar(&[TOP, (kind, "", "", &long)])).unwrap_err();
            assert!(matches!(error, FilesError::TooMuch(_)), "{error}");
        }
        let mut large = tar(&[TOP, (Regular, "a", "", b"")]);
        let mut header = Header::new_gnu();
        header.set_size(MAX_BYTES + 1);
        large[512 + 124..512 + 136].copy_from_slice(&header.as_old().size);
        let mut header: Header = Header::from_byte_slice(&large[512..1024]).clone();
        header.set_cksum();
        large[512..1024].copy_from_slice(header.as_bytes());
        assert!(matches!(place.unpack(&large), Err(FilesError::TooMuch("256 GiB"))));
    }
}
