//! The names of VMs on the bridge: they follow the records, and the server that tells them runs as long as the daemon.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    num::NonZeroU16,
    time::Duration,
};

use model::{
    VmName,
    config::Resolvers,
    network::{Link, Subnet},
    vm::State,
};
use store::VmNews;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wire::helper::Ask;

use super::{Helper, HelperError};
use crate::{
    chain,
    config::host_resolvers,
    dns::{Machine, Names, Server, Side, Upstream},
};

/// Before the sockets for guests are asked for again: at first, and at most.
const AGAIN: Duration = Duration::from_secs(1);
const AT_MOST: Duration = Duration::from_secs(30);

/// Who is asked for the names of the world: those that the settings name, else whom this host asks.
pub fn upstream(set: Option<Resolvers>) -> Upstream {
    let resolvers = set.or_else(host_resolvers);
    Upstream::of(resolvers.map(|resolvers| resolvers.addresses().to_vec()).unwrap_or_default())
}

/// Lets `names` be what `news` say, where VMs are on a bridge with this `subnet`.
pub fn follow(names: &Names, subnet: Subnet, news: &VmNews) {
    let Ok(name) = VmName::try_from(news.name.as_str()) else { return };
    let network = news.network;
    let number = network.number.filter(|_| network.link == Some(Link::Bridge));
    let machine = number.and_then(|number| subnet.guest(number)).map(|address| Machine {
        address,
        group: network.group,
        nat: network.nat,
    });
    match (news.state, machine) {
        (Some(State::Running), Some(machine)) => names.set(&name, machine),
        (Some(State::Starting), Some(machine)) => names.admit(&name, machine),
        (
            Some(
                State::Created
                | State::Starting
                | State::Running
                | State::Stopping
                | State::Stopped
                | State::Error
                | State::Deleting,
            )
            | None,
            _,
        ) => names.remove(&name),
    }
}

/// Tells `names` at the loopback's `port`, the world's by `upstream`, and to guests as soon as the helper makes the bridge with `subnet` and gives the sockets
/// for that. Ends with its task, or where `stop` says so: then the host's resolver asks nobody any longer.
pub async fn serve(
    names: Names,
    upstream: Upstream,
    helper: Helper,
    subnet: Subnet,
    port: u16,
    stop: CancellationToken,
) {
    let mut server = Server::new(names, upstream);
    let for_host =
        at_loopback(port).and_then(|(datagrams, streams)| server.serve(Side::Host, datagrams, streams));
    let at = match for_host {
        Ok(()) => NonZeroU16::new(port),
        Err(error) => {
            tracing::warn!(
                port,
                error = chain(&error),
                "this host is not told the names of VMs: `dns_port` chooses another port"
            );
            None
        }
    };
    if stop.run_until_cancelled(tell_guests(&mut server, &helper, subnet)).await.is_some() {
        if let Some(at) = at {
            // From now on the helper sees to it, also where there is no resolver yet that could be told.
            ask(&helper, Ask::RouteNames(at)).await;
        }
        stop.cancelled().await;
    }
    if at.is_some() {
        // Also what a daemon had it told that had no time for this.
        ask(&helper, Ask::UnrouteNames).await;
    }
}

/// Has `server` tell guests, as soon as the helper lets it.
async fn tell_guests(server: &mut Server, helper: &Helper, subnet: Subnet) {
    let (mut pause, mut told) = (AGAIN, String::new());
    loop {
        let asked = helper.clone();
        let given = tokio::task::spawn_blocking(move || for_guests(&asked, subnet)).await;
        let served = match given {
            Ok(Ok((datagrams, streams))) => {
                server.serve(Side::Guests, datagrams, streams).map_err(|error| chain(&error))
            }
            Ok(Err(error)) => Err(chain(&error)),
            // The daemon ends.
            Err(_) => return,
        };
        match served {
            Ok(()) => return,
            Err(why) if why != told => {
                tracing::warn!(error = why, "guests on the bridge are not told names yet");
                told = why;
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (2 * pause).min(AT_MOST);
    }
}

/// Asks the helper for something about this host's resolver, which there need not be.
async fn ask(helper: &Helper, what: Ask) {
    let helper = helper.clone();
    let asked = tokio::task::spawn_blocking(move || helper.done(helper.own(), what)).await;
    if let Ok(Err(error)) = asked {
        tracing::info!(error = chain(&error), "this host's resolver is not as it should be for names of VMs");
    }
}

fn at_loopback(port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    unblocked(UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?, TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)
}

fn for_guests(helper: &Helper, subnet: Subnet) -> Result<(UdpSocket, TcpListener), HelperError> {
    helper.ensure_bridge(helper.own(), subnet)?;
    let [datagrams, streams] = helper.dns_sockets(helper.own())?;
    unblocked(datagrams.into(), streams.into())
        .map_err(|error| HelperError::Reach(host::Error::new("use", "the sockets for names", error)))
}

fn unblocked(datagrams: UdpSocket, streams: TcpListener) -> io::Result<(UdpSocket, TcpListener)> {
    datagrams.set_nonblocking(true)?;
    streams.set_nonblocking(true)?;
    Ok((datagrams, streams))
}

#[cfg(test)]
mod tests {
    use model::{
        VmId,
        network::{BRIDGE_SUBNET, Nat, Network},
    };
    use wire::dns::{Finding, Subject};

    use super::*;
    use crate::dns::Told;

    #[test]
    fn names_are_those_of_vms_that_run_on_the_bridge() {
        let names = Names::default();
        let told = |state, link, number| {
            let network = Network { nat: Nat::On, link, number, ..Network::default() };
            let id = VmId::from_bytes([1; 6]);
            let news = VmNews { id, name: "dev".to_owned(), state, reason: None, network };
            follow(&names, BRIDGE_SUBNET, &news);
            let found = names.tell_host(&Subject::Machine("dev".to_owned()));
            let guest = names.guest(Ipv4Addr::new(172, 30, 0, 7).into()).is_some();
            (found != Told::Finding(Finding::Missing), guest)
        };
        let bridge = Some(Link::Bridge);
        for (state, link, number, expect) in [
            (Some(State::Created), None, Some(7), (false, false)),
            (Some(State::Starting), bridge, Some(7), (false, true)),
            (Some(State::Running), bridge, Some(7), (true, true)),
            (Some(State::Stopping), bridge, Some(7), (false, false)),
            (Some(State::Running), Some(Link::Namespace), Some(7), (false, false)),
            (Some(State::Running), bridge, None, (false, false)),
            (Some(State::Running), bridge, Some(255), (false, false)),
            (Some(State::Running), bridge, Some(7), (true, true)),
            (None, bridge, Some(7), (false, false)),
        ] {
            assert_eq!(told(state, link, number), expect, "{state:?} {link:?} {number:?}");
        }
    }
}
