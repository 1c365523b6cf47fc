//! Writes files of this host as a tar for a guest.

use std::{
    ffi::OsStr,
    io::{self, Write},
    path::Path,
};

use host::{
    archive::{Archive, Item, PackError},
    tree::Tree,
};

use super::{FilesError, Left};

/// Writes what lies at `name` in `tree` to `out`, called `called`: a directory with all below it. Links are written as such and never
/// followed; fifos, sockets and devices are left out.
///
/// # Errors
/// Where something cannot be read, or `out` takes no more.
pub fn pack(tree: &Tree, name: &OsStr, called: &OsStr, out: impl Write) -> Result<Left, FilesError> {
    let mut archive = Archive::new(out);
    let (mut left, mut found) = (Left::default(), false);
    archive.tree(tree, Path::new(name), Path::new(called), |path, item| {
        found = true;
        match item {
            Item::File(mode, _) | Item::Directory(mode) => return Ok(mode),
            Item::Special => left.out(path),
            Item::Link => {}
        }
        Ok::<_, FilesError>(0)
    })?;
    if !found {
        let cause = io::Error::from(io::ErrorKind::NotFound);
        return Err(FilesError::Host(name.into(), Box::new(cause)));
    }
    archive.finish().map_err(|_| FilesError::Gone)?;
    Ok(left)
}

impl From<PackError> for FilesError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::From(path, cause) => Self::Host(path, Box::new(cause)),
            PackError::To(_) => Self::Gone,
        }
    }
}
