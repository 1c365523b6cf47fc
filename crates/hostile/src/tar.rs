//! Archives in which random bytes mean something: nearly no random block has the checksum that a header needs.

/// The size of a block.
pub const BLOCK: usize = 512;

/// Gives every block of `archive` that is where a reader looks for a header the checksum of one.
pub fn repair(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            seal(block);
        }
        let field = &block[124..136];
        let digits = field.iter().skip_while(|b| **b == b' ').take_while(|b| (b'0'..=b'7').contains(b));
        let size = digits.fold(0, |size: usize, digit| size * 8 + usize::from(digit - b'0'));
        // Links, devices and directories have no content.
        let content = if (b'1'..=b'6').contains(&block[156]) { 0 } else { size };
        at = at.saturating_add(BLOCK).saturating_add(content.next_multiple_of(BLOCK));
    }
}

/// Gives a header its checksum.
fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Adds an entry of type `kind` to `archive`: names that do not fit a header's field become GNU's long names.
pub fn add(archive: &mut Vec<u8>, kind: u8, path: &[u8], target: &[u8], content: &[u8]) {
    for (long, name) in [(b'L', path), (b'K', target)] {
        if name.len() > 100 {
            header(archive, long, b"././@LongLink", b"", &[name, b"\0"].concat());
        }
    }
    header(archive, kind, &path[..path.len().min(100)], &target[..target.len().min(100)], content);
}

fn header(archive: &mut Vec<u8>, kind: u8, path: &[u8], target: &[u8], content: &[u8]) {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path);
    put(100, if kind == b'5' { b"0000755" } else { b"0000644" });
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"14525057400");
    put(156, &[kind]);
    put(157, target);
    put(257, b"ustar\x0000");
    put(329, b"0000001");
    put(337, b"0000003");
    seal(&mut block);
    archive.extend(block);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}
