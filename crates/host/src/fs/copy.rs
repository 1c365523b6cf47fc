//! Copies of files that may be large: blocks are shared where the file system can, and holes stay holes.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::fd::AsFd,
    path::Path,
};

use super::{create_new, open};
use crate::{Error, Result};

/// How many bytes are copied between two looks at whether to go on.
const PIECE: u64 = 16 << 20;

/// Whether files in `directory` can share blocks (`FICLONE`). It is tried with files that have no name, so nothing is left.
#[must_use]
pub fn shares_blocks(directory: &Path) -> bool {
    use rustix::fs::{CWD, Mode, OFlags};
    let nameless = || {
        rustix::fs::openat(
            CWD,
            directory,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
    };
    let tried = nameless().and_then(|from| {
        rustix::io::write(&from, &[0; 4096])?;
        rustix::fs::ioctl_ficlone(nameless()?, &from)
    });
    tried.is_ok()
}

/// Copies `from` to the new file `to`, mode 0600: sharing blocks where the file system can (`FICLONE`), else data
/// only, so that holes stay holes.
///
/// # Errors
/// Where it cannot be copied; nothing is left then.
pub fn clone_sparse(from: &Path, to: &Path) -> Result<()> {
    clone_watched(from, to, &mut |_| ControlFlow::Continue(()))
}

/// Does the same as [`clone_sparse`] under the eyes of `watch`, which hears up to where it is copied, and may end it.
///
/// # Errors
/// Where it cannot be copied or was ended; nothing is left then.
pub fn clone_watched(from: &Path, to: &Path, watch: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
    let source = open(from)?;
    let target = create_new(to)?;
    let mut copy = || -> io::Result<()> {
        if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
            return Ok(());
        }
        let length = source.metadata()?.len();
        target.set_len(length)?;
        copy_data(&source, &target, length, watch)
    };
    copy()
        .map_err(|e| Error::new("copy", format_args!("{} to {}", from.display(), to.display()), e))
        .inspect_err(|_| {
            let _ = fs::remove_file(to);
        })
}

/// Copies the data extents of the first `length` bytes of `source` to the same places of `target`.
fn copy_data(
    source: &File,
    target: &File,
    length: u64,
    watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> io::Result<()> {
    use rustix::{fs::SeekFrom, io::Errno};
    let mut at = 0;
    while at < length {
        let begin = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(()), // only a hole is left
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(begin))?.min(length);
        let (mut from, mut to) = (begin, begin);
        while from < end {
            let count = usize::try_from((end - from).min(PIECE)).expect("a piece is small");
            let copied =
                match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), count) {
                    Ok(copied) => copied,
                    Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                        copy_through_memory(source.as_fd(), target.as_fd(), &mut from, &mut to, end)?
                    }
                    Err(e) => return Err(e.into()),
                };
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if watch(from).is_break() {
                return Err(io::Error::other("it was ended"));
            }
        }
        at = end;
    }
    Ok(())
}

fn copy_through_memory(
    source: std::os::fd::BorrowedFd<'_>,
    target: std::os::fd::BorrowedFd<'_>,
    from: &mut u64,
    to: &mut u64,
    end: u64,
) -> io::Result<usize> {
    let mut buffer = vec![0; usize::try_from(end - *from).unwrap_or(usize::MAX).min(1 << 20)];
    let count = rustix::io::pread(source, &mut buffer, *from)?;
    let mut done = 0;
    while done < count {
        done += rustix::io::pwrite(target, &buffer[done..count], *to + done as u64)?;
    }
    *from += count as u64;
    *to += count as u64;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_can_be_ended_between_its_pieces() {
        let dir = std::env::temp_dir().join(format!("banger-host-copy-{}", std::process::id()));
        super::super::create_dir(&dir).unwrap();
        let (source, target) = (create_new(&dir.join("from")).unwrap(), create_new(&dir.join("to")).unwrap());
        let end = 3 * PIECE;
        for at in (0..end).step_by(4096) {
            rustix::io::pwrite(&source, b"data", at).unwrap();
        }
        let mut heard = Vec::new();
        let ended = copy_data(&source, &target, end - 4092, &mut |at| {
            heard.push(at);
            if heard.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(ended.unwrap_err().to_string(), "it was ended");
        assert!(heard[0] < heard[1] && heard[1] < end, "{heard:?}");
        assert_eq!(target.metadata().unwrap().len(), heard[1]);
        super::super::remove_all(&dir).unwrap();
    }
}
