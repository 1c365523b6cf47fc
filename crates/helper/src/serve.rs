//! The socket: who may ask, one request after the other, each noted.
//!
//! ```text
//! accept ──▶ peer is root or the owner? ── no ──▶ told so, noted, closed
//!                 │ yes
//!                 ▼
//!            packet ──▶ whole, of this version, no descriptors but a jail's? ── no ──▶ refused, noted
//!                 │ yes
//!                 ▼
//!            noted ──▶ done ──▶ noted ──▶ answered
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use host::{
    chain,
    packet::{PacketListener, Packets},
    proc::{begin_clean, own_uid},
    sock::Peer,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use wire::helper::{Answer, Ask, MAX_REQUEST, Refusal, Request, Status};

use crate::{
    audit::Audit,
    install::{Install, InstallError},
    jail::{Handed, JailError, Jails},
    network::{Looked, Network, NetworkError},
    places::Places,
};

/// As many may be connected; the daemon needs one.
const CONNECTIONS: usize = 16;
/// When rules that could not be made are tried again.
const AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How often it is looked whether the host's resolver came back, while it is to know names.
const LOOK: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Why the helper ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It is not root.
    #[error("this program does what only root can do; `sudo banger system install` starts it")]
    NotRoot,
    /// There is no installation.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The network cannot be managed at all.
    #[error("cannot manage the network")]
    Network(#[source] Box<NetworkError>),
    /// Something of the host.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// Serves until it is killed.
///
/// # Errors
/// Where it cannot begin, or the log of requests cannot be written.
pub fn run(places: &Places) -> Result<(), ServeError> {
    let mut inherited = begin_clean()?;
    if own_uid() != 0 {
        return Err(ServeError::NotRoot);
    }
    let install = Install::read(&places.install)?;
    host::fs::private_dir(&places.log)?;
    if inherited.listener.is_none() {
        // Nobody but root gets into the directory before the socket is the owner's.
        host::fs::private_dir(&places.runtime)?;
    }
    let audit = Audit::open(places.audit())?;
    let owner = install.owner;
    let jails = Jails::new(owner, install.jail_uids.clone(), places);
    let network = Network::open(install, places).map_err(|e| ServeError::Network(Box::new(e)))?;
    let listener = match inherited.listener.take() {
        Some(descriptor) => PacketListener::from_descriptor(descriptor),
        None => bind(places, owner)?,
    };
    host::fs::restrict(&places.runtime, 0o711)?;
    inherited.ready()?;
    Server { owner, audit, network, jails, connections: Vec::new(), cut_off: None, unnamed: None }
        .serve(&listener)
}

fn bind(places: &Places, owner: u32) -> Result<PacketListener, ServeError> {
    let path = places.socket();
    host::fs::remove(&path)?;
    let listener = PacketListener::bind(&path)?;
    host::fs::give(&path, owner)?;
    Ok(listener)
}

#[derive(Debug)]
struct Server {
    owner: u32,
    audit: Audit,
    network: Network,
    jails: Jails,
    connections: Vec<(Packets, Peer)>,
    /// Why the rules could not be made the last time, so that it is noted once.
    cut_off: Option<String>,
    /// Why the resolver could not be told of names the last time, so that it is noted once.
    unnamed: Option<String>,
}

impl Server {
    fn serve(mut self, listener: &PacketListener) -> Result<(), ServeError> {
        loop {
            let ready = self.wait(listener)?;
            self.look_after()?;
            let mut ready = ready.into_iter();
            let is_asked = ready.next().unwrap_or(false);
            let waiting: Vec<bool> = ready.collect();
            let connections = std::mem::take(&mut self.connections);
            for (number, (connection, peer)) in connections.into_iter().enumerate() {
                if !waiting.get(number).copied().unwrap_or(false) || self.answer(&connection, peer)? {
                    self.connections.push((connection, peer));
                }
            }
            if is_asked {
                self.admit(listener)?;
            }
        }
    }

    /// Waits until there is something to do; tells whether somebody connects, and which connections have something.
    fn wait(&mut self, listener: &PacketListener) -> Result<Vec<bool>, ServeError> {
        let look = self.network.wants_names().then_some(&LOOK);
        let again = if self.network.is_broken() { Some(&AGAIN) } else { look };
        let mut fds = vec![PollFd::new(&self.network, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        fds.extend(self.connections.iter().map(|(connection, _)| PollFd::new(connection, PollFlags::IN)));
        match poll(&mut fds, again) {
            Ok(_) => Ok(fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(host::Error::new("wait for", "requests", e).into()),
        }
    }

    /// Makes rules anew that somebody touched.
    fn look_after(&mut self) -> Result<(), ServeError> {
        let own = Peer { uid: own_uid(), pid: std::process::id() };
        let looked = self.network.look_after();
        let cut_off = looked.as_ref().err().map(|error| format!("guests are cut off: {}", chain(error)));
        if let Ok(Looked::Restored) = looked {
            self.audit.note(own, "the rules were not ours any longer; they are made anew")?;
        }
        if let Some(why) = cut_off.as_deref().filter(|_| cut_off != self.cut_off) {
            self.audit.note(own, why)?;
        }
        self.cut_off = cut_off;
        let unnamed = self.network.keep_names().err();
        let unnamed = unnamed.map(|error| format!("the resolver does not know of names: {}", chain(&error)));
        if let Some(why) = unnamed.as_deref().filter(|_| unnamed != self.unnamed) {
            self.audit.note(own, why)?;
        }
        self.unnamed = unnamed;
        Ok(())
    }

    fn admit(&mut self, listener: &PacketListener) -> Result<(), ServeError> {
        // Who connected may be gone again.
        let Ok(connection) = listener.accept() else { return Ok(()) };
        let peer = connection.peer()?;
        if !may_ask(peer.uid, self.owner) {
            let _ = connection.send(&Answer::Refused(Refusal::Stranger).encode(), &[]);
            return Ok(self.audit.note(peer, "refused: a stranger")?);
        }
        if self.connections.len() >= CONNECTIONS {
            // The oldest makes place: who has many has none to lose.
            self.connections.remove(0);
        }
        self.connections.push((connection, peer));
        Ok(())
    }

    /// Answers the next packet; tells whether the connection goes on.
    fn answer(&mut self, connection: &Packets, peer: Peer) -> Result<bool, ServeError> {
        let packet = match connection.receive(MAX_REQUEST) {
            Ok(Some(packet)) => packet,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
            Ok(None) | Err(_) => return Ok(false),
        };
        let request = match Request::decode(&packet.bytes) {
            _ if !packet.whole => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::Malformed),
            Ok(request) => match request.ask {
                Ask::Jail(_) => Ok(request),
                _ if packet.descriptors.is_empty() => Ok(request),
                _ => Err(Refusal::Descriptors),
            },
        };
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                self.audit.note(peer, &format!("refused: {refusal}"))?;
                return Ok(connection.send(&Answer::Refused(refusal).encode(), &[]).is_ok());
            }
        };
        self.audit.asked(peer, &request)?;
        let (answer, passed) =
            self.act(request.ask, packet.descriptors).unwrap_or_else(|answer| (answer, Vec::new()));
        self.audit.answered(peer, &request, &answer)?;
        let passed: Vec<BorrowedFd<'_>> = passed.iter().map(AsFd::as_fd).collect();
        Ok(connection.send(&answer.encode(), &passed).is_ok())
    }

    /// Does what is asked, with what came along; what is answered, and what goes along with that.
    fn act(&mut self, ask: Ask, given: Vec<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>), Answer> {
        let handed = |Handed { process, descriptors }| (Answer::Jailed(process), descriptors.into());
        let (network, jails) = (&mut self.network, &mut self.jails);
        match ask {
            Ask::EnsureBridge => network.ensure_bridge()?,
            Ask::RemoveBridge => network.remove_bridge()?,
            Ask::CreateTap(vm) => network.create_tap(vm)?,
            Ask::RemoveTap(vm) => network.remove_tap(vm)?,
            Ask::ApplyRules(guest) => network.apply_rules(guest)?,
            Ask::RemoveRules(vm) => network.remove_rules(vm)?,
            Ask::RouteNames(port) => network.route_names(port)?,
            Ask::UnrouteNames => network.unroute_names()?,
            Ask::DnsSockets => return Ok((Answer::Sockets, network.dns_sockets()?.into())),
            Ask::Status => {
                let status = Status { jails: jails.are_possible(), ..network.status()? };
                return Ok((Answer::Status(status), Vec::new()));
            }
            Ask::Jail(jail) => return Ok(handed(jails.jail(jail, given, network)?)),
            Ask::FindJailed(vm) => return Ok(handed(jails.find_jailed(vm)?)),
            Ask::Unjail(vm) => jails.unjail(vm)?,
            Ask::SignalJailed(vm, signal) => jails.signal(vm, signal)?,
        }
        Ok((Answer::Done, Vec::new()))
    }
}

impl From<NetworkError> for Answer {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Refused(refusal) => Self::Refused(refusal),
            error => Self::Failed(chain(&error)),
        }
    }
}

impl From<JailError> for Answer {
    fn from(error: JailError) -> Self {
        match error {
            JailError::Refused(refusal) => Self::Refused(refusal),
            error => Self::Failed(chain(&error)),
        }
    }
}

/// Whether somebody with `uid` may ask, where the installation is `owner`'s.
#[must_use]
pub fn may_ask(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_owner_may_ask() {
        for (uid, may) in
            [(0, true), (1000, true), (999, false), (1001, false), (65534, false), (u32::MAX, false)]
        {
            assert_eq!(may_ask(uid, 1000), may, "{uid}");
        }
    }
}
