//! The writer of boot payloads, given any tree; read back here as `init/initramfs.c` of Linux reads it.

use image::initramfs::{Archive, Entry};

use crate::choices::Choices;

/// An entry as it was asked for.
enum What {
    Directory,
    File(u32, Vec<u8>),
    CharDevice(u32, u32, u32),
    Symlink(String),
}

/// What is read from an archive is what was put into it, entry by entry, in whole groups of four bytes; what comes behind it
/// is found there.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut wanted = Vec::new();
    while !choices.is_empty() && wanted.len() < 200 {
        let path = choices.text();
        let what = match choices.byte() % 4 {
            0 => What::Directory,
            1 => What::File(u32::from(choices.half()) & 0o7777, choices.bytes().to_vec()),
            2 => What::CharDevice(u32::from(choices.half()) & 0o7777, choices.word(), choices.word()),
            _ => What::Symlink(choices.text()),
        };
        wanted.push((path, what));
    }
    let mut archive = Archive::new(Vec::new());
    let mut written = Vec::new();
    for (path, what) in &wanted {
        let entry = match what {
            What::Directory => Entry::Directory,
            What::File(mode, content) => Entry::File { mode: *mode, content },
            What::CharDevice(mode, major, minor) => {
                Entry::CharDevice { mode: *mode, major: *major, minor: *minor }
            }
            What::Symlink(target) => Entry::Symlink { target },
        };
        // What cannot be an entry is refused, and leaves the archive as it was.
        if archive.add(path, &entry).is_ok() {
            written.push((path, what));
        }
    }
    let bytes = archive.finish().expect("memory takes every write");
    assert_eq!(bytes.len() % 4, 0);
    let mut rest = &bytes[..];
    for (number, (path, what)) in (1..).zip(&written) {
        let read = Read::entry(&mut rest).expect("the archive has all that was put into it");
        let (mode, device, content) = match what {
            What::Directory => (0o040_755, (0, 0), &b""[..]),
            What::File(mode, content) => (0o100_000 | mode, (0, 0), &content[..]),
            What::CharDevice(mode, major, minor) => (0o020_000 | mode, (*major, *minor), &b""[..]),
            What::Symlink(target) => (0o120_777, (0, 0), target.as_bytes()),
        };
        let expected = Read { inode: number, mode, links: 1, device, name: path.as_bytes(), content };
        assert_eq!(read, expected);
    }
    assert_eq!(Read::entry(&mut rest).expect("there is an end").name, b"TRAILER!!!");
    assert!(rest.is_empty());
}

/// An entry as the kernel sees it.
#[derive(Debug, PartialEq)]
struct Read<'a> {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
    name: &'a [u8],
    content: &'a [u8],
}

impl<'a> Read<'a> {
    /// The kernel's own limits of a name with its zero byte, and of a link's target.
    const LONGEST: usize = 4096;

    fn entry(rest: &mut &'a [u8]) -> Option<Self> {
        let mut take = |length: usize| {
            let (taken, after) = rest.split_at_checked(length)?;
            *rest = after;
            Some(taken)
        };
        let header = take(110)?;
        assert_eq!(&header[..6], b"070701");
        let field = |index: usize| {
            let digits = str::from_utf8(&header[6 + 8 * index..][..8]).expect("a header is text");
            u32::from_str_radix(digits, 16).expect("a field is a number")
        };
        assert_eq!(field(12), 0, "there is no checksum in this format");
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = take(name_size)?;
        take((110 + name_size).wrapping_neg() % 4)?;
        let content = take(size)?;
        take(size.wrapping_neg() % 4)?;
        let (name, end) = name.split_at(name_size - 1);
        assert_eq!(end, [0]);
        assert!(!name.contains(&0), "the kernel ends the name earlier: {:?}", name.escape_ascii());
        assert!((2..=Self::LONGEST).contains(&name_size), "the kernel skips a name of {name_size} bytes");
        Some(Self {
            inode: field(0),
            mode: field(1),
            links: field(4),
            device: (field(9), field(10)),
            name,
            content,
        })
    }
}
