//! The requests' effects: bridge, taps, rules, and the sockets for names. Each may be asked for again.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use host::links::{self, Link, Links, Passage, Reach};
use model::{
    VmId,
    network::{Subnet, tap},
};
use wire::helper::{Guest, MAX_GUESTS, Refusal, Status};

use crate::{
    filter::{Applied, Filter, FilterError},
    install::Install,
    names::{Names, NamesError},
    places::Places,
    rules::{self, Others, tap_owner},
    state::Guests,
};

/// The port of DNS.
const DNS: u16 = 53;
/// How often all of the rules are made anew where somebody else changes rules at the same time.
const ATTEMPTS: usize = 5;
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It must not be.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The kernel does not.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The rules cannot be made.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Something else is there.
    #[error("{0} is there and is not banger's")]
    Foreign(String),
    /// The subnet is another's.
    #[error(
        "the subnet {subnet} overlaps with the route to {route}: choose another `subnet` in install.toml"
    )]
    Clash {
        /// Ours.
        subnet: String,
        /// Whose.
        route: String,
    },
    /// The host's resolver cannot be told of names.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// Others change rules all the time.
    #[error("others change the host's rules without end")]
    Disturbed,
    /// A socket cannot be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
}

impl From<Refusal> for NetworkError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The network of an installation.
#[derive(Debug)]
pub struct Network {
    install: Install,
    links: Links,
    filter: Filter,
    guests: Guests,
    /// Whether the rules in the kernel are ours.
    filtered: bool,
    /// Says that the host forwards packets only since banger wants it.
    forwarding: PathBuf,
    names: Names,
}

impl Network {
    /// Takes over what there is: rules of guests that are known are made anew, and without them no tap lets anything through.
    ///
    /// # Errors
    /// Where the kernel or nft cannot be used at all.
    pub fn open(install: Install, places: &Places) -> Result<Self, NetworkError> {
        let mut network = Self {
            install,
            links: Links::open()?,
            filter: Filter::open()?,
            guests: Guests::read(places.guests())?,
            filtered: false,
            forwarding: places.forwarding(),
            names: Names::read(places)?,
        };
        if network.bridge()?.is_some() {
            // Where it fails the taps are down, and it is tried again.
            let _ = network.restore();
        }
        Ok(network)
    }

    /// Whether there are rules to be made anew.
    #[must_use]
    pub fn is_broken(&mut self) -> bool {
        !self.filtered && self.has_bridge()
    }

    fn has_bridge(&mut self) -> bool {
        self.bridge().is_ok_and(|bridge| bridge.is_some())
    }

    /// Looks whether somebody touched the rules, and makes them anew where that is so.
    ///
    /// # Errors
    /// Where that fails; no tap lets anything through then.
    pub fn look_after(&mut self) -> Result<Looked, NetworkError> {
        let touched = self.filter.disturbed().unwrap_or(true);
        if (!touched && self.filtered) || !self.has_bridge() {
            return Ok(Looked::Fine);
        }
        self.restore()?;
        Ok(Looked::Restored)
    }

    /// Sets the taps down, makes all rules, and sets the taps up that have rules.
    fn restore(&mut self) -> Result<(), NetworkError> {
        self.filtered = false;
        for port in self.taps()? {
            self.links.set(&port, Passage::Down)?;
        }
        self.make_all()?;
        for port in self.taps()? {
            self.open_tap(&port)?;
        }
        Ok(())
    }

    /// Makes all rules, in one transaction that nobody disturbs.
    fn make_all(&mut self) -> Result<(), NetworkError> {
        let others =
            if host::fs::exists(&self.forwarding) { Others::NotForwarded } else { Others::Untouched };
        for _ in 0..ATTEMPTS {
            let text = rules::whole(&self.install, self.guests.iter(), others);
            // It replaces whatever somebody did to the tables before.
            let _ = self.filter.disturbed()?;
            if self.filter.apply(&text)? == Applied::Alone {
                self.filtered = true;
                return Ok(());
            }
        }
        Err(NetworkError::Disturbed)
    }

    fn bridge(&mut self) -> Result<Option<Link>, NetworkError> {
        match self.links.find(&self.install.bridge)? {
            Some(link) if link.kind != "bridge" => Err(NetworkError::Foreign(link.name)),
            found => Ok(found),
        }
    }

    fn taps(&mut self) -> Result<Vec<Link>, NetworkError> {
        let links = self.links.list()?;
        Ok(links.into_iter().filter(|link| tap_owner(&link.name).is_some() && link.kind == "tun").collect())
    }

    fn tap(&mut self, vm: VmId) -> Result<Option<Link>, NetworkError> {
        match self.links.find(&tap(vm))? {
            Some(link) if link.kind != "tun" => Err(NetworkError::Foreign(link.name)),
            found => Ok(found),
        }
    }

    /// Lets `port` through, where it has rules; among the others only where it is in a group.
    fn open_tap(&mut self, port: &Link) -> Result<(), NetworkError> {
        let guest = tap_owner(&port.name).and_then(|vm| self.guests.get(vm).copied());
        let Some(guest) = guest.filter(|_| self.filtered) else { return Ok(()) };
        let reach = if guest.group.is_some() { Reach::All } else { Reach::Alone };
        self.links.reach(port, reach)?;
        Ok(self.links.set(port, Passage::Up)?)
    }

    /// The bridge is there, up, with its address and all rules.
    ///
    /// # Errors
    /// Where the subnet is another's, or it cannot be made; a part of it may be there then.
    pub fn ensure_bridge(&mut self) -> Result<(), NetworkError> {
        let bridge = match self.bridge()? {
            Some(bridge) => bridge,
            None => {
                self.check_subnet()?;
                self.links.add_bridge(&self.install.bridge, self.install.mac().0)?;
                let made = self.bridge()?;
                made.ok_or_else(|| NetworkError::Foreign(self.install.bridge.clone()))?
            }
        };
        if !self.filtered {
            self.restore()?;
        }
        let own = (self.install.gateway(), self.install.subnet.prefix());
        if !self.links.addresses(&bridge)?.contains(&own) {
            self.links.add_address(&bridge, own.0, own.1)?;
        }
        without_ipv6(&self.install.bridge);
        self.links.set(&bridge, Passage::Up)?;
        // The bridge is what was asked for; names are looked after.
        let _ = self.names.say(&mut self.links, &bridge);
        Ok(())
    }

    /// The host's resolver asks at `port` of the loopback for names of guests; where it cannot be told now, it is later.
    ///
    /// # Errors
    /// Where there is no bridge, or no resolver that takes it.
    pub fn route_names(&mut self, port: NonZeroU16) -> Result<(), NetworkError> {
        let bridge = self.bridge()?.ok_or(Refusal::NoBridge)?;
        self.names.want(Some(port))?;
        Ok(self.names.say(&mut self.links, &bridge)?)
    }

    /// The host's resolver asks nobody for names of guests.
    ///
    /// # Errors
    /// Where it does not take that.
    pub fn unroute_names(&mut self) -> Result<(), NetworkError> {
        let bridge = self.bridge()?;
        Ok(self.names.unsay(&mut self.links, bridge.as_ref())?)
    }

    /// Whether somebody wants names, so that a resolver that came back is to be told.
    #[must_use]
    pub fn wants_names(&self) -> bool {
        self.names.are_wanted()
    }

    /// Tells a resolver that came back of names.
    ///
    /// # Errors
    /// Where it does not take it; that there is none is fine.
    pub fn keep_names(&mut self) -> Result<(), NetworkError> {
        let Some(bridge) = self.bridge()?.filter(|_| self.names.are_wanted()) else { return Ok(()) };
        match self.names.say(&mut self.links, &bridge) {
            Err(NamesError::NoResolver) => Ok(()),
            other => Ok(other?),
        }
    }

    fn check_subnet(&mut self) -> Result<(), NetworkError> {
        let own = self.install.subnet;
        let clash = self.links.routes()?.into_iter().find(|route| {
            let other = Subnet::of(route.destination, route.prefix);
            route.prefix > 0 && (own.holds(other) || other.holds(own))
        });
        match clash {
            None => Ok(()),
            Some(route) => Err(NetworkError::Clash {
                subnet: own.to_string(),
                route: Subnet::of(route.destination, route.prefix).to_string(),
            }),
        }
    }

    /// Neither bridge nor taps nor rules are there, and the host forwards packets only if it did before.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn remove_bridge(&mut self) -> Result<(), NetworkError> {
        for port in self.taps()? {
            self.links.remove(&port)?;
        }
        // With the bridge goes what the resolver knows of it.
        self.names.unsay(&mut self.links, None)?;
        if let Some(bridge) = self.bridge()? {
            self.links.remove(&bridge)?;
        }
        self.guests.clear()?;
        self.filtered = false;
        self.filter.apply(&rules::removal())?;
        if host::fs::exists(&self.forwarding) {
            host::fs::set_value(Path::new(IP_FORWARD), "0")?;
            host::fs::remove(&self.forwarding)?;
        }
        Ok(())
    }

    /// The tap of `vm` is there. It is up only where its rules are applied.
    ///
    /// # Errors
    /// Where there is no bridge, too many taps, or something else of that name.
    pub fn create_tap(&mut self, vm: VmId) -> Result<(), NetworkError> {
        let bridge = self.bridge()?.ok_or(Refusal::NoBridge)?;
        let port = match self.tap(vm)? {
            Some(port) => port,
            None => {
                if self.taps()?.len() >= MAX_GUESTS {
                    return Err(Refusal::TooMany.into());
                }
                links::add_tap(&tap(vm), self.install.owner)?;
                without_ipv6(&tap(vm));
                self.tap(vm)?.ok_or_else(|| NetworkError::Foreign(tap(vm)))?
            }
        };
        if port.bridge != Some(bridge.index) {
            self.links.attach(&port, &bridge)?;
            self.links.reach(&port, Reach::Alone)?;
        }
        self.open_tap(&port)
    }

    /// The tap of `vm` is `uid`'s to open, who nobody else is.
    ///
    /// # Errors
    /// Where there is none, or somebody has it open.
    pub fn lend_tap(&mut self, vm: VmId, uid: u32) -> Result<(), NetworkError> {
        let port = self.tap(vm)?.ok_or(Refusal::NoTap)?;
        Ok(links::give_tap(&port.name, uid)?)
    }

    /// The tap of `vm` is not there.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove_tap(&mut self, vm: VmId) -> Result<(), NetworkError> {
        match self.tap(vm)? {
            Some(port) => Ok(self.links.remove(&port)?),
            None => Ok(()),
        }
    }

    /// These are the guest's rules, and its tap lets through what they say.
    ///
    /// # Errors
    /// Where its address is none or another's, or the rules cannot be made.
    pub fn apply_rules(&mut self, guest: Guest) -> Result<(), NetworkError> {
        self.install.address(guest.host_number)?;
        self.guests.admits(&guest)?;
        if self.bridge()?.is_none() {
            return Err(Refusal::NoBridge.into());
        }
        if guest.nat {
            self.let_forward()?;
        }
        self.replace(guest.vm, Some(guest))?;
        match self.tap(guest.vm)? {
            Some(port) => self.open_tap(&port),
            None => Ok(()),
        }
    }

    /// The VM has no rules, and nothing passes its tap.
    ///
    /// # Errors
    /// Where the rules cannot be changed; its tap is down all the same.
    pub fn remove_rules(&mut self, vm: VmId) -> Result<(), NetworkError> {
        if let Some(port) = self.tap(vm)? {
            self.links.set(&port, Passage::Down)?;
        }
        if self.guests.get(vm).is_none() {
            return Ok(());
        }
        self.replace(vm, None)
    }

    fn replace(&mut self, vm: VmId, after: Option<Guest>) -> Result<(), NetworkError> {
        let before = self.guests.get(vm).copied();
        self.guests.set(vm, after)?;
        if !self.filtered {
            return self.restore();
        }
        let text = rules::change(&self.install, before.as_ref(), after.as_ref(), self.guests.iter());
        if text.is_empty() {
            return Ok(());
        }
        match self.filter.apply(&text) {
            Ok(Applied::Alone) => Ok(()),
            Ok(Applied::Disturbed) | Err(FilterError::Refused(_)) => self.restore(),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the host forward packets. Where it did not before, from now on it does only those of guests.
    fn let_forward(&mut self) -> Result<(), NetworkError> {
        if host::fs::read_text(Path::new(IP_FORWARD))?.trim() == "1" {
            return Ok(());
        }
        host::fs::write_atomic(&self.forwarding, b"")?;
        self.make_all()?;
        Ok(host::fs::set_value(Path::new(IP_FORWARD), "1")?)
    }

    /// A UDP and a TCP socket at the gateway's port for names.
    ///
    /// # Errors
    /// Where there is no bridge, or somebody else has the port.
    pub fn dns_sockets(&mut self) -> Result<[OwnedFd; 2], NetworkError> {
        if self.bridge()?.is_none() {
            return Err(Refusal::NoBridge.into());
        }
        let address = SocketAddr::from((self.install.gateway(), DNS));
        let error = |cause| NetworkError::Bind { address, cause };
        Ok([
            UdpSocket::bind(address).map_err(error)?.into(),
            TcpListener::bind(address).map_err(error)?.into(),
        ])
    }

    /// How things are.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn status(&mut self) -> Result<Status, NetworkError> {
        let bridge = self.bridge()?;
        Ok(Status {
            gateway: self.install.gateway(),
            prefix: self.install.subnet.prefix(),
            named: bridge.as_ref().is_some_and(|bridge| self.names.are_said(bridge)),
            jails: false,
            bridge: bridge.is_some_and(|bridge| bridge.up),
            filtered: self.filtered,
            taps: self.taps()?.iter().filter_map(|port| tap_owner(&port.name)).take(MAX_GUESTS).collect(),
            guests: self.guests.iter().map(|guest| guest.vm).collect(),
        })
    }
}

/// Has the host say nothing on `link` by itself. Where the kernel has no IPv6 there is nothing to switch off.
fn without_ipv6(link: &str) {
    let _ = host::fs::set_value(&Path::new(IPV6).join(link).join("disable_ipv6"), "1");
}

/// What a look after the rules found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// They are ours, or there are none to be.
    Fine,
    /// Somebody had touched them.
    Restored,
}

impl AsFd for Network {
    /// Readable where there is something to look after.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.filter.as_fd()
    }
}
