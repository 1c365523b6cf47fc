//! Which names there are, and who is told of them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use model::{VmName, network::Nat};
use wire::dns::{Finding, Subject};

/// A VM that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its group.
    pub group: Option<NonZeroU16>,
    /// Whether it reaches the world, and so may ask of it.
    pub nat: Nat,
}

/// The names of VMs that run. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<RwLock<Table>>);

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<String, (Machine, Moment)>,
    by_address: HashMap<Ipv4Addr, Machine>,
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It may ask, and nobody is told of it yet.
    Boots,
    /// It runs.
    Runs,
}

/// What somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// This.
    Finding(Finding),
    /// What others say.
    AskOthers,
}

impl Names {
    /// From now on `name` is `machine`.
    pub fn set(&self, name: &VmName, machine: Machine) {
        self.put(name, machine, Moment::Runs);
    }

    /// From now on `machine`, which boots, may ask; `name` is nobody yet.
    pub fn admit(&self, name: &VmName, machine: Machine) {
        self.put(name, machine, Moment::Boots);
    }

    fn put(&self, name: &VmName, machine: Machine, moment: Moment) {
        let mut table = self.change();
        if let Some((before, _)) = table.by_name.insert(name.as_str().to_owned(), (machine, moment)) {
            table.by_address.remove(&before.address);
        }
        table.by_address.insert(machine.address, machine);
    }

    fn find(&self, name: &str) -> Option<Machine> {
        let (machine, moment) = *self.look().by_name.get(name)?;
        (moment == Moment::Runs).then_some(machine)
    }

    /// From now on `name` is nobody.
    pub fn remove(&self, name: &VmName) {
        let mut table = self.change();
        if let Some((before, _)) = table.by_name.remove(name.as_str()) {
            table.by_address.remove(&before.address);
        }
    }

    /// The guest that has `address`.
    #[must_use]
    pub fn guest(&self, address: IpAddr) -> Option<Machine> {
        match address {
            IpAddr::V4(address) => self.look().by_address.get(&address).copied(),
            IpAddr::V6(_) => None,
        }
    }

    /// What a program of the host is told of `subject`: all of the zone, and nothing else.
    #[must_use]
    pub fn tell_host(&self, subject: &Subject) -> Told {
        Told::Finding(match subject {
            Subject::Zone => Finding::Zone,
            Subject::Machine(name) => {
                self.find(name).map_or(Finding::Missing, |machine| Finding::Address(machine.address))
            }
            Subject::Nobody => Finding::Missing,
            Subject::Elsewhere => Finding::Refused,
        })
    }

    /// What the guest that has `address` is told of `subject`.
    #[must_use]
    pub fn tell_guest(&self, address: IpAddr, subject: &Subject) -> Told {
        let Some(asker) = self.guest(address) else { return Told::Finding(Finding::Refused) };
        match (asker.nat, subject) {
            (_, Subject::Zone) => Told::Finding(Finding::Zone),
            (_, Subject::Nobody) => Told::Finding(Finding::Missing),
            (Nat::On, Subject::Elsewhere) => Told::AskOthers,
            (Nat::Off, Subject::Elsewhere) => Told::Finding(Finding::Refused),
            (Nat::On | Nat::Off, Subject::Machine(name)) => {
                let known = self.find(name).filter(|machine| {
                    let mates = asker.group.is_some() && machine.group == asker.group;
                    asker.nat.is_on() || mates || machine.address == asker.address
                });
                Told::Finding(known.map_or(Finding::Missing, |machine| Finding::Address(machine.address)))
            }
        }
    }

    fn look(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(n: u8, group: u16, nat: Nat) -> Machine {
        Machine { address: Ipv4Addr::new(172, 30, 0, n), group: NonZeroU16::new(group), nat }
    }

    fn name(text: &str) -> VmName {
        VmName::try_from(text).unwrap()
    }

    #[test]
    fn who_is_told_of_whom() {
        let names = Names::default();
        for (text, machine) in [
            ("alone", machine(2, 0, Nat::Off)),
            ("mate", machine(3, 7, Nat::Off)),
            ("friend", machine(4, 7, Nat::Off)),
            ("open", machine(5, 0, Nat::On)),
        ] {
            names.set(&name(text), machine);
        }
        let subject = |text: &str| match text {
            "." => Subject::Zone,
            "example.org" => Subject::Elsewhere,
            "www.mate" => Subject::Nobody,
            name => Subject::Machine(name.to_owned()),
        };
        let found = |n: u8| Told::Finding(Finding::Address(Ipv4Addr::new(172, 30, 0, n)));
        let (missing, refused) = (Told::Finding(Finding::Missing), Told::Finding(Finding::Refused));
        // Zero is the host.
        for (asker, text, told) in [
            (0, "alone", found(2)),
            (0, "none", missing),
            (0, "www.mate", missing),
            (0, ".", Told::Finding(Finding::Zone)),
            (0, "example.org", refused),
            (2, "alone", found(2)),
            (2, "mate", missing),
            (2, "open", missing),
            (2, "example.org", refused),
            (3, "friend", found(4)),
            (3, "alone", missing),
            (4, "open", missing),
            (5, "mate", found(3)),
            (5, "none", missing),
            (5, "example.org", Told::AskOthers),
            (99, "alone", refused),
        ] {
            let is = match asker {
                0 => names.tell_host(&subject(text)),
                n => names.tell_guest(Ipv4Addr::new(172, 30, 0, n).into(), &subject(text)),
            };
            assert_eq!(is, told, "{asker} asks for {text}");
        }
    }

    #[test]
    fn who_boots_may_ask_and_nobody_is_told_of_it() {
        let names = Names::default();
        names.admit(&name("dev"), machine(2, 0, Nat::On));
        let subject = Subject::Machine("dev".to_owned());
        let address = Ipv4Addr::new(172, 30, 0, 2);
        assert_eq!(names.tell_host(&subject), Told::Finding(Finding::Missing));
        assert_eq!(names.tell_guest(address.into(), &Subject::Elsewhere), Told::AskOthers);
        names.set(&name("dev"), machine(2, 0, Nat::On));
        assert_eq!(names.tell_host(&subject), Told::Finding(Finding::Address(address)));
    }

    #[test]
    fn a_name_that_moved_or_went_leaves_no_guest_at_its_address() {
        let names = Names::default();
        names.set(&name("dev"), machine(2, 0, Nat::On));
        names.set(&name("dev"), machine(3, 0, Nat::On));
        assert_eq!(names.guest(Ipv4Addr::new(172, 30, 0, 2).into()), None);
        names.remove(&name("dev"));
        assert_eq!(names.guest(Ipv4Addr::new(172, 30, 0, 3).into()), None);
        assert_eq!(names.tell_host(&Subject::Machine("dev".to_owned())), Told::Finding(Finding::Missing));
    }
}
