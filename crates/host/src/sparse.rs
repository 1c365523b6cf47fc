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

/// What is between the two files of a copy; one of many files has to make it only once.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; 16 * HOLE])
    }
}

/// Copies all of `from` into `to`, which is new, with holes where it has long runs of zeros. Gives its length.
///
/// # Errors
/// [`CopyError`].
pub fn copy(from: &mut impl Read, to: &mut File, Buffer(buffer): &mut Buffer) -> Result<u64, CopyError> {
    let (mut length, mut ends_in_hole) = (0, false);
    loop {
        let count = read_full(from, buffer).map_err(CopyError::From)?;
        let mut rest = &buffer[..count];
        // As few writes as can be: each is far more than its bytes.
        while !rest.is_empty() {
            ends_in_hole = is_hole(&rest[..HOLE.min(rest.len())]);
            let run = rest.chunks(HOLE).take_while(|block| is_hole(block) == ends_in_hole);
            let (run, after) = rest.split_at(run.map(<[u8]>::len).sum());
            let written = if ends_in_hole { to.seek_relative(run.len() as i64) } else { to.write_all(run) };
            written.map_err(CopyError::To)?;
            rest = after;
        }
        length += count as u64;
        if count < buffer.len() {
            // It is as long already where it ends in data.
            let set = if ends_in_hole { to.set_len(length) } else { Ok(()) };
            return set.map(|()| length).map_err(CopyError::To);
        }
    }
}

fn is_hole(block: &[u8]) -> bool {
    block.len() == HOLE && block.iter().all(|byte| *byte == 0)
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
        let mut buffer = Buffer::default();
        let sizes = [(3, 1 << 20, 5), (0, 1 << 20, 0), (7, 0, 0), (0, 0, 0), (4096, 100, 1), (8192, 8192, 0)];
        for (begin, zeros, end) in sizes {
            let content = [vec![b'a'; begin], vec![0; zeros], vec![b'z'; end]].concat();
            let mut file = crate::fs::create_new(&path).unwrap();
            assert_eq!(copy(&mut &content[..], &mut file, &mut buffer).unwrap(), content.len() as u64);
            assert!(crate::fs::read(&path).unwrap() == content);
            assert!(file.metadata().unwrap().blocks() * 512 <= 64 << 10);
            crate::fs::remove(&path).unwrap();
        }
    }
}
