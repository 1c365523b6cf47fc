//! Writes the `.bin` indexes of a module tree, which `modprobe` reads instead of the text ones and without which it finds
//! nothing.
//!
//! An index maps keys to lines, as a tree in which nodes share what their keys begin with (kmod, `libkmod-index.h`):
//!
//! ```text
//! file  magic, version, root                       root and children: where the node is, and what it has
//! node  [prefix NUL] [first, last, child × n] [count, (priority, line NUL) × count]
//! ```

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// A key and the lines under it, each with its priority.
type Key<'a> = (&'a [u8], &'a [(u32, String)]);

/// An index being collected.
#[derive(Debug, Default)]
pub(crate) struct Index(BTreeMap<Vec<u8>, Vec<(u32, String)>>);

impl Index {
    /// Adds a line under `key`. Lines of one key are tried by rising `priority`. Keys that are not ASCII are left out:
    /// the form has no room for them, and no kernel asks for them.
    pub(crate) fn insert(&mut self, key: &str, priority: u32, line: String) {
        if key.is_ascii() {
            let lines = self.0.entry(key.as_bytes().to_vec()).or_default();
            if !lines.iter().any(|(_, other)| *other == line) {
                lines.push((priority, line));
                lines.sort();
            }
        }
    }

    /// The file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out: Vec<u8> = [MAGIC, VERSION, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
        let keys: Vec<Key<'_>> =
            self.0.iter().map(|(key, lines)| (key.as_slice(), lines.as_slice())).collect();
        let root = node(&keys, 0, &mut out);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }
}

/// Writes the node of `keys`, sorted and alike up to `depth`, after its children, and says where it is. It recurs once
/// per letter of the longest key, which is bounded where the strings are read.
fn node(keys: &[Key<'_>], depth: usize, out: &mut Vec<u8>) -> u32 {
    let (first, last) = match keys {
        [] => (&[][..], &[][..]),
        [only] => (&only.0[depth..], &only.0[depth..]),
        [first, .., last] => (&first.0[depth..], &last.0[depth..]),
    };
    // In a sorted list the first and the last differ the earliest.
    let prefix = &first[..first.iter().zip(last).take_while(|(a, b)| a == b).count()];
    let depth = depth + prefix.len();
    let (values, keys) = match keys {
        [(key, lines), rest @ ..] if key.len() == depth => (*lines, rest),
        all => (&[][..], all),
    };
    let children: Vec<(u8, u32)> = keys
        .chunk_by(|(a, _), (b, _)| a[depth] == b[depth])
        .map(|alike| (alike[0].0[depth], node(alike, depth + 1, out)))
        .collect();

    let mut place =
        u32::try_from(out.len()).expect("an index has fewer bytes than the strings of a tree of 4 GiB");
    if !prefix.is_empty() {
        place |= HAS_PREFIX;
        out.extend_from_slice(prefix);
        out.push(0);
    }
    if let ([(first, _), ..], [.., (last, _)]) = (&*children, &*children) {
        place |= HAS_CHILDREN;
        out.extend([*first, *last]);
        let mut slots = vec![0u32; usize::from(last - first) + 1];
        for (letter, child) in &children {
            slots[usize::from(letter - first)] = *child;
        }
        out.extend(slots.iter().flat_map(|slot| slot.to_be_bytes()));
    }
    if !values.is_empty() {
        place |= HAS_VALUES;
        out.extend(u32::try_from(values.len()).expect("as above").to_be_bytes());
        for (priority, line) in values {
            out.extend(priority.to_be_bytes());
            out.extend_from_slice(line.as_bytes());
            out.push(0);
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines under `key`, read as kmod reads them.
    fn look_up(file: &[u8], key: &str) -> Vec<String> {
        fn word(file: &[u8], at: &mut usize) -> u32 {
            *at += 4;
            u32::from_be_bytes(file[*at - 4..*at].try_into().unwrap())
        }
        fn text(file: &[u8], at: &mut usize) -> String {
            let begin = *at;
            *at = begin + file[begin..].iter().position(|b| *b == 0).unwrap() + 1;
            String::from_utf8(file[begin..*at - 1].to_vec()).unwrap()
        }
        let mut place = u32::from_be_bytes(file[8..12].try_into().unwrap());
        let mut rest = key.as_bytes();
        loop {
            let mut at = (place & 0x0fff_ffff) as usize;
            if place & HAS_PREFIX != 0 {
                let Some(after) = rest.strip_prefix(text(file, &mut at).as_bytes()) else {
                    return Vec::new();
                };
                rest = after;
            }
            let mut next = 0;
            if place & HAS_CHILDREN != 0 {
                let (first, last) = (file[at], file[at + 1]);
                at += 2;
                for letter in first..=last {
                    let child = word(file, &mut at);
                    if rest.first() == Some(&letter) {
                        next = child;
                    }
                }
            }
            if rest.is_empty() {
                let count = if place & HAS_VALUES == 0 { 0 } else { word(file, &mut at) };
                return (0..count).map(|_| (word(file, &mut at), text(file, &mut at)).1).collect();
            }
            if next == 0 {
                return Vec::new();
            }
            (place, rest) = (next, &rest[1..]);
        }
    }

    #[test]
    fn every_key_is_found_with_its_lines_in_order() {
        let mut index = Index::default();
        let keys = ["virtio", "virtio_ring", "virtio_pci", "vsock", "a", "ab", "abc", "pci:v*d*", "~"];
        for (at, key) in keys.iter().enumerate() {
            index.insert(key, u32::try_from(at).unwrap(), format!("line of {key}"));
        }
        index.insert("a", 0, "earlier".to_owned());
        index.insert("a", 9, "earlier".to_owned());
        index.insert("\u{e4}", 0, "left out".to_owned());
        let file = index.to_bytes();
        assert_eq!(&file[..8], b"\xb0\x07\xf4\x57\0\x02\0\x01");
        assert_eq!(look_up(&file, "a"), ["earlier", "line of a"]);
        for key in &keys[..4] {
            assert_eq!(look_up(&file, key), [format!("line of {key}")]);
        }
        for absent in ["", "v", "virtio_", "virtio_rin", "b", "abcd", "zz"] {
            assert_eq!(look_up(&file, absent), Vec::<String>::new(), "{absent}");
        }
    }

    #[test]
    fn an_empty_index_is_a_file_too() {
        assert_eq!(look_up(&Index::default().to_bytes(), "x"), Vec::<String>::new());
    }
}
