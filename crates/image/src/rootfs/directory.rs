//! A directory of this host as an image, whose files all belong to root.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::ImportOptions;
use crate::ext4::{
    self, AttributeSet, FillError, Writer, Written,
    tree::{InodeId, Meta, ROOT, Timestamp},
};

/// Why a directory was not made an image.
#[derive(Debug, thiserror::Error)]
pub enum WriteDirError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] host::Error),
    /// Something in it is neither a directory, a regular file nor a symbolic link.
    #[error("{} is a special file, which cannot be packed", path.display())]
    Special {
        /// That.
        path: PathBuf,
    },
    /// A file in it became shorter while it was read.
    #[error("{} was changed while it was packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[source] ext4::Error),
}

/// Makes what is in directory `dir` the new image file `out`. Modes, times, links and hard links are kept; owners become root, and
/// extended attributes are left out. The same directory gives the same bytes.
///
/// # Errors
/// Where the directory cannot be read or the image cannot be written; `out` does not exist then, unless it did before.
pub fn write_dir(dir: &Path, out: &Path, options: &ImportOptions) -> Result<Written, WriteDirError> {
    let root = look(dir)?;
    let none = AttributeSet::default();
    let mut writer = Writer::create(out, meta(&root), options.limits.bytes).map_err(WriteDirError::Write)?;
    let mut linked: HashMap<(u64, u64), InodeId> = HashMap::new();
    let mut rest = vec![(dir.to_owned(), ROOT)];
    while let Some((dir, parent)) = rest.pop() {
        for path in host::fs::list(&dir)? {
            let found = look(&path)?;
            let identity = (found.dev(), found.ino());
            let inode = if found.is_dir() {
                writer.directory(meta(&found), &none).map_err(WriteDirError::Write)?
            } else if found.is_symlink() {
                let target = fs::read_link(&path).map_err(|e| host::Error::path("read", &path, e))?;
                let meta = Meta { mode: 0o777, ..meta(&found) };
                writer.link(meta, &none, target.as_os_str().as_bytes()).map_err(WriteDirError::Write)?
            } else if let Some(inode) = linked.get(&identity) {
                *inode
            } else if found.is_file() {
                add_file(&mut writer, &path, &found)?
            } else {
                return Err(WriteDirError::Special { path });
            };
            if found.is_file() && found.nlink() > 1 {
                linked.insert(identity, inode);
            }
            let name = path.file_name().unwrap_or_default().as_bytes();
            let node = writer.tree_mut().insert(parent, name, inode).map_err(WriteDirError::Write)?.node;
            if found.is_dir() {
                rest.push((path, node));
            }
        }
    }
    writer.finish(options.uuid, &options.label).map_err(WriteDirError::Write)
}

fn add_file(writer: &mut Writer, path: &Path, found: &Metadata) -> Result<InodeId, WriteDirError> {
    let mut file = host::fs::open(path)?;
    writer.file(meta(found), &AttributeSet::default(), found.len(), &mut file).map_err(|error| match error {
        FillError::Read(error) => host::Error::path("read", path, error).into(),
        FillError::Ended => WriteDirError::Changed { path: path.to_owned() },
        FillError::Write(error) => WriteDirError::Write(error),
    })
}

fn look(path: &Path) -> Result<Metadata, host::Error> {
    fs::symlink_metadata(path).map_err(|e| host::Error::path("stat", path, e))
}

fn meta(found: &Metadata) -> Meta {
    let mtime = Timestamp { seconds: found.mtime(), nanoseconds: found.mtime_nsec() as u32 };
    Meta { mode: (found.mode() & 0o7777) as u16, uid: 0, gid: 0, mtime }
}
