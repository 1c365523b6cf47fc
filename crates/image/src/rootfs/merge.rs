//! Applies the entries of a layer to the tree, one after the other, as umoci unpacks them.
//!
//! | entry | does |
//! | --- | --- |
//! | a path again | the last one counts; hard links to the earlier one keep that |
//! | a directory over a directory | changes its mode, owner, time and attributes; what is in it stays |
//! | anything over anything else | replaces it and, where it was a directory, all that is in it |
//! | below a symbolic link | goes where the link leads, whose absolute target starts at the image's root |
//! | below what does not exist | makes the missing directories, of root and as old as can be |
//! | a hard link | to what its target is at this moment |
//! | a whiteout, in a layer | see `whiteout` |
//!
//! The last component of a path is never followed.

use std::{io::Read, path::Path};

use super::{
    tar::{self, Entry, Kind},
    whiteout::{Upper, Whiteout},
};
use crate::ext4::{
    self, AttributeError, AttributeSet, FillError, Writer,
    tree::{Content, EntryPath, Meta, NodeId, ROOT, Tree},
};

/// The longest path, and the longest name in one.
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;
/// The most symbolic links on the way to one entry, as in Linux.
const MOST_LINKS: u32 = 40;

/// Why an entry cannot be in an image.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its path leads out of the root by `..`.
    #[error("its path leads out of the image")]
    Escapes,
    /// Its path leads out of the root through a symbolic link.
    #[error("its path leads out of the image through the symbolic link {link}")]
    EscapesThrough {
        /// The link.
        link: EntryPath,
    },
    /// Its path goes through too many symbolic links.
    #[error("its path goes through more than {MOST_LINKS} symbolic links")]
    LinkLoop,
    /// Its path goes through something that is no directory.
    #[error("{parent} is not a directory")]
    NotADirectory {
        /// That.
        parent: EntryPath,
    },
    /// Its path is too long.
    #[error("its path is longer than {LONGEST_PATH} bytes")]
    PathTooLong,
    /// A name in its path is too long.
    #[error("its path has a name longer than {LONGEST_NAME} bytes")]
    NameTooLong,
    /// Its path or its target has a zero byte in it.
    #[error("its path or target has a zero byte in it")]
    ZeroByte,
    /// It is the root, and no directory.
    #[error("the root can only be a directory")]
    RootIsNoDirectory,
    /// It is a hard link to something that does not exist.
    #[error("its target {target} does not exist in the image")]
    NoTarget {
        /// The target.
        target: EntryPath,
    },
    /// It is a hard link to a directory.
    #[error("its target {target} is a directory")]
    TargetIsDirectory {
        /// The target.
        target: EntryPath,
    },
    /// It is a hard link whose target leads out of the root.
    #[error("its target {target} leads out of the image")]
    TargetEscapes {
        /// The target.
        target: EntryPath,
    },
    /// It hides something of a lower layer, but its name does not say what.
    #[error("it is a whiteout of nothing")]
    EmptyWhiteout,
    /// It is of a type that nobody has defined.
    #[error("its type {0:#04x} is unknown")]
    UnknownType(u8),
    /// It is a file with content, whose path says that it is a directory.
    #[error("its path ends with a slash, but it has content")]
    SlashAfterFile,
    /// It has an extended attribute that cannot be kept.
    #[error("its extended attribute {name} cannot be kept")]
    Attribute {
        /// The attribute's name.
        name: EntryPath,
        /// Why.
        #[source]
        cause: AttributeError,
    },
    /// It cannot be in an ext4 file system.
    #[error(transparent)]
    FileSystem(#[from] ext4::Error),
}

/// An image whose layers are being applied.
pub(super) struct Merge {
    writer: Writer,
    ignored_attributes: u64,
    /// The last directory that something went to, by its path: most entries follow others of the same directory.
    last: (Vec<u8>, NodeId),
    /// The layer that is being applied; `None` for an archive that is no layer, whose names all mean themselves.
    upper: Option<Upper>,
}

/// Where an entry goes.
enum Place {
    Root,
    In(NodeId, Vec<u8>),
}

impl Merge {
    /// An empty image in the new file `path`, which may become `limit` bytes large.
    pub fn create(path: &Path, limit: u64) -> Result<Self, ext4::Error> {
        let root = Meta { mode: 0o755, uid: 0, gid: 0, mtime: ext4::tree::Timestamp::default() };
        Ok(Self {
            writer: Writer::create(path, root, limit)?,
            ignored_attributes: 0,
            last: (Vec::new(), ROOT),
            upper: None,
        })
    }

    /// Says that the entries to come are those of one more layer.
    pub fn begin_layer(&mut self) {
        self.upper = Some(Upper::new(self.tree()));
    }

    /// What the image contains so far.
    pub fn tree(&self) -> &Tree {
        self.writer.tree()
    }

    /// Extended attributes that were left out.
    pub fn ignored_attributes(&self) -> u64 {
        self.ignored_attributes
    }

    /// What finishes the image.
    pub fn into_writer(self) -> Writer {
        self.writer
    }

    /// Applies `entry`, whose content is what `content` gives.
    pub fn apply(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), tar::Error> {
        if self.upper.is_some() && self.hide(&entry.path)? {
            return Ok(());
        }
        let attributes = self.attributes(&entry)?;
        let place = self.place(&entry)?;
        let Place::In(directory, name) = place else {
            return match entry.kind {
                Kind::Directory => {
                    let root = self.tree().inode_of(ROOT);
                    self.writer
                        .change(root, entry.meta, &attributes)
                        .map_err(Refusal::from)
                        .map_err(tar::Error::from)
                }
                Kind::Unusable(refusal) => Err(refusal.into()),
                _ => Err(Refusal::RootIsNoDirectory.into()),
            };
        };
        let meta = entry.meta;
        let inode = match entry.kind {
            Kind::Directory => match self.tree().find(directory, &name) {
                Some(node) if self.tree().is_directory(node) => {
                    let inode = self.tree().inode_of(node);
                    self.writer.change(inode, meta, &attributes).map_err(Refusal::from)?;
                    self.touch(node);
                    return Ok(());
                }
                _ => self.writer.directory(meta, &attributes).map_err(Refusal::from)?,
            },
            Kind::File(size) => self.writer.file(meta, &attributes, size, content).map_err(fill_error)?,
            Kind::Sparse(size, segments) => {
                self.writer.sparse_file(meta, &attributes, size, &segments, content).map_err(fill_error)?
            }
            Kind::SymbolicLink(target) => {
                if target.contains(&0) {
                    return Err(Refusal::ZeroByte.into());
                }
                // Linux gives a link these permissions whatever was asked for.
                let meta = Meta { mode: 0o777, ..meta };
                self.writer.link(meta, &attributes, &target).map_err(Refusal::from)?
            }
            Kind::HardLink(target) => {
                let target = self.existing(target)?;
                if self.tree().find(directory, &name) == Some(target) {
                    self.touch(target);
                    return Ok(()); // a link to itself changes nothing
                }
                self.tree().inode_of(target)
            }
            Kind::CharacterDevice(major, minor) => {
                self.special(meta, &attributes, Content::CharacterDevice(major, minor))?
            }
            Kind::BlockDevice(major, minor) => {
                self.special(meta, &attributes, Content::BlockDevice(major, minor))?
            }
            Kind::Pipe => self.special(meta, &attributes, Content::Pipe)?,
            Kind::Unusable(refusal) => return Err(refusal.into()),
        };
        let inserted = self.writer.tree_mut().insert(directory, &name, inode).map_err(Refusal::from)?;
        if inserted.replaced.is_some() {
            // The last directory may lie below that.
            self.last = (Vec::new(), ROOT);
        }
        self.touch(inserted.node);
        Ok(())
    }

    fn touch(&mut self, node: NodeId) {
        if let Some(upper) = &mut self.upper {
            upper.touch(self.writer.tree(), node);
        }
    }

    /// Hides what the entry at `path` of a layer hides; false where it is an entry like others.
    fn hide(&mut self, path: &[u8]) -> Result<bool, Refusal> {
        // Few paths have this anywhere.
        if memchr::memmem::find(path, b".wh.").is_none() {
            return Ok(false);
        }
        let components = components(path)?;
        let Some((name, parents)) = components.split_last() else { return Ok(false) };
        let Some(whiteout) = Whiteout::of(name)? else { return Ok(false) };
        let directory = match self.walk(parents, None) {
            Ok(Some(directory)) => directory,
            // There is nothing to hide.
            Ok(None) | Err(Refusal::NotADirectory { .. }) => return Ok(true),
            Err(refusal) => return Err(refusal),
        };
        let Some(upper) = &mut self.upper else { return Ok(false) };
        let tree = self.writer.tree_mut();
        match whiteout {
            Whiteout::Everything => upper.sweep(tree, directory),
            Whiteout::Name(name) => match tree.find(directory, name) {
                Some(node) => upper.hide(tree, node),
                None => return Ok(true),
            },
        }
        // The last directory may be among what went.
        self.last = (Vec::new(), ROOT);
        Ok(true)
    }

    fn special(
        &mut self,
        meta: Meta,
        attributes: &AttributeSet,
        content: Content,
    ) -> Result<ext4::tree::InodeId, Refusal> {
        Ok(self.writer.special(meta, attributes, content)?)
    }

    /// The attributes of `entry` that it can have in Linux and that mean the same in an image.
    fn attributes(&mut self, entry: &Entry) -> Result<AttributeSet, Refusal> {
        let mut set = AttributeSet::default();
        let is_directory = matches!(entry.kind, Kind::Directory);
        let is_file = matches!(entry.kind, Kind::File(_) | Kind::Sparse(..));
        let is_link = matches!(entry.kind, Kind::SymbolicLink(_));
        for (name, value) in &entry.attributes {
            let possible = match &name[..] {
                // The image lies below overlayfs, which would take these as its own.
                name if name.starts_with(b"trusted.overlay.") => false,
                name if name.starts_with(b"user.") => is_file || is_directory,
                b"system.posix_acl_access" => !is_link,
                b"system.posix_acl_default" => is_directory,
                _ => true,
            };
            match if possible { set.set(name, value) } else { Err(AttributeError::Unsupported) } {
                Ok(()) => {}
                Err(AttributeError::Unsupported) => self.ignored_attributes += 1,
                Err(
                    cause @ (AttributeError::BadName
                    | AttributeError::BadAccessList
                    | AttributeError::TooLarge),
                ) => {
                    return Err(Refusal::Attribute { name: EntryPath(name.clone()), cause });
                }
            }
        }
        Ok(set)
    }

    /// Where `entry` goes, after making the directories that are missing on the way.
    fn place(&mut self, entry: &Entry) -> Result<Place, Refusal> {
        let trimmed = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let (parent, name) = match trimmed.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&trimmed[..slash], &trimmed[slash + 1..]),
            None => (&b""[..], trimmed),
        };
        let is_plain = trimmed.len() <= LONGEST_PATH && components(name).is_ok_and(|names| names == [name]);
        if is_plain && parent == self.last.0 {
            return Ok(Place::In(self.last.1, name.to_vec()));
        }
        let components = components(&entry.path)?;
        let Some((name, parents)) = components.split_last() else { return Ok(Place::Root) };
        let made = Meta { mode: 0o755, uid: 0, gid: 0, mtime: ext4::tree::Timestamp::default() };
        let directory = self.walk(parents, Some(made))?.expect("what is missing is made");
        if is_plain {
            self.last = (parent.to_vec(), directory);
        }
        Ok(Place::In(directory, name.to_vec()))
    }

    /// The file at `path`, the target of a hard link.
    fn existing(&mut self, path: Vec<u8>) -> Result<NodeId, Refusal> {
        let missing = |target| Refusal::NoTarget { target: EntryPath(target) };
        let found = match components(&path) {
            Err(Refusal::Escapes) => return Err(Refusal::TargetEscapes { target: EntryPath(path) }),
            Err(other) => return Err(other),
            Ok(components) => match components.split_last() {
                None => Some(ROOT),
                Some((name, parents)) => {
                    self.walk(parents, None)?.and_then(|directory| self.tree().find(directory, name))
                }
            },
        };
        match found {
            None => Err(missing(path)),
            Some(node) if self.tree().is_directory(node) => {
                Err(Refusal::TargetIsDirectory { target: EntryPath(path) })
            }
            Some(node) => Ok(node),
        }
    }

    /// What is at `path` when all symbolic links are followed; `None` where that leads nowhere.
    pub fn resolve(&mut self, path: &[u8]) -> Result<Option<NodeId>, ext4::Error> {
        let mut path = path.to_vec();
        for _ in 0..MOST_LINKS {
            let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            let (name, parents) = names.split_last().expect("splitting gives one part at least");
            let directory = match self.walk_on(ROOT, parents, None) {
                Ok(Some(directory)) => directory,
                Err(Refusal::FileSystem(error)) => return Err(error),
                Ok(None) | Err(_) => return Ok(None),
            };
            let Some(node) = self.tree().find(directory, name) else { return Ok(None) };
            match self.writer.target(node)? {
                None => return Ok(Some(node)),
                Some(target) if target.starts_with(b"/") => path = target,
                Some(target) => path = [&self.tree().path(directory)[..], b"/", &target].concat(),
            }
        }
        Ok(None)
    }

    /// Whether `node` is a regular file that someone may run.
    pub fn is_program(&self, node: NodeId) -> bool {
        let inode = self.tree().inode(self.tree().inode_of(node));
        matches!(inode.content(), Content::File(_) | Content::Sparse(..)) && inode.mode() & 0o111 != 0
    }

    /// The content of the regular file at `path`, where it has up to `limit` bytes.
    pub fn content(&mut self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, ext4::Error> {
        match self.resolve(path)? {
            Some(node) => self.writer.content(node, limit),
            None => Ok(None),
        }
    }

    /// The directory at `path`, following symbolic links. What is missing is made as `make` says, or is `None`.
    fn walk(&mut self, path: &[&[u8]], make: Option<Meta>) -> Result<Option<NodeId>, Refusal> {
        let mut at = ROOT;
        for (index, name) in path.iter().enumerate() {
            match self.tree().find(at, name) {
                Some(node) if self.tree().is_directory(node) => at = node,
                None if make.is_none() => return Ok(None),
                // The rest of the way is not as straight.
                _ => return self.walk_on(at, &path[index..], make),
            }
        }
        Ok(Some(at))
    }

    fn walk_on(
        &mut self,
        from: NodeId,
        path: &[&[u8]],
        make: Option<Meta>,
    ) -> Result<Option<NodeId>, Refusal> {
        let mut at = from;
        let mut links = 0;
        let mut link = None;
        // What is still to go, the next component last.
        let mut rest: Vec<Vec<u8>> = path.iter().rev().map(|name| name.to_vec()).collect();
        while let Some(name) = rest.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." if at == ROOT => {
                    return Err(link.map_or(Refusal::Escapes, |link| Refusal::EscapesThrough { link }));
                }
                b".." => {
                    at = self.tree().parent(at);
                    continue;
                }
                _ => {}
            }
            let Some(node) = self.tree().find(at, &name) else {
                let Some(meta) = make else { return Ok(None) };
                if name.len() > LONGEST_NAME {
                    return Err(Refusal::NameTooLong);
                }
                let inode = self.writer.directory(meta, &AttributeSet::default())?;
                at = self.writer.tree_mut().insert(at, &name, inode)?.node;
                continue;
            };
            if self.tree().is_directory(node) {
                at = node;
                continue;
            }
            let path = EntryPath(self.tree().path(node));
            let Some(target) = self.writer.target(node)? else {
                return Err(Refusal::NotADirectory { parent: path });
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(Refusal::LinkLoop);
            }
            link = Some(path);
            if target.starts_with(b"/") {
                at = ROOT;
            }
            rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
        }
        Ok(Some(at))
    }
}

/// The names on the way to `path`, without `.` and with each `..` taken back.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, Refusal> {
    if path.len() > LONGEST_PATH {
        return Err(Refusal::PathTooLong);
    }
    if path.contains(&0) {
        return Err(Refusal::ZeroByte);
    }
    let mut components = Vec::with_capacity(16);
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                components.pop().ok_or(Refusal::Escapes)?;
            }
            _ if name.len() > LONGEST_NAME => return Err(Refusal::NameTooLong),
            _ => components.push(name),
        }
    }
    Ok(components)
}

fn fill_error(error: FillError) -> tar::Error {
    match error {
        FillError::Read(error) => error.into(),
        FillError::Ended => tar::Error::Truncated,
        FillError::Write(error) => Refusal::FileSystem(error).into(),
    }
}
