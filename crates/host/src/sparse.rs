//! Files with holes: long runs of zeros take no place on a disk.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
};

/// Runs of zeros of at least this length become holes.
const HOLE: usize = 4096;

/// On which side a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// What is copied could not be read.
    From(io::Error),
    /// It could not be written.
    To(io::Error),
}

/// Copies all of `from` into `to`, which is new, with holes where it has long runs of zeros. Gives its length.
///
/// # Errors
/// [`CopyError`].
pub fn copy(from: &mut impl Read, to: &mut File) -> Result<u64, CopyError> {
    let mut buffer = vec![0; 16 * HOLE];
    let mut length = 0;
    loop {
        let count = read_full(from, &mut buffer).map_err(CopyError::From)?;
        for block in buffer[..count].chunks(HOLE) {
            let written = if block.len() == HOLE && block.iter().all(|byte| *byte == 0) {
                to.seek_relative(HOLE as i64)
            } else {
                to.write_all(block)
            };
            written.map_err(CopyError::To)?;
        }
        length += count as u64;
        if count < buffer.len() {
            return to.set_len(length).map(|()| length).map_err(CopyError::To);
        }
    }
}

/// Fills `buffer`, or as much of it as there is.
fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_take_no_place_and_are_there() {
        let path = std::env::temp_dir().join(format!("banger-host-sparse-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        for (begin, zeros, end) in [(3, 1 << 20, 5), (0, 1 << 20, 0), (7, 0, 0), (0, 0, 0), (4096, 100, 1)] {
            let content = [vec![b'a'; begin], vec![0; zeros], vec![b'z'; end]].concat();
            let mut file = crate::fs::create_new(&path).unwrap();
            assert_eq!(copy(&mut &content[..], &mut file).unwrap(), content.len() as u64);
            assert!(crate::fs::read(&path).unwrap() == content);
            assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
            crate::fs::remove(&path).unwrap();
        }
    }
}
