//! What the daemon asks of `banger-helper`, which is root, and what that answers.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket, so the kernel keeps messages apart. A request is a closed choice made
//! of ids and small numbers: it has no text, path or name, and all of its bytes mean something. What [`Ask::Jail`] gives a machine comes
//! along as open descriptors, which the helper trusts in nothing; no other request takes any.
//!
//! ```text
//! request   version 1 · kind 1 · operation 16 · what the kind needs
//! answer    version 1 · kind 1 · what the kind needs; what `Sockets` and `Jailed` tell of comes along
//! ```
//! | request | needs | answer |
//! | --- | --- | --- |
//! | [`Ask::EnsureBridge`] | | [`Answer::Done`] |
//! | [`Ask::RemoveBridge`] | | [`Answer::Done`] |
//! | [`Ask::CreateTap`] | VM 6 | [`Answer::Done`] |
//! | [`Ask::RemoveTap`] | VM 6 | [`Answer::Done`] |
//! | [`Ask::ApplyRules`] | VM 6 · host number 2 · group 2 · flags 1 | [`Answer::Done`] |
//! | [`Ask::RemoveRules`] | VM 6 | [`Answer::Done`] |
//! | [`Ask::DnsSockets`] | | [`Answer::Sockets`] |
//! | [`Ask::RouteNames`] | port 2 | [`Answer::Done`] |
//! | [`Ask::UnrouteNames`] | | [`Answer::Done`] |
//! | [`Ask::Status`] | | [`Answer::Status`] |
//! | [`Ask::Jail`] | VM 6 · processors 2 · MiB of memory 4 · flags 1; descriptors | [`Answer::Jailed`] |
//! | [`Ask::FindJailed`] | VM 6 | [`Answer::Jailed`] |
//! | [`Ask::Unjail`] | VM 6 | [`Answer::Done`] |
//! | [`Ask::SignalJailed`] | VM 6 · signal 1 | [`Answer::Done`] |
//!
//! Numbers are big-endian.

use std::{
    fmt,
    net::Ipv4Addr,
    num::{NonZeroU16, NonZeroU32},
};

use model::{OperationId, VmId, signal::Signal};

/// The version of these messages; another one is refused.
pub const VERSION: u8 = 1;
/// The most bytes of a request.
pub const MAX_REQUEST: usize = 64;
/// The most guests of one installation.
pub const MAX_GUESTS: usize = 4096;
/// The most bytes of an answer.
pub const MAX_ANSWER: usize = 10 + 2 * MAX_GUESTS * VM;
/// The most bytes of an answer's text.
pub const MAX_TEXT: usize = 1024;

const HEAD: usize = 18;
const VM: usize = 6;
const NAT: u8 = 1;
const MODULES: u8 = 1;
const CARD: u8 = 2;

/// Something asked of the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For whose sake; it is in the audit log.
    pub operation: OperationId,
    /// What.
    pub ask: Ask,
}

/// All that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The bridge is there with its address, and the rules of all guests.
    EnsureBridge,
    /// Neither the bridge nor any tap nor any rule is there.
    RemoveBridge,
    /// The VM's tap is there, the owner's to open. It lets nothing through before its rules are applied.
    CreateTap(VmId),
    /// The VM's tap is not there.
    RemoveTap(VmId),
    /// These are the VM's rules.
    ApplyRules(Guest),
    /// The VM has no rules, and nothing passes its tap.
    RemoveRules(VmId),
    /// Pass the sockets that guests send their DNS queries to.
    DnsSockets,
    /// Say how things are.
    Status,
    /// Have the host's resolver ask for names of VMs at this port of its loopback.
    RouteNames(NonZeroU16),
    /// The host's resolver asks nobody for names of VMs.
    UnrouteNames,
    /// The VM's Firecracker runs in a jail, with the files that come along, and waits to be told its machine.
    Jail(Jail),
    /// Say which process the VM's jailed Firecracker is.
    FindJailed(VmId),
    /// Neither the VM's jail nor anything in it is there.
    Unjail(VmId),
    /// Send this signal to the VM's jailed Firecracker.
    SignalJailed(VmId, Signal),
}

/// A machine that is to be jailed, as far as its jail depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jail {
    /// Whose.
    pub vm: VmId,
    /// How many processors it has.
    pub processors: NonZeroU16,
    /// How much memory it has.
    pub memory_mib: NonZeroU32,
    /// Whether a disk of modules comes along.
    pub modules: bool,
    /// Whether it has the VM's tap; without it there is no network in its jail.
    pub card: bool,
}

/// What comes along with [`Ask::Jail`], in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailFile {
    /// A pipe that takes what the guest says on its console.
    Console,
    /// The file that takes what Firecracker says itself.
    Log,
    /// The kernel.
    Kernel,
    /// The initramfs.
    Initrd,
    /// The image.
    Image,
    /// The system overlay.
    Overlay,
    /// The work disk.
    Work,
    /// The kernel's modules, where it has any.
    Modules,
}

impl JailFile {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Console,
        Self::Log,
        Self::Kernel,
        Self::Initrd,
        Self::Image,
        Self::Overlay,
        Self::Work,
        Self::Modules,
    ];

    /// What the jailed Firecracker finds it as, in its directory; the console it has as its standard output.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Console => None,
            Self::Log => Some("vmm.log"),
            Self::Kernel => Some("kernel"),
            Self::Initrd => Some("initrd"),
            Self::Image => Some("image"),
            Self::Overlay => Some("overlay"),
            Self::Work => Some("work"),
            Self::Modules => Some("modules"),
        }
    }

    /// Whether the machine writes to it.
    #[must_use]
    pub fn is_written(self) -> bool {
        match self {
            Self::Console | Self::Log | Self::Overlay | Self::Work => true,
            Self::Kernel | Self::Initrd | Self::Image | Self::Modules => false,
        }
    }
}

impl Jail {
    /// What comes along.
    pub fn files(&self) -> impl Iterator<Item = JailFile> + use<> {
        let modules = self.modules;
        JailFile::ALL.into_iter().filter(move |file| modules || *file != JailFile::Modules)
    }
}

/// A guest as the rules see it. Its names, its addresses and the rules follow from this and the helper's own configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest {
    /// Whose.
    pub vm: VmId,
    /// Which address of the subnet it has.
    pub host_number: u16,
    /// The group whose guests see each other.
    pub group: Option<NonZeroU16>,
    /// Whether it reaches the world.
    pub nat: bool,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is so now.
    Done,
    /// A UDP and a TCP socket come along, in this order.
    Sockets,
    /// How things are.
    Status(Status),
    /// The VM's Firecracker runs in its jail. A pidfd of it comes along, and its directory as the owner may use it, in which its
    /// sockets appear.
    Jailed(Jailed),
    /// It was not done, because it must not be.
    Refused(Refusal),
    /// It could not be done; why.
    Failed(String),
}

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The host's address on the bridge, from the helper's own settings.
    pub gateway: Ipv4Addr,
    /// How many bits of it the guests' addresses share.
    pub prefix: u8,
    /// The bridge is there and up.
    pub bridge: bool,
    /// The rules in the kernel are the helper's.
    pub filtered: bool,
    /// The host's resolver was told where to ask for names of VMs.
    pub named: bool,
    /// There are a Firecracker and a jailer that root has put there, so machines can be jailed.
    pub jails: bool,
    /// Whose taps are there.
    pub taps: Vec<VmId>,
    /// Whose rules are applied.
    pub guests: Vec<VmId>,
}

/// A process in a jail, in this boot of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jailed {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start: u64,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Neither root nor the owner asks.
    Stranger,
    /// It is no request of this version.
    Malformed,
    /// It brought other descriptors than it takes.
    Descriptors,
    /// The subnet has no such address for a guest.
    HostNumber,
    /// Another VM has that address.
    AddressTaken,
    /// There are as many guests as there can be.
    TooMany,
    /// The bridge is not there yet.
    NoBridge,
    /// What is to be a disk, or another file of a machine, is not the owner's own plain file in banger's state.
    File,
    /// There are no Firecracker and jailer that only root can have put there.
    NoJailer,
    /// The VM is in no jail.
    NotJailed,
    /// The VM has no tap.
    NoTap,
}

impl Refusal {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::Stranger,
        Self::Malformed,
        Self::Descriptors,
        Self::HostNumber,
        Self::AddressTaken,
        Self::TooMany,
        Self::NoBridge,
        Self::File,
        Self::NoJailer,
        Self::NotJailed,
        Self::NoTap,
    ];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stranger => "only root and the owner may ask",
            Self::Malformed => "it is no request of this version",
            Self::Descriptors => "it brought other descriptors than it takes",
            Self::HostNumber => "the subnet has no such address for a guest",
            Self::AddressTaken => "another VM has that address",
            Self::TooMany => "there are as many guests as there can be",
            Self::NoBridge => "the bridge is not there yet",
            Self::File => "a file of the machine is not the owner's own plain file in banger's state",
            Self::NoJailer => "there are no Firecracker and jailer that only root can have put there",
            Self::NotJailed => "the VM is in no jail",
            Self::NoTap => "the VM has no tap",
        })
    }
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too few or too many.
    #[error("{0} bytes are no message")]
    Length(usize),
    /// Of another version.
    #[error("version {0} of messages is not known")]
    Version(u8),
    /// Of a kind that there is not.
    #[error("kind {0} of messages is not known")]
    Kind(u8),
    /// A value that there is not.
    #[error("a message holds a value that there is not")]
    Value,
}

impl Ask {
    /// What it is called in the audit log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::EnsureBridge => "ensure-bridge",
            Self::RemoveBridge => "remove-bridge",
            Self::CreateTap(_) => "create-tap",
            Self::RemoveTap(_) => "remove-tap",
            Self::ApplyRules(_) => "apply-rules",
            Self::RemoveRules(_) => "remove-rules",
            Self::DnsSockets => "dns-sockets",
            Self::Status => "status",
            Self::RouteNames(_) => "route-names",
            Self::UnrouteNames => "unroute-names",
            Self::Jail(_) => "jail",
            Self::FindJailed(_) => "find-jailed",
            Self::Unjail(_) => "unjail",
            Self::SignalJailed(..) => "signal-jailed",
        }
    }

    /// The VM that it is about.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Self::CreateTap(vm)
            | Self::RemoveTap(vm)
            | Self::RemoveRules(vm)
            | Self::FindJailed(vm)
            | Self::Unjail(vm)
            | Self::SignalJailed(vm, _) => Some(*vm),
            Self::ApplyRules(guest) => Some(guest.vm),
            Self::Jail(jail) => Some(jail.vm),
            Self::EnsureBridge
            | Self::RemoveBridge
            | Self::DnsSockets
            | Self::Status
            | Self::RouteNames(_)
            | Self::UnrouteNames => None,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::EnsureBridge => 0,
            Self::RemoveBridge => 1,
            Self::CreateTap(_) => 2,
            Self::RemoveTap(_) => 3,
            Self::ApplyRules(_) => 4,
            Self::RemoveRules(_) => 5,
            Self::DnsSockets => 6,
            Self::Status => 7,
            Self::RouteNames(_) => 8,
            Self::UnrouteNames => 9,
            Self::Jail(_) => 10,
            Self::FindJailed(_) => 11,
            Self::Unjail(_) => 12,
            Self::SignalJailed(..) => 13,
        }
    }

    /// One of each kind, all about `guest`.
    #[must_use]
    pub fn each(guest: Guest) -> [Self; 14] {
        let (processors, memory_mib) = (NonZeroU16::MIN, NonZeroU32::MIN);
        [
            Self::EnsureBridge,
            Self::RemoveBridge,
            Self::CreateTap(guest.vm),
            Self::RemoveTap(guest.vm),
            Self::ApplyRules(guest),
            Self::RemoveRules(guest.vm),
            Self::DnsSockets,
            Self::Status,
            Self::RouteNames(NonZeroU16::MAX),
            Self::UnrouteNames,
            Self::Jail(Jail { vm: guest.vm, processors, memory_mib, modules: true, card: true }),
            Self::FindJailed(guest.vm),
            Self::Unjail(guest.vm),
            Self::SignalJailed(guest.vm, Signal::Kill),
        ]
    }
}

impl Request {
    /// As a packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.ask.kind()];
        bytes.extend(self.operation.uuid());
        bytes.extend(self.ask.vm().iter().flat_map(|vm| vm.bytes()));
        if let Ask::ApplyRules(guest) = &self.ask {
            bytes.extend(guest.host_number.to_be_bytes());
            bytes.extend(guest.group.map_or(0, NonZeroU16::get).to_be_bytes());
            bytes.push(if guest.nat { NAT } else { 0 });
        }
        if let Ask::RouteNames(port) = &self.ask {
            bytes.extend(port.get().to_be_bytes());
        }
        if let Ask::Jail(jail) = &self.ask {
            bytes.extend(jail.processors.get().to_be_bytes());
            bytes.extend(jail.memory_mib.get().to_be_bytes());
            bytes.push(if jail.modules { MODULES } else { 0 } | if jail.card { CARD } else { 0 });
        }
        if let Ask::SignalJailed(_, signal) = &self.ask {
            let number = Signal::ALL.iter().zip(0..).find(|(other, _)| *other == signal);
            bytes.push(number.map_or(u8::MAX, |(_, number)| number));
        }
        bytes
    }

    /// From a packet.
    ///
    /// # Errors
    /// Where it is none, or more than one.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = open(packet)?;
        let length = Malformed::Length(packet.len());
        let (operation, body) = rest.split_first_chunk::<{ HEAD - 2 }>().ok_or(length)?;
        let (ask, body) = match kind {
            0 => (Ask::EnsureBridge, body),
            1 => (Ask::RemoveBridge, body),
            2..=5 | 10..=13 => {
                let (vm, body) = body.split_first_chunk::<VM>().ok_or(length)?;
                let vm = VmId::from_bytes(*vm);
                match kind {
                    2 => (Ask::CreateTap(vm), body),
                    3 => (Ask::RemoveTap(vm), body),
                    4 => {
                        let (&[n0, n1, g0, g1, flags], body) = body.split_first_chunk().ok_or(length)?;
                        if flags & !NAT != 0 {
                            return Err(Malformed::Value);
                        }
                        let guest = Guest {
                            vm,
                            host_number: u16::from_be_bytes([n0, n1]),
                            group: NonZeroU16::new(u16::from_be_bytes([g0, g1])),
                            nat: flags == NAT,
                        };
                        (Ask::ApplyRules(guest), body)
                    }
                    5 => (Ask::RemoveRules(vm), body),
                    10 => {
                        let (&[p0, p1, m0, m1, m2, m3, flags], body) =
                            body.split_first_chunk().ok_or(length)?;
                        let processors = NonZeroU16::new(u16::from_be_bytes([p0, p1]));
                        let memory_mib = NonZeroU32::new(u32::from_be_bytes([m0, m1, m2, m3]));
                        let jail = Jail {
                            vm,
                            processors: processors.ok_or(Malformed::Value)?,
                            memory_mib: memory_mib.ok_or(Malformed::Value)?,
                            modules: flags & MODULES != 0,
                            card: flags & CARD != 0,
                        };
                        if flags & !(MODULES | CARD) != 0 {
                            return Err(Malformed::Value);
                        }
                        (Ask::Jail(jail), body)
                    }
                    11 => (Ask::FindJailed(vm), body),
                    12 => (Ask::Unjail(vm), body),
                    _ => {
                        let (&[number], body) = body.split_first_chunk().ok_or(length)?;
                        let signal = Signal::ALL.get(usize::from(number)).ok_or(Malformed::Value)?;
                        (Ask::SignalJailed(vm, *signal), body)
                    }
                }
            }
            6 => (Ask::DnsSockets, body),
            7 => (Ask::Status, body),
            8 => {
                let (port, body) = body.split_first_chunk().ok_or(length)?;
                let port = NonZeroU16::new(u16::from_be_bytes(*port)).ok_or(Malformed::Value)?;
                (Ask::RouteNames(port), body)
            }
            9 => (Ask::UnrouteNames, body),
            other => return Err(Malformed::Kind(other)),
        };
        let operation = OperationId::from_uuid(*operation);
        if body.is_empty() { Ok(Self { operation, ask }) } else { Err(length) }
    }
}

impl Answer {
    /// As a packet. A longer text is cut, and so is a longer list.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self {
            Self::Done => bytes.push(0),
            Self::Sockets => bytes.push(1),
            Self::Status(status) => {
                let taps = &status.taps[..status.taps.len().min(MAX_GUESTS)];
                let guests = &status.guests[..status.guests.len().min(MAX_GUESTS)];
                let flags = [status.bridge, status.filtered, status.named, status.jails];
                let flags = flags.iter().zip(0..).map(|(is, bit)| u8::from(*is) << bit).sum();
                bytes.extend([2, flags]);
                bytes.extend(status.gateway.octets());
                bytes.push(status.prefix);
                bytes.extend(u16::try_from(taps.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend(taps.iter().chain(guests).flat_map(|vm| vm.bytes()));
            }
            Self::Refused(refusal) => {
                let code = Refusal::ALL.iter().position(|other| other == refusal);
                bytes.extend([3, code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)]);
            }
            Self::Failed(text) => {
                bytes.push(4);
                bytes.extend(text[..text.floor_char_boundary(MAX_TEXT)].bytes());
            }
            Self::Jailed(Jailed { pid, start }) => {
                bytes.push(5);
                bytes.extend(pid.to_be_bytes());
                bytes.extend(start.to_be_bytes());
            }
        }
        bytes
    }

    /// From a packet.
    ///
    /// # Errors
    /// Where it is none.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, body) = open(packet)?;
        let length = Malformed::Length(packet.len());
        match (kind, body) {
            (0, []) => Ok(Self::Done),
            (1, []) => Ok(Self::Sockets),
            (2, [flags @ 0..=15, a, b, c, d, prefix @ 0..=32, high, low, ids @ ..]) => {
                let taps = usize::from(u16::from_be_bytes([*high, *low])) * VM;
                let (taps, guests) = ids.split_at_checked(taps).ok_or(length)?;
                let taps = vms(taps).ok_or(length)?;
                let guests = vms(guests).ok_or(length)?;
                Ok(Self::Status(Status {
                    gateway: Ipv4Addr::new(*a, *b, *c, *d),
                    prefix: *prefix,
                    bridge: flags & 1 != 0,
                    filtered: flags & 2 != 0,
                    named: flags & 4 != 0,
                    jails: flags & 8 != 0,
                    taps,
                    guests,
                }))
            }
            (2, [_, _, _, _, _, _, _, _, ..]) => Err(Malformed::Value),
            (3, [code]) => {
                Refusal::ALL.get(usize::from(*code)).map(|r| Self::Refused(*r)).ok_or(Malformed::Value)
            }
            (4, text) if text.len() <= MAX_TEXT => {
                let text = str::from_utf8(text).map_err(|_| Malformed::Value)?;
                Ok(Self::Failed(text.to_owned()))
            }
            (5, [p0, p1, p2, p3, start @ ..]) => {
                let start = start.try_into().map(u64::from_be_bytes).map_err(|_| length)?;
                Ok(Self::Jailed(Jailed { pid: u32::from_be_bytes([*p0, *p1, *p2, *p3]), start }))
            }
            (0..=5, _) => Err(length),
            (other, _) => Err(Malformed::Kind(other)),
        }
    }
}

/// The kind of a message and what follows it.
fn open(packet: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    match packet {
        [] | [_] => Err(Malformed::Length(packet.len())),
        [VERSION, kind, rest @ ..] => Ok((*kind, rest)),
        [version, ..] => Err(Malformed::Version(*version)),
    }
}

/// The ids that `bytes` are; `None` where they are none, or too many.
fn vms(bytes: &[u8]) -> Option<Vec<VmId>> {
    let (ids, rest) = bytes.as_chunks::<VM>();
    (rest.is_empty() && ids.len() <= MAX_GUESTS).then(|| ids.iter().map(|id| VmId::from_bytes(*id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let vm = VmId::from_bytes([1, 2, 3, 4, 5, 6]);
        Guest { vm, host_number: 7, group: NonZeroU16::new(9), nat: true }
    }

    fn request(ask: Ask) -> Request {
        Request { operation: OperationId::from_uuid([7; 16]), ask }
    }

    #[test]
    fn every_request_is_read_as_it_was_written_and_at_no_other_length() {
        for ask in Ask::each(guest()) {
            let packet = request(ask).encode();
            assert!(packet.len() <= MAX_REQUEST, "{ask:?}");
            assert_eq!(Request::decode(&packet), Ok(request(ask)));
            for cut in 0..packet.len() {
                assert_eq!(Request::decode(&packet[..cut]), Err(Malformed::Length(cut)), "{ask:?}");
            }
            let more = [&packet[..], &[0]].concat();
            assert_eq!(Request::decode(&more), Err(Malformed::Length(more.len())), "{ask:?}");
        }
    }

    #[test]
    fn what_there_is_not_is_refused() {
        let packet = |at: usize, value: u8| {
            let mut packet = request(Ask::ApplyRules(guest())).encode();
            packet[at] = value;
            Request::decode(&packet)
        };
        assert_eq!(packet(0, 2), Err(Malformed::Version(2)));
        assert_eq!(packet(1, 14), Err(Malformed::Kind(14)));
        assert_eq!(packet(28, 2), Err(Malformed::Value));
        let [.., jail, _, _, signal] = Ask::each(guest());
        for (ask, at, value) in [(jail, 25, 0), (jail, 29, 0), (jail, 30, 4), (signal, 24, 8)] {
            let mut packet = request(ask).encode();
            packet[at] = value;
            assert_eq!(Request::decode(&packet), Err(Malformed::Value), "{at}");
        }
        assert_eq!(Answer::decode(&[VERSION, 3, 99]), Err(Malformed::Value));
        assert_eq!(Answer::decode(&[VERSION, 2, 16, 0, 0, 0, 0, 24, 0, 0]), Err(Malformed::Value));
        assert_eq!(
            Answer::decode(&[VERSION, 2, 0, 0, 0, 0, 0, 24, 0, 2, 1, 1, 1, 1, 1, 1]),
            Err(Malformed::Length(16))
        );
        assert_eq!(Answer::decode(&[VERSION, 2, 0, 0, 0, 0, 0, 33, 0, 0]), Err(Malformed::Value));
        assert_eq!(Answer::decode(&[VERSION, 4, 0xff]), Err(Malformed::Value));
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let vm = |n| VmId::from_bytes([n; 6]);
        let status = Status {
            gateway: Ipv4Addr::new(172, 30, 0, 1),
            prefix: 24,
            bridge: true,
            filtered: true,
            named: true,
            jails: true,
            taps: vec![vm(1), vm(2)],
            guests: vec![vm(2)],
        };
        let many =
            Status { taps: vec![vm(1); MAX_GUESTS + 5], guests: vec![vm(1); MAX_GUESTS], ..status.clone() };
        let refusals = Refusal::ALL.map(Answer::Refused);
        let others =
            [Answer::Done, Answer::Sockets, Answer::Status(status), Answer::Failed("cannot, ä".to_owned())];
        let jailed = Answer::Jailed(Jailed { pid: 4711, start: u64::MAX - 1 });
        for cut in 0..jailed.encode().len() {
            assert!(Answer::decode(&jailed.encode()[..cut]).is_err(), "{cut}");
        }
        let others = others.into_iter().chain([jailed]);
        for answer in others.chain(refusals) {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        let packet = Answer::Status(many).encode();
        assert_eq!(packet.len(), MAX_ANSWER);
        assert!(Answer::decode(&packet).is_ok());
        let long = Answer::Failed("ä".repeat(MAX_TEXT)).encode();
        assert!(Answer::decode(&long).is_ok() && long.len() <= MAX_TEXT + 2);
    }
}
