//! Named pipes (fifo(7)) that neither end waits at.

use std::{fs::File, path::Path};

use rustix::fs::{FileType, Mode, OFlags};

use crate::{Error, Result};

/// What a pipe holds while nobody reads: the most that the system lets a user have.
const SIZE: usize = 1 << 20;

/// Makes the named pipe `path`, which only this user can open.
///
/// # Errors
/// Where something is there already, or it cannot be made.
pub fn make(path: &Path) -> Result<()> {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(|e| Error::path("make the pipe", path, e))
}

/// The end for reading. It is at its end when nobody has the pipe open for writing.
///
/// # Errors
/// Where it cannot be opened.
pub fn reader(path: &Path) -> Result<File> {
    open(path, OFlags::RDONLY)
}

/// The end for somebody who writes and is never held up: a pipe that is full takes nothing, also where nobody reads.
///
/// # Errors
/// Where it cannot be opened.
pub fn writer(path: &Path) -> Result<File> {
    // Open for reading too, or writing would end whoever writes while there is no reader.
    let pipe = open(path, OFlags::RDWR)?;
    // A user who has many of them gets small ones.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, SIZE);
    Ok(pipe)
}

fn open(path: &Path, access: OFlags) -> Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(File::from).map_err(|e| Error::path("open", path, e))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        os::unix::fs::MetadataExt,
    };

    use super::*;

    #[test]
    fn a_pipe_holds_what_it_can_and_ends_with_its_writer() {
        let path = std::env::temp_dir().join(format!("banger-pipe-{}", std::process::id()));
        crate::fs::remove(&path).unwrap();
        make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(make(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let mut writer = writer(&path).unwrap();
        let piece = [b'x'; 4096];
        let mut written = 0;
        let refused = loop {
            match writer.write(&piece) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        let mut reader = reader(&path).unwrap();
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), written);
        crate::fs::remove(&path).unwrap();
    }
}
