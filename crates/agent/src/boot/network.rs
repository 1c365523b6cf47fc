//! The network card: address, route and resolver, before init can have another opinion.
//!
//! Whatever in the image manages networks is told to leave the card alone, in `/run`, so nothing of that stays.

use std::{io, net::Ipv4Addr, path::Path};

use host::{Error, Result, net};
use model::network::Mac;
use wire::guest::Network;

use crate::root::Root;

/// Sets up the card of `network`, if there is one.
///
/// # Errors
/// Where it is not there or the kernel refuses; `/etc/resolv.conf` is as the image has it then.
pub fn set_up(root: &Root, network: Option<&Network>) -> Result<()> {
    let Some(network) = network else { return Ok(()) };
    card(network)?;
    root.write(Path::new("etc/resolv.conf"), resolver(&network.resolvers).as_bytes(), 0o644)?;
    leave_alone(network)
}

/// Makes the card that is as `before` says one as `network` says.
///
/// # Errors
/// Where it is not there or the kernel refuses.
pub fn change(root: &Root, before: &Network, network: &Network) -> Result<()> {
    // Done before, it has its new address.
    let name = match net::device_of(&before.mac)? {
        Some(name) => name,
        None => net::device_of(&network.mac)?.ok_or_else(missing)?,
    };
    let invalid = || Error::new("understand", &network.mac, io::Error::from(io::ErrorKind::InvalidInput));
    let mac = Mac::parse(&network.mac).ok_or_else(invalid)?;
    let device = net::Device::new(&name, network.address, network.prefix, network.mtu)?;
    net::set_up(&device.with_mac(mac.0))?;
    match net::route_to_world(network.gateway) {
        // It stayed, where the address did.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        routed => routed?,
    }
    root.write(Path::new("etc/resolv.conf"), resolver(&network.resolvers).as_bytes(), 0o644)?;
    leave_alone(network)
}

fn missing() -> Error {
    Error::new("find", "the network card", io::Error::from(io::ErrorKind::NotFound))
}

fn card(network: &Network) -> Result<()> {
    let name = net::device_of(&network.mac)?.ok_or_else(missing)?;
    // Nobody answers IPv6 here, and whoever waits for an answer waits in vain. A kernel may have none.
    let ipv6 = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if host::fs::exists(Path::new(&ipv6)) {
        let fail = |e| Error::path("write", Path::new(&ipv6), e);
        io::Write::write_all(&mut host::fs::open_rw(Path::new(&ipv6))?, b"1").map_err(fail)?;
    }
    net::set_up(&net::Device::new(&name, network.address, network.prefix, network.mtu)?)?;
    net::route_to_world(network.gateway)
}

fn resolver(resolvers: &[Ipv4Addr]) -> String {
    let lines = resolvers.iter().map(|address| format!("nameserver {address}\n"));
    std::iter::once("# Written by banger at every start.\n".to_owned()).chain(lines).collect()
}

/// Tells systemd-networkd that all is as it wants it, and NetworkManager that the card is not its own.
fn leave_alone(network: &Network) -> Result<()> {
    let run = Root::open(Path::new("/run"))?;
    run.write(Path::new("systemd/network/10-banger.network"), networkd(network).as_bytes(), 0o644)?;
    let manager = format!("[keyfile]\nunmanaged-devices=mac:{}\n", network.mac);
    run.write(Path::new("NetworkManager/conf.d/10-banger.conf"), manager.as_bytes(), 0o644)
}

fn networkd(network: &Network) -> String {
    let Network { mac, address, prefix, gateway, mtu, resolvers } = network;
    let dns: String = resolvers.iter().map(|address| format!("DNS={address}\n")).collect();
    format!(
        "[Match]\nMACAddress={mac}\n\n[Link]\nMTUBytes={mtu}\n\n[Network]\nAddress={address}/{prefix}\n\
         Gateway={gateway}\n{dns}LinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networkd_is_told_what_is_so() {
        let network = Network {
            mac: "02:00:00:00:00:07".to_owned(),
            address: Ipv4Addr::new(172, 30, 0, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(172, 30, 0, 1),
            mtu: 1500,
            resolvers: vec![Ipv4Addr::new(172, 30, 0, 1)],
        };
        assert_eq!(
            networkd(&network),
            "[Match]\nMACAddress=02:00:00:00:00:07\n\n[Link]\nMTUBytes=1500\n\n[Network]\nAddress=172.30.0.2/24\n\
             Gateway=172.30.0.1\nDNS=172.30.0.1\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n"
        );
        assert_eq!(
            resolver(&network.resolvers),
            "# Written by banger at every start.\nnameserver 172.30.0.1\n"
        );
    }
}
