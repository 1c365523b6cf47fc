//! Whether a program is static: reads just enough of a 64-bit little-endian ELF file to tell.

use anyhow::{Result, bail};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;

/// Fails, saying why, unless the ELF file `bytes` needs neither an interpreter nor a shared library.
pub fn require_static(bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("it is not a 64-bit little-endian ELF file");
    }
    let table = number::<8>(bytes, 32)?;
    let entry = number::<2>(bytes, 54)?;
    let count = number::<2>(bytes, 56)?;
    for index in 0..count {
        let header = at(table, index * entry)?;
        match u32::try_from(number::<4>(bytes, header)?)? {
            PT_INTERP => bail!("it asks for an interpreter"),
            PT_DYNAMIC => {
                let offset = number::<8>(bytes, at(header as u64, 8)?)?;
                let size = number::<8>(bytes, at(header as u64, 32)?)?;
                for tag in (0..size).step_by(16) {
                    if number::<8>(bytes, at(offset, tag)?)? == DT_NEEDED {
                        bail!("it needs a shared library");
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn at(base: u64, offset: u64) -> Result<usize> {
    match base.checked_add(offset).map(usize::try_from) {
        Some(Ok(at)) => Ok(at),
        _ => bail!("it is damaged: an offset of {base} + {offset}"),
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let Some(field) = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) else {
        bail!("it is damaged: it ends before byte {at}");
    };
    Ok(field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program is linked dynamically by default.
    #[test]
    fn a_dynamic_program_is_refused() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let reason = require_static(&this).unwrap_err().to_string();
        assert_eq!(reason, "it asks for an interpreter");
    }

    #[test]
    fn a_program_without_interpreter_or_libraries_is_accepted() {
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        require_static(&file).unwrap();
    }

    #[test]
    fn a_needed_library_is_found() {
        let mut file = vec![0u8; 64 + 56 + 32];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64; // where the program headers begin
        file[54] = 56; // the size of one
        file[56] = 1; // how many
        file[64] = 2; // PT_DYNAMIC
        file[64 + 8] = 120; // at this offset
        file[64 + 32] = 32; // with two entries
        require_static(&file).unwrap();
        file[120 + 16] = 1; // of which the second is DT_NEEDED
        assert_eq!(require_static(&file).unwrap_err().to_string(), "it needs a shared library");
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in 0..128 {
            assert!(require_static(&this[..length]).is_err());
        }
    }
}
