//! Writes files of this host as a tar. They are root's in it: the host's users mean nothing to a guest.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use host::tree::{Entry, Tree};
use tar::{Builder, EntryType, Header};

use super::{FilesError, Left};

/// Writes what lies at `name` in `tree` to `out`, called `called`: a directory with all below it. Links are written as such and never
/// followed; fifos, sockets and devices are left out.
///
/// # Errors
/// Where something cannot be read, or `out` takes no more.
pub fn pack(tree: &Tree, name: &OsStr, called: &OsStr, out: impl Write) -> Result<Left, FilesError> {
    let mut out = Builder::new(out);
    let mut left = Left::default();
    let mut todo = vec![PathBuf::from(name)];
    while let Some(path) = todo.pop() {
        // The first name of all of them is `name`.
        let below: PathBuf = path.components().skip(1).collect();
        let there =
            if below.as_os_str().is_empty() { PathBuf::from(called) } else { Path::new(called).join(&below) };
        let failed = |cause: host::Error| FilesError::Host(path.clone(), Box::new(cause));
        match tree.entry(&path).map_err(failed)? {
            Some(Entry::File { file, size, mode, mtime }) => {
                let mut header = header(EntryType::Regular, mode);
                header.set_size(size);
                header.set_mtime(mtime);
                // Its length is promised; one that shrinks meanwhile ends in zeros, one that grows is cut.
                let mut content = Watched { file, failure: None }.chain(io::repeat(0)).take(size);
                let added = out.append_data(&mut header, &there, &mut content);
                let (watched, _) = content.into_inner().into_inner();
                match (watched.failure, added) {
                    (Some(cause), _) => return Err(FilesError::Host(path, Box::new(cause))),
                    (None, Err(_)) => return Err(FilesError::Gone),
                    (None, Ok(())) => {}
                }
            }
            Some(Entry::Link(target)) => {
                let target = OsStr::from_bytes(&target);
                let mut header = header(EntryType::Symlink, 0o777);
                out.append_link(&mut header, &there, target).map_err(|_| FilesError::Gone)?;
            }
            Some(Entry::Other) => match tree.names(&path).map_err(failed)? {
                Some(names) => {
                    let mode = tree.mode(&path).map_err(failed)?;
                    // The slash at its end tells a directory also to those who do not look at the type.
                    let mut header = header(EntryType::Directory, mode);
                    out.append_data(&mut header, there.join(""), io::empty())
                        .map_err(|_| FilesError::Gone)?;
                    todo.extend(names.into_iter().rev().map(|name| path.join(name)));
                }
                None => left.out(&path),
            },
            // It went since it was listed.
            None if path.as_os_str() != name => {}
            None => {
                return Err(FilesError::Host(path, Box::new(io::Error::from(io::ErrorKind::NotFound))));
            }
        }
    }
    out.into_inner().and_then(|mut out| out.flush()).map_err(|_| FilesError::Gone)?;
    Ok(left)
}

/// A file whose failure is told from that of whoever it is written to.
struct Watched {
    file: std::fs::File,
    failure: Option<io::Error>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure = Some(error.kind().into());
            }
        })
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(host::clock::now_ms() / 1000);
    header
}
