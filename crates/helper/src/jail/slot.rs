//! Whose user each jail has, in a file beside the jail; a user is free again when all of its jail is gone.

use std::path::PathBuf;

use host::{fs, proc::ProcessId};
use model::VmId;
use wire::helper::Refusal;

use super::JailError;
use crate::install::Uids;

/// The file that tells of a jail.
const SLOT: &str = "slot";

/// A jail as it is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// Its user, and its group.
    pub uid: u32,
    /// What runs in it, once that is known.
    pub process: Option<ProcessId>,
}

/// The jails that there are.
#[derive(Debug)]
pub(super) struct Slots {
    directory: PathBuf,
    uids: Option<Uids>,
}

impl Slots {
    pub fn new(directory: PathBuf, uids: Option<Uids>) -> Self {
        Self { directory, uids }
    }

    /// Whether there are users for jails.
    pub fn are_possible(&self) -> bool {
        self.uids.is_some()
    }

    /// Where everything of the jail of `vm` lies.
    pub fn place(&self, vm: VmId) -> PathBuf {
        self.directory.join(vm.to_string())
    }

    /// What is noted of the jail of `vm`.
    pub fn find(&self, vm: VmId) -> host::Result<Option<Slot>> {
        match fs::read_text(&self.place(vm).join(SLOT)) {
            Ok(text) => Ok(parse(&text)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes a jail of `vm`, which has none, with a user that no other has.
    pub fn take(&self, vm: VmId) -> Result<Slot, JailError> {
        fs::private_dir(&self.directory)?;
        let mut taken = Vec::new();
        for place in fs::list(&self.directory)? {
            let other =
                place.file_name().and_then(|name| name.to_str()).and_then(|name| VmId::try_from(name).ok());
            if let Some(slot) = other.map(|other| self.find(other)).transpose()?.flatten() {
                taken.push(slot.uid);
            }
        }
        let uids = self.uids.as_ref().ok_or(Refusal::NoJailer)?;
        let uid = uids.iter().find(|uid| !taken.contains(uid)).ok_or(Refusal::TooMany)?;
        let slot = Slot { uid, process: None };
        fs::create_dir(&self.place(vm))?;
        self.note(vm, &slot)?;
        Ok(slot)
    }

    /// From now on the jail of `vm` is `slot`.
    pub fn note(&self, vm: VmId, slot: &Slot) -> host::Result<()> {
        fs::write_atomic(&self.place(vm).join(SLOT), line(slot).as_bytes())
    }

    /// There is no jail of `vm`. What tells of it goes last, as its user is another's then.
    pub fn give_back(&self, vm: VmId) -> host::Result<()> {
        let place = self.place(vm);
        for inside in fs::list(&place)? {
            if inside.file_name().is_some_and(|name| name != SLOT) {
                fs::remove_all(&inside)?;
            }
        }
        fs::remove_all(&place)
    }
}

fn line(slot: &Slot) -> String {
    match &slot.process {
        None => format!("{}\n", slot.uid),
        Some(ProcessId { pid, start, boot }) => format!("{} {pid} {start} {boot}\n", slot.uid),
    }
}

fn parse(text: &str) -> Option<Slot> {
    let mut words = text.split_ascii_whitespace();
    let uid = words.next()?.parse().ok()?;
    let process = match (words.next(), words.next(), words.next()) {
        (Some(pid), Some(start), Some(boot)) => {
            Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()?, boot: boot.to_owned() })
        }
        _ => None,
    };
    Some(Slot { uid, process })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_jail_has_a_user_of_its_own_until_it_is_gone() {
        let directory = std::env::temp_dir().join(format!("banger-slots-{}", std::process::id()));
        fs::remove_all(&directory).unwrap();
        let slots = Slots::new(directory.clone(), Some("70000-70001".parse().unwrap()));
        let vm = |n| VmId::from_bytes([n; 6]);
        assert_eq!(slots.find(vm(1)).unwrap(), None);
        assert_eq!(slots.take(vm(1)).unwrap().uid, 70_000);
        assert_eq!(slots.take(vm(2)).unwrap().uid, 70_001);
        assert!(matches!(slots.take(vm(3)), Err(JailError::Refused(Refusal::TooMany))));
        let process = Some(ProcessId { pid: 7, start: 99, boot: "b".to_owned() });
        slots.note(vm(2), &Slot { uid: 70_001, process: process.clone() }).unwrap();
        assert_eq!(slots.find(vm(2)).unwrap(), Some(Slot { uid: 70_001, process }));
        for _ in 0..2 {
            slots.give_back(vm(1)).unwrap();
        }
        assert_eq!(slots.take(vm(3)).unwrap().uid, 70_000);
        fs::remove_all(&directory).unwrap();
    }
}
