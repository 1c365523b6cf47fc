//! Where a machine's process has its tap, by what its card is connected to.
//!
//! QEMU gets an open tap by its number, Firecracker opens one by its name. A tap has room for one who has it open.

use std::os::fd::RawFd;

use host::{links, net::Device, proc::Command};
use model::network::{self, Link, TAP};

use crate::{Nic, SpawnError};

/// The gateway's own address. Each is alone with its guest, so it can be the same everywhere.
const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Puts the process of `command` where `nic` needs it to be; the number of its open tap, if it has one.
pub(crate) fn open(command: &mut Command, nic: &Nic) -> host::Result<Option<RawFd>> {
    match nic.link {
        Link::BuiltIn => Ok(None),
        Link::Bridge => Ok(Some(command.pass(links::open_tap(&network::tap(nic.vm))?))),
        Link::Namespace => command.with_tap(inside(nic)?).map(Some),
    }
}

/// Puts the process of `command` where `nic` needs it to be; the name of the tap that is there.
pub(crate) fn name(command: &mut Command, nic: &Nic) -> Result<String, SpawnError> {
    match nic.link {
        Link::BuiltIn => Err(SpawnError::Plan { field: "network", value: nic.link.name().to_owned() }),
        Link::Bridge => {
            let name = network::tap(nic.vm);
            // That it is there, and ours to open, is told before anything is started.
            drop(links::open_tap(&name)?);
            Ok(name)
        }
        Link::Namespace => {
            command.with_named_tap(inside(nic)?);
            Ok(TAP.to_owned())
        }
    }
}

/// The tap in a namespace that the machine is alone in.
fn inside(Nic { card, .. }: &Nic) -> host::Result<Device> {
    Ok(Device::new(TAP, card.gateway, card.prefix, card.mtu)?.with_mac(GATEWAY_MAC))
}
