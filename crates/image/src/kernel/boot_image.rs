//! The bootable file of a kernel: what it is, its release, and the ELF file that a `bzImage` carries packed.
//!
//! Everything here works on bytes in memory, and every offset that the file names is checked against its length.

use std::io;

use memchr::memmem;

use super::compression::{self, Compression};

/// More than any kernel unpacks to, debug information aside.
const MAX_VMLINUX: u64 = 512 << 20;
/// More than any kernel's configuration.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

/// Why a file is not a kernel that could boot.
#[derive(Debug, thiserror::Error)]
pub enum BootImageError {
    /// It is something else.
    #[error("it is neither a bzImage, nor an ELF vmlinux, nor an arm64 Image")]
    Unknown,
    /// It has the form of one, but it is not Linux.
    #[error("it does not say which Linux it is")]
    NoRelease,
    /// It names parts beyond its end.
    #[error("it is cut short")]
    Truncated,
    /// It is for machines that no VMM here has.
    #[error("it is for a processor that banger has no machines for")]
    UnknownArch,
    /// What it carries does not unpack.
    #[error("the kernel inside cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// What it carries is not what it should be.
    #[error("the kernel inside is no ELF file")]
    NoElf,
}

/// The form of a bootable file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What x86 boot loaders start; QEMU too.
    BzImage,
    /// The bare kernel; Firecracker wants it on x86.
    Elf,
    /// What arm64 boot loaders and all VMMs start.
    Arm64Image,
}

/// What a bootable file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootImage {
    /// Its form.
    pub form: Form,
    /// The processors that it runs on, as Rust and `uname -m` call them.
    pub arch: &'static str,
    /// Its release, as `uname -r` will say and as its module tree is called.
    pub release: String,
}

impl BootImage {
    /// Reads what `bytes` says of itself.
    ///
    /// # Errors
    /// [`BootImageError`] where it is no kernel, or not all of one.
    pub fn identify(bytes: &[u8]) -> Result<Self, BootImageError> {
        if bytes.get(0x202..0x206) == Some(b"HdrS") && bytes.get(0x1fe..0x200) == Some(b"\x55\xaa") {
            let setup = Setup::parse(bytes)?;
            return Ok(Self { form: Form::BzImage, arch: "x86_64", release: setup.release });
        }
        if bytes.starts_with(b"\x7fELF") {
            let arch = check_elf(bytes)?;
            return Ok(Self { form: Form::Elf, arch, release: banner_release(bytes)? });
        }
        if bytes.get(0x38..0x3c) == Some(b"ARM\x64") {
            // The size in memory includes what is zero at first and lies after the file's end, so it says nothing here.
            return Ok(Self { form: Form::Arm64Image, arch: "aarch64", release: banner_release(bytes)? });
        }
        Err(BootImageError::Unknown)
    }
}

/// The ELF kernel that a `bzImage` carries.
///
/// # Errors
/// [`BootImageError`] where it is no `bzImage`, is damaged, or is packed in a way that is not supported.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, BootImageError> {
    let payload = Setup::parse(bzimage)?.payload;
    let packed = &bzimage[payload];
    let vmlinux = match Compression::of(packed) {
        Compression::None => packed.to_vec(),
        packing => packing
            .reader(packed)
            .and_then(|mut reader| {
                compression::read_all(&mut reader, compression::bound(packed.len(), MAX_VMLINUX))
            })
            .map_err(BootImageError::Unpack)?,
    };
    match check_elf(&vmlinux) {
        Err(BootImageError::Unknown) => Err(BootImageError::NoElf),
        Err(other) => Err(other),
        Ok(_) => Ok(vmlinux),
    }
}

/// The configuration that a kernel built with `IKCONFIG` carries.
#[must_use]
pub fn embedded_config(vmlinux: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &[u8] = b"IKCFG_ST";
    const END: &[u8] = b"IKCFG_ED";
    /// A kernel has one. Each that is tried may take as long as the file is.
    const TRIED: usize = 4;
    let begins = memmem::find_iter(vmlinux, BEGIN).map(|at| &vmlinux[at + BEGIN.len()..]);
    let mut packed = begins.filter(|packed| Compression::of(packed) == Compression::Gzip).take(TRIED);
    packed.find_map(|packed| {
        let packed = &packed[..memmem::find(packed, END)?];
        compression::read_all(&mut Compression::Gzip.reader(packed).ok()?, MAX_CONFIG).ok()
    })
}

/// The part of the x86 boot protocol's header that matters here (Documentation/arch/x86/boot.rst).
struct Setup {
    release: String,
    payload: std::ops::Range<usize>,
}

impl Setup {
    fn parse(bytes: &[u8]) -> Result<Self, BootImageError> {
        use BootImageError::{NoRelease, Truncated, Unknown, UnknownArch};
        if bytes.get(0x202..0x206) != Some(b"HdrS") {
            return Err(Unknown);
        }
        let half = |at| field::<2>(bytes, at).map(u16::from_le_bytes).ok_or(Truncated);
        let word = |at| field::<4>(bytes, at).map(u32::from_le_bytes).ok_or(Truncated);
        const WITH_PAYLOAD: u16 = 0x0208;
        const WITH_FLAGS: u16 = 0x020c;
        let version = half(0x206)?;
        if version < WITH_PAYLOAD {
            return Err(Unknown);
        }
        if version < WITH_FLAGS || half(0x236)? & 1 == 0 {
            return Err(UnknownArch); // 32 bit only
        }
        // Zero sectors mean four, as they did before the field was there.
        let sectors = match bytes[0x1f1] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let begin = (sectors + 1) * 512;
        let code = usize::try_from(word(0x1f4)?).ok().and_then(|n| n.checked_mul(16)).ok_or(Truncated)?;
        let end = begin.checked_add(code).ok_or(Truncated)?;
        // The last paragraph may be a part of one only.
        if end > bytes.len() + 15 {
            return Err(Truncated);
        }
        let offset = usize::try_from(word(0x248)?).map_err(|_| Truncated)?;
        let length = usize::try_from(word(0x24c)?).map_err(|_| Truncated)?;
        let payload_begin = begin.checked_add(offset).ok_or(Truncated)?;
        let payload = payload_begin..payload_begin.checked_add(length).ok_or(Truncated)?;
        if payload.end > bytes.len() {
            return Err(Truncated);
        }
        let banner = bytes.get(usize::from(half(0x20e)?) + 0x200..).ok_or(Truncated)?;
        Ok(Self { release: release_word(banner).ok_or(NoRelease)?, payload })
    }
}

/// Checks that `bytes` is a whole 64-bit ELF file for a known processor, and says for which.
fn check_elf(bytes: &[u8]) -> Result<&'static str, BootImageError> {
    use BootImageError::{Truncated, Unknown, UnknownArch};
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Unknown);
    }
    let half = |at| field::<2>(bytes, at).map(u16::from_le_bytes).ok_or(Truncated);
    let long = |at| field::<8>(bytes, at).map(u64::from_le_bytes).ok_or(Truncated);
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    if field::<2>(bytes, 4) != Some(CLASS_64_LITTLE_ENDIAN) {
        return Err(UnknownArch);
    }
    let arch = match half(18)? {
        62 => "x86_64",
        183 => "aarch64",
        _ => return Err(UnknownArch),
    };
    let (table, size, count) = (long(32)?, u64::from(half(54)?), u64::from(half(56)?));
    for index in 0..count {
        let at = table.checked_add(index * size).and_then(|at| usize::try_from(at).ok()).ok_or(Truncated)?;
        let begin = long(at.checked_add(8).ok_or(Truncated)?)?;
        let length = long(at.checked_add(32).ok_or(Truncated)?)?;
        if begin.checked_add(length).is_none_or(|end| end > bytes.len() as u64) {
            return Err(Truncated);
        }
    }
    Ok(arch)
}

/// The release in the banner that every kernel prints first.
fn banner_release(bytes: &[u8]) -> Result<String, BootImageError> {
    const BANNER: &[u8] = b"Linux version ";
    memmem::find_iter(bytes, BANNER)
        .find_map(|at| release_word(&bytes[at + BANNER.len()..]))
        .ok_or(BootImageError::NoRelease)
}

/// The release that `text` begins with: it names a directory, so it is a short word of harmless characters.
fn release_word(text: &[u8]) -> Option<String> {
    const MAX: usize = 64; // the kernel's own limit
    let word = text.iter().take(MAX).take_while(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(b));
    let word: String = word.map(|b| char::from(*b)).collect();
    let ends = text.get(word.len()).is_some_and(|b| *b == b' ' || *b == 0);
    (ends && word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')).then_some(word)
}

/// The `N` bytes at `at`, where the file has them.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
