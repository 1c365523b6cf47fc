//! Makes a module that loads fast: without its type information, and so without its signature.
//!
//! A kernel with `CONFIG_DEBUG_INFO_BTF_MODULES` checks the types of every module that it loads against its own, and parses
//! all of its own for the first one: together as much work as a tenth of a whole boot. Nothing at boot reads them. The
//! signature covers the file as it was, so it goes too; the kernel then counts the module as unsigned (taint `E`).

/// What ends a signed module (`MODULE_SIG_STRING`, `linux/module_signature.h`). Before it stand the signature and twelve
/// bytes about it, the last four its length.
const SIGNED: &[u8] = b"~Module signature appended~\n";
const SIGNATURE_INFO: usize = 12;
/// The section of the type information, as its name stands in the table of names.
const TYPES: &[u8] = b"\0.BTF\0";

/// Takes both away from `module`. Whether there was something to take; if not, it is as it was.
pub fn slim(module: &mut Vec<u8>) -> bool {
    // An ELF file's names are in the section that its header names.
    let Some(names) = section_names(module) else { return false };
    let Some(at) = module[names.clone()].windows(TYPES.len()).position(|name| name == TYPES) else {
        return false;
    };
    // The kernel looks sections up by name; what has another name is not looked at.
    module[names.start + at + 1] = b'_';
    if let Some(length) = unsigned_length(module) {
        module.truncate(length);
    }
    true
}

/// The place of the table of section names in a 64-bit little-endian ELF file.
fn section_names(elf: &[u8]) -> Option<std::ops::Range<usize>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let long = |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    // e_shoff, e_shentsize, e_shstrndx; sh_offset and sh_size of that section.
    let header = long(40)?.checked_add(half(58)?.checked_mul(half(62)?)?)?;
    let begin = long(header.checked_add(24)?)?;
    let end = begin.checked_add(long(header.checked_add(32)?)?)?;
    (end <= elf.len()).then_some(begin..end)
}

fn unsigned_length(module: &[u8]) -> Option<usize> {
    let rest = module.strip_suffix(SIGNED)?;
    let signature = u32::from_be_bytes(*rest.last_chunk()?);
    rest.len().checked_sub(SIGNATURE_INFO)?.checked_sub(usize::try_from(signature).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with nothing but a table of names.
    fn module(names: &[u8], signature: Option<usize>) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[40..48].copy_from_slice(&64_u64.to_le_bytes());
        elf[58..60].copy_from_slice(&64_u16.to_le_bytes());
        elf[62..64].copy_from_slice(&1_u16.to_le_bytes());
        let mut header = [0; 128];
        header[64 + 24..64 + 32].copy_from_slice(&192_u64.to_le_bytes());
        header[64 + 32..64 + 40].copy_from_slice(&(names.len() as u64).to_le_bytes());
        elf.extend(header);
        elf.extend(names);
        if let Some(length) = signature {
            elf.extend(vec![7; length + SIGNATURE_INFO - 4]);
            elf.extend(u32::try_from(length).unwrap().to_be_bytes());
            elf.extend(SIGNED);
        }
        elf
    }

    #[test]
    fn types_and_signature_go_and_nothing_else() {
        let mut signed = module(b"\0.text\0.BTF\0.data\0", Some(100));
        assert!(slim(&mut signed));
        assert_eq!(signed, module(b"\0.text\0_BTF\0.data\0", None));
        assert!(!slim(&mut signed), "there is nothing left to take");
    }

    #[test]
    fn a_module_without_types_keeps_its_signature() {
        let mut signed = module(b"\0.text\0.BTF.ext\0", Some(100));
        assert!(!slim(&mut signed));
        assert_eq!(signed, module(b"\0.text\0.BTF.ext\0", Some(100)));
    }

    #[test]
    fn what_is_no_module_is_left_alone() {
        let whole = module(b"\0.BTF\0", Some(10));
        for length in 0..whole.len() {
            // A cut one may be changed, but is never read beyond its end.
            slim(&mut whole[..length].to_vec());
        }
        for at in [40, 58, 62, 64 + 64 + 24, 64 + 64 + 32] {
            let mut odd = whole.clone();
            odd[at..at + 2].fill(0xff);
            slim(&mut odd);
        }
        assert!(!slim(&mut b"\x7fELF\x01".to_vec()));
    }
}
