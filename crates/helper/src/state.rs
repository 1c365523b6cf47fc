//! Whose rules are applied, as the helper remembers it: in memory, and in a file that only root reads, until the next boot.
//!
//! The file is written before the rules change: a helper that is killed between makes the rules what the file says.

use std::{collections::BTreeMap, num::NonZeroU16, path::PathBuf};

use model::VmId;
use wire::helper::{Guest, MAX_GUESTS, Refusal};

/// The guests.
#[derive(Debug)]
pub struct Guests {
    path: PathBuf,
    guests: BTreeMap<VmId, Guest>,
}

impl Guests {
    /// Those that the file at `path` tells of; none where it is missing.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(path: PathBuf) -> host::Result<Self> {
        let text = match host::fs::read_text(&path) {
            Ok(text) => text,
            Err(error) if error.is_missing() => String::new(),
            Err(error) => return Err(error),
        };
        let guests = text.lines().filter_map(parse).map(|guest| (guest.vm, guest)).collect();
        Ok(Self { path, guests })
    }

    /// All, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Guest> + Clone {
        self.guests.values()
    }

    /// The one of `vm`.
    #[must_use]
    pub fn get(&self, vm: VmId) -> Option<&Guest> {
        self.guests.get(&vm)
    }

    /// Whether `guest` can be there beside the others.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn admits(&self, guest: &Guest) -> Result<(), Refusal> {
        let mut others = self.iter().filter(|other| other.vm != guest.vm);
        if others.any(|other| other.host_number == guest.host_number) {
            return Err(Refusal::AddressTaken);
        }
        if self.guests.len() >= MAX_GUESTS && self.get(guest.vm).is_none() {
            return Err(Refusal::TooMany);
        }
        Ok(())
    }

    /// From now on `vm` is this guest, or none.
    ///
    /// # Errors
    /// Where that cannot be written; nothing has changed then.
    pub fn set(&mut self, vm: VmId, guest: Option<Guest>) -> host::Result<()> {
        let before = match guest {
            Some(guest) => self.guests.insert(vm, guest),
            None => self.guests.remove(&vm),
        };
        let text: String = self.iter().map(line).collect();
        host::fs::write_atomic(&self.path, text.as_bytes()).inspect_err(|_| {
            match before {
                Some(guest) => self.guests.insert(vm, guest),
                None => self.guests.remove(&vm),
            };
        })
    }

    /// From now on there is none.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn clear(&mut self) -> host::Result<()> {
        self.guests.clear();
        host::fs::remove(&self.path)
    }
}

fn line(guest: &Guest) -> String {
    let group = guest.group.map_or(0, NonZeroU16::get);
    format!("{} {} {group} {}\n", guest.vm, guest.host_number, if guest.nat { "nat" } else { "closed" })
}

fn parse(line: &str) -> Option<Guest> {
    let mut words = line.split(' ');
    let vm = VmId::try_from(words.next()?).ok()?;
    let host_number = words.next()?.parse().ok()?;
    let group = NonZeroU16::new(words.next()?.parse().ok()?);
    Some(Guest { vm, host_number, group, nat: words.next()? == "nat" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(n: u8, host_number: u16) -> Guest {
        Guest {
            vm: VmId::from_bytes([n; 6]),
            host_number,
            group: NonZeroU16::new(3),
            nat: n.is_multiple_of(2),
        }
    }

    #[test]
    fn guests_are_there_after_the_helper_began_again_and_have_different_addresses() {
        let path = std::env::temp_dir().join(format!("banger-guests-{}", std::process::id()));
        let mut guests = Guests::read(path.clone()).unwrap();
        guests.set(guest(1, 2).vm, Some(guest(1, 2))).unwrap();
        guests.set(guest(2, 3).vm, Some(guest(2, 3))).unwrap();
        let again = Guests::read(path.clone()).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), [&guest(1, 2), &guest(2, 3)]);
        assert_eq!(again.admits(&guest(3, 3)), Err(Refusal::AddressTaken));
        assert_eq!(again.admits(&guest(2, 3)), Ok(()));
        guests.set(guest(1, 2).vm, None).unwrap();
        assert_eq!(Guests::read(path.clone()).unwrap().iter().count(), 1);
        guests.clear().unwrap();
        assert!(!host::fs::exists(&path));
    }
}
