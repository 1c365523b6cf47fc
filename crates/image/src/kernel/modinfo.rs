//! What a module file (`.ko`) says of itself: its `.modinfo` section, and the symbols that it exports.

/// Why a file is no module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// It is something else.
    #[error("it is no 64-bit ELF object")]
    NoObject,
    /// It names parts beyond its end.
    #[error("it is cut short")]
    Truncated,
    /// It has no `.modinfo`.
    #[error("it has no .modinfo section")]
    NoInfo,
}

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Modinfo {
    /// The modules whose symbols it uses, as it spells them.
    pub(crate) depends: Vec<String>,
    /// The devices and requests that it answers to.
    pub(crate) aliases: Vec<String>,
    /// Its soft dependencies, each as `modules.softdep` has it after the name.
    pub(crate) softdeps: Vec<String>,
    /// The symbols that it exports.
    pub(crate) symbols: Vec<String>,
}

/// Longer strings are left out: no kernel has them, and indexes made of them would grow without bound.
const MAX_STRING: usize = 1024;

impl Modinfo {
    /// Reads the module in `bytes`.
    ///
    /// # Errors
    /// [`ModuleError`] where it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ModuleError> {
        let object = Object::parse(bytes)?;
        let mut found = Self::default();
        for text in strings(object.section(b".modinfo")?.ok_or(ModuleError::NoInfo)?) {
            let Some((key, value)) = text.split_once('=') else { continue };
            match key {
                "depends" => {
                    found.depends.extend(value.split(',').filter(|d| !d.is_empty()).map(str::to_owned))
                }
                "alias" => found.aliases.push(value.to_owned()),
                "softdep" => found.softdeps.push(value.to_owned()),
                _ => {}
            }
        }
        // Since Linux 5.4 an exported symbol has an entry of its own, named after it.
        let exported = strings(object.section(b".strtab")?.unwrap_or_default())
            .filter_map(|name| name.strip_prefix("__ksymtab_"))
            .filter(|name| !name.is_empty());
        found.symbols = exported.map(str::to_owned).collect();
        found.symbols.sort();
        found.symbols.dedup();
        Ok(found)
    }

    /// The modules to load before this one if they are there.
    pub(crate) fn soft_needs(&self) -> impl Iterator<Item = &str> {
        self.softdeps.iter().flat_map(|text| {
            let mut before = false;
            text.split_ascii_whitespace().filter(move |word| match *word {
                "pre:" => {
                    before = true;
                    false
                }
                "post:" => {
                    before = false;
                    false
                }
                _ => before,
            })
        })
    }
}

/// The printable strings between zeros.
fn strings(section: &[u8]) -> impl Iterator<Item = &str> {
    section
        .split(|b| *b == 0)
        .filter(|bytes| bytes.len() <= MAX_STRING && bytes.iter().all(|b| (b' '..=b'~').contains(b)))
        .filter_map(|bytes| str::from_utf8(bytes).ok())
        .filter(|text| !text.is_empty())
}

/// A 64-bit little-endian ELF file with sections.
struct Object<'a> {
    bytes: &'a [u8],
    /// The section headers, 64 bytes each.
    headers: &'a [u8],
    names: &'a [u8],
}

impl<'a> Object<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ModuleError> {
        const HEADER: usize = 64;
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(ModuleError::NoObject);
        }
        let half = |at: usize| bytes.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        let (size, count, names) = (half(58), half(60), half(62));
        let (Some(HEADER), Some(count), Some(names)) = (size, count, names) else {
            return Err(if bytes.len() < HEADER { ModuleError::Truncated } else { ModuleError::NoObject });
        };
        let headers = range(bytes, long(bytes, 40)?, (count * HEADER) as u64)?;
        let mut object = Self { bytes, headers, names: &[] };
        object.names =
            object.content(headers.chunks_exact(HEADER).nth(names).ok_or(ModuleError::Truncated)?)?;
        Ok(object)
    }

    /// The content of the section called `name`, where there is one.
    fn section(&self, name: &[u8]) -> Result<Option<&'a [u8]>, ModuleError> {
        let named = |header: &&[u8]| {
            let at = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            self.names
                .get(at..)
                .is_some_and(|n| n.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)))
        };
        self.headers.chunks_exact(64).find(named).map(|header| self.content(header)).transpose()
    }

    fn content(&self, header: &[u8]) -> Result<&'a [u8], ModuleError> {
        range(self.bytes, long(header, 24)?, long(header, 32)?)
    }
}

fn long(bytes: &[u8], at: usize) -> Result<u64, ModuleError> {
    let bytes = bytes.get(at..at + 8).ok_or(ModuleError::Truncated)?;
    Ok(u64::from_le_bytes(bytes.try_into().expect("it is eight bytes long")))
}

fn range(bytes: &[u8], at: u64, length: u64) -> Result<&[u8], ModuleError> {
    let place = || {
        let begin = usize::try_from(at).ok()?;
        bytes.get(begin..begin.checked_add(usize::try_from(length).ok()?)?)
    };
    place().ok_or(ModuleError::Truncated)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An object file with a `.modinfo` of these strings.
    pub(crate) fn module(info: &[&str]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let content: Vec<u8> = info.iter().flat_map(|s| s.bytes().chain([0])).collect();
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[58] = 64;
        bytes[60] = 3;
        bytes[62] = 2;
        let header = |name: u32, at: usize, length: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            header
        };
        let (first, second) = (bytes.len(), bytes.len() + content.len());
        bytes.extend(&content);
        bytes.extend(names);
        let table = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        bytes.extend([0; 64]);
        bytes.extend(header(1, first, content.len()));
        bytes.extend(header(10, second, names.len()));
        bytes
    }

    #[test]
    fn a_module_tells_what_it_needs_and_answers_to() {
        let bytes = module(&[
            "license=GPL",
            "depends=virtio,net-failover",
            "alias=virtio:d00000001v*",
            "alias=\u{1}odd",
            "softdep=pre: crc32c other post: later",
            "softdep=plain",
        ]);
        let found = Modinfo::parse(&bytes).unwrap();
        assert_eq!(found.depends, ["virtio", "net-failover"]);
        assert_eq!(found.aliases, ["virtio:d00000001v*"]);
        assert_eq!(found.soft_needs().collect::<Vec<_>>(), ["crc32c", "other"]);
        assert_eq!(Modinfo::parse(&module(&["depends="])).unwrap(), Modinfo::default());
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let whole = module(&["depends="]);
        assert_eq!(Modinfo::parse(b"#!/bin/sh\n"), Err(ModuleError::NoObject));
        assert_eq!(Modinfo::parse(b""), Err(ModuleError::NoObject));
        for length in 6..whole.len() {
            assert!(Modinfo::parse(&whole[..length]).is_err(), "cut at {length}");
        }
        let mut unnamed = whole.clone();
        let at = memchr::memmem::find(&unnamed, b".modinfo").unwrap();
        unnamed[at] = b'x';
        assert_eq!(Modinfo::parse(&unnamed), Err(ModuleError::NoInfo));
        for at in 0..whole.len() {
            let mut hostile = whole.clone();
            hostile[at] = 0xff;
            let _ = Modinfo::parse(&hostile); // must not panic
        }
    }
}
