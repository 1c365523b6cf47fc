//! Finds the disk of each role.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use host::{Error, Result};
use wire::guest::{Disk, DiskRole};

/// How long a disk may take to appear. Drivers find theirs while they load; this is for those that do it later.
const PATIENCE: Duration = Duration::from_secs(5);

/// The devices of the disks, by role.
#[derive(Debug)]
pub struct Disks(BTreeMap<&'static str, PathBuf>);

impl Disks {
    /// The device of the disk for `role`.
    ///
    /// # Errors
    /// Where the configuration has none.
    pub fn device(&self, role: DiskRole) -> Result<&Path> {
        self.optional(role).ok_or_else(|| {
            Error::new("find the disk for", name(role), io::Error::other("the boot configuration has none"))
        })
    }

    /// The device of a disk that a guest may be without.
    #[must_use]
    pub fn optional(&self, role: DiskRole) -> Option<&Path> {
        self.0.get(name(role)).map(PathBuf::as_path)
    }
}

/// The word for a role in messages.
fn name(role: DiskRole) -> &'static str {
    match role {
        DiskRole::Image => "image",
        DiskRole::Overlay => "overlay",
        DiskRole::Work => "work",
        DiskRole::Modules => "modules",
    }
}

/// Finds the disks by their serial where the configuration has one, else by their place among all disks, and checks
/// that each holds the file system that it should.
///
/// # Errors
/// Where one does not appear in time, or holds something else. `refused` are the modules that might be why.
pub fn find(wanted: &[Disk], refused: &[String]) -> Result<Disks> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = BTreeMap::new();
    for (place, disk) in wanted.iter().enumerate() {
        let device = loop {
            if let Some(device) = look_for(disk, place)? {
                break device;
            }
            if Instant::now() > deadline {
                return Err(absent(disk, refused));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        check_uuid(&device, &disk.uuid)?;
        found.insert(name(disk.role), device);
    }
    Ok(Disks(found))
}

fn look_for(disk: &Disk, place: usize) -> Result<Option<PathBuf>> {
    let mut all = host::fs::list(Path::new("/sys/block"))?;
    all.retain(|path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"vd")));
    // vdaa comes after vdz.
    all.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let found = match &disk.serial {
        Some(serial) => {
            let shows_it = |path: &&PathBuf| {
                host::fs::read_limited(&path.join("serial"), 64)
                    .is_ok_and(|s| s.trim_ascii() == serial.as_bytes())
            };
            // Asking for a serial is a request to the device. Most VMMs keep the order, so the one in its place is asked first.
            all.get(place).filter(shows_it).or_else(|| all.iter().find(shows_it))
        }
        None => all.get(place),
    };
    Ok(found.and_then(|path| path.file_name()).map(|name| Path::new("/dev").join(name)))
}

fn absent(disk: &Disk, refused: &[String]) -> Error {
    let by = disk.serial.as_ref().map_or(String::new(), |serial| format!(" with serial {serial}"));
    let why = if refused.is_empty() {
        "no such disk appeared".to_owned()
    } else {
        format!("no such disk appeared; modules that did not load: {}", refused.join(", "))
    };
    Error::new("find", format_args!("the {} disk{by}", name(disk.role)), io::Error::other(why))
}

/// The superblock's place on the device, and in it those of the magic number and the UUID.
const SUPERBLOCK: u64 = 1024;
const MAGIC: usize = 0x38;
const UUID: usize = 0x68;

fn check_uuid(device: &Path, expect: &str) -> Result<()> {
    let mut superblock = [0; 128];
    host::fs::open(device)?
        .read_exact_at(&mut superblock, SUPERBLOCK)
        .map_err(|e| Error::path("read the superblock of", device, e))?;
    match uuid(&superblock) {
        Some(uuid) if uuid.eq_ignore_ascii_case(expect) => Ok(()),
        Some(uuid) => {
            let cause = io::Error::other(format!("it has file system {uuid}, not {expect}"));
            Err(Error::path("use", device, cause))
        }
        None => Err(Error::path("use", device, io::Error::other("it has no ext4 file system"))),
    }
}

/// The UUID in an ext4 superblock, in its usual form.
fn uuid(superblock: &[u8; 128]) -> Option<String> {
    if superblock[MAGIC..MAGIC + 2] != [0x53, 0xef] {
        return None;
    }
    let mut out = String::with_capacity(36);
    for (i, byte) in superblock[UUID..UUID + 16].iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_read_from_the_superblock() {
        let mut block = [0; 128];
        assert_eq!(uuid(&block), None, "no magic number");
        block[MAGIC..MAGIC + 2].copy_from_slice(&0xef53_u16.to_le_bytes());
        for (i, byte) in block[UUID..UUID + 16].iter_mut().enumerate() {
            *byte = u8::try_from(i * 17).unwrap();
        }
        assert_eq!(uuid(&block).unwrap(), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
