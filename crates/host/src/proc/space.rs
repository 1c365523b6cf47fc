//! Namespaces of children: a network of its own for a machine, or that of another child, or mounts of its own.
//!
//! ```text
//! Command::with_tap        the child makes a user and a network namespace, a tap in it, and has no privilege when it executes
//! Command::with_named_tap  the same; it opens the tap itself
//! Command::inside          the child enters those of another one, and may change the network there and nothing else
//! Command::jailed          the child has mounts of its own that nobody else sees, and mostly a network without any device
//! ```
//! No privilege is needed for the first three where the kernel lets users make namespaces. What runs between fork and exec allocates
//! nothing.

use std::{
    ffi::{CString, c_int, c_ulong},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use super::{Command, ProcessId};
use crate::{
    Error, Result,
    mounts::Mount,
    net::{self, Device},
};

/// What a child did last when it could not go on; the number is part of what it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Execute = 0,
    Namespaces = 1,
    Identity = 2,
    Tap = 3,
    Device = 4,
    Forwarding = 5,
    Privileges = 6,
    Enter = 7,
    Mounts = 8,
}

impl Stage {
    const ALL: [Self; 9] = [
        Self::Execute,
        Self::Namespaces,
        Self::Identity,
        Self::Tap,
        Self::Device,
        Self::Forwarding,
        Self::Privileges,
        Self::Enter,
        Self::Mounts,
    ];

    /// One number that tells what failed and how.
    pub(super) fn report(self, errno: c_int) -> [u8; 4] {
        ((self as c_int) << 16 | errno & 0xffff).to_ne_bytes()
    }

    /// What a child that reported `bytes` was doing, and what the kernel said.
    pub(super) fn read(bytes: [u8; 4]) -> (&'static str, io::Error) {
        let number = c_int::from_ne_bytes(bytes);
        let stage = Self::ALL.into_iter().find(|stage| *stage as c_int == number >> 16);
        let error = io::Error::from_raw_os_error(number & 0xffff);
        (stage.unwrap_or(Self::Execute).action(), error)
    }

    fn action(self) -> &'static str {
        match self {
            Self::Execute => "start",
            Self::Namespaces => "make user and network namespaces for",
            Self::Identity => "map the user into the namespace of",
            Self::Tap => "make a tap (/dev/net/tun) for",
            Self::Device => "set up the tap of",
            Self::Forwarding => "turn on forwarding in the namespace of",
            Self::Privileges => "drop the privileges of",
            Self::Enter => "enter the namespaces for",
            Self::Mounts => "put files into the jail of",
        }
    }
}

/// The namespaces of a process, kept as long as this.
#[derive(Debug)]
pub struct Namespaces {
    user: OwnedFd,
    net: OwnedFd,
}

impl Namespaces {
    /// Those of process `id`; `None` where it is gone.
    ///
    /// # Errors
    /// Where they may not be looked at.
    pub fn of(id: &ProcessId) -> Result<Option<Self>> {
        let open = |name: &str| -> Result<OwnedFd> {
            let path = format!("/proc/{}/ns/{name}", id.pid);
            let file = File::open(&path).map_err(|e| Error::new("open", &path, e))?;
            Ok(file.into())
        };
        let opened = open("user").and_then(|user| Ok(Self { user, net: open("net")? }));
        // Whoever enters must never change the network that this process itself is in.
        let own = rustix::fs::stat("/proc/self/ns/net").map(|stat| stat.st_ino);
        let opened = opened.and_then(|namespaces| {
            let theirs = rustix::fs::fstat(&namespaces.net).map(|stat| stat.st_ino);
            match (own, theirs) {
                (Ok(own), Ok(theirs)) if own != theirs => Ok(namespaces),
                _ => Err(Error::new("enter the network of", id, io::Error::other("it has none of its own"))),
            }
        });
        // A pid that was still its own afterwards was its own when they were opened.
        match (opened, id.open()?) {
            (_, None) => Ok(None),
            (opened, Some(_)) => opened.map(Some),
        }
    }
}

/// Namespaces that a child makes.
#[derive(Debug)]
pub(super) struct Own {
    device: Device,
    /// The number that the open tap is to have; without one the child opens it by its name.
    tap: Option<RawFd>,
    users: CString,
    groups: CString,
}

/// Where a child runs.
#[derive(Debug)]
pub(super) enum Space {
    /// Where its parent does.
    Same,
    /// In namespaces of its own.
    Own(Own),
    /// In another child's.
    Others(Namespaces),
    /// With mounts of its own, each at its place, and on this network.
    Jailed(Vec<(OwnedFd, CString)>, Devices),
}

/// What a jailed child sees of the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// All of it, for it has a tap there.
    Hosts,
    /// None.
    None,
}

impl Command {
    /// Runs it in a user and a network namespace of its own, with a tap that is set up as `device`; says which number the open tap
    /// has for it. It executes without any privilege, also over its own namespaces, and the namespaces live as long as it.
    ///
    /// # Errors
    /// Where there can be no more descriptors.
    pub fn with_tap(&mut self, device: Device) -> Result<RawFd> {
        // Keeps the number, until the child puts the tap there.
        let place = File::open("/dev/null").map_err(|e| Error::new("open", "/dev/null", e))?;
        let tap = self.pass(place);
        self.space = Space::Own(Own::new(device, Some(tap)));
        Ok(tap)
    }

    /// The same for a program that opens the tap itself, by its name: it is this user's, and nobody has it open.
    pub fn with_named_tap(&mut self, device: Device) {
        self.space = Space::Own(Own::new(device, None));
    }

    /// Runs it with mounts of its own, among which each of `mounts` is put over what is at its path, on `devices`, and with
    /// nobody else's messages or groups. The mounts go with it. Only for root.
    ///
    /// # Errors
    /// Where a path has a zero byte.
    pub fn jailed(mut self, mounts: Vec<(Mount, PathBuf)>, devices: Devices) -> Result<Self> {
        let placed = mounts.into_iter().map(|(mount, path)| {
            let text = CString::new(path.as_os_str().as_bytes());
            text.map(|text| (OwnedFd::from(mount), text)).map_err(|e| Error::path("mount at", &path, e))
        });
        self.space = Space::Jailed(placed.collect::<Result<_>>()?, devices);
        Ok(self)
    }

    /// Runs it in `namespaces`, where it may change the network.
    pub fn inside(mut self, namespaces: Namespaces) -> Self {
        self.space = Space::Others(namespaces);
        self
    }
}

impl Space {
    /// The descriptors that a child needs until it is there.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Same | Self::Own(_) => Vec::new(),
            Self::Others(Namespaces { user, net }) => vec![user.as_raw_fd(), net.as_raw_fd()],
            Self::Jailed(mounts, _) => mounts.iter().map(|(mount, _)| mount.as_raw_fd()).collect(),
        }
    }

    /// Goes there.
    ///
    /// SAFETY: only in a child, between fork and exec; its process has one thread.
    pub(super) unsafe fn enter(&self) -> Result<(), (Stage, c_int)> {
        match self {
            Self::Same => Ok(()),
            // SAFETY: as promised to this.
            Self::Own(own) => unsafe { own.make() },
            // SAFETY: takes open descriptors; the child has one thread, as a change of its user namespace needs.
            Self::Others(Namespaces { user, net }) => unsafe {
                let enter = |fd: &OwnedFd, kind| match libc::setns(fd.as_raw_fd(), kind) {
                    0 => Ok(()),
                    _ => Err((Stage::Enter, net::errno())),
                };
                enter(user, libc::CLONE_NEWUSER)?;
                enter(net, libc::CLONE_NEWNET)?;
                keep_net_admin().map_err(|errno| (Stage::Privileges, errno))
            },
            // SAFETY: as promised to this.
            Self::Jailed(mounts, devices) => unsafe { jail(mounts, *devices) },
        }
    }
}

impl Own {
    fn new(device: Device, tap: Option<RawFd>) -> Self {
        let text = |id: u32| CString::new(format!("{id} {id} 1")).expect("digits and blanks");
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { device, tap, users: text(user.as_raw()), groups: text(group.as_raw()) }
    }

    /// SAFETY: as [`Space::enter`].
    unsafe fn make(&self) -> Result<(), (Stage, c_int)> {
        let at = |stage: Stage| move |errno: c_int| (stage, errno);
        // SAFETY: takes flags; the child has one thread.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
            return Err((Stage::Namespaces, net::errno()));
        }
        // The kernel lets an ordinary user map its group only where groups cannot be dropped.
        write(c"/proc/self/setgroups", c"deny").map_err(at(Stage::Identity))?;
        write(c"/proc/self/uid_map", &self.users).map_err(at(Stage::Identity))?;
        write(c"/proc/self/gid_map", &self.groups).map_err(at(Stage::Identity))?;
        // SAFETY: as promised to this.
        unsafe { make_tap(self.device.name(), self.tap) }.map_err(at(Stage::Tap))?;
        net::loopback_up().map_err(at(Stage::Device))?;
        // There is no IPv6 here, so nothing is said in it either; a kernel may have none.
        for place in
            [c"/proc/sys/net/ipv6/conf/all/disable_ipv6", c"/proc/sys/net/ipv6/conf/default/disable_ipv6"]
        {
            let _ = write(place, c"1");
        }
        net::apply(&self.device).map_err(at(Stage::Device))?;
        write(c"/proc/sys/net/ipv4/ip_forward", c"1").map_err(at(Stage::Forwarding))?;
        drop_privileges().map_err(at(Stage::Privileges))
    }
}

/// Puts each of `mounts` at its path, where this child alone sees it.
///
/// SAFETY: as [`Space::enter`].
unsafe fn jail(mounts: &[(OwnedFd, CString)], devices: Devices) -> Result<(), (Stage, c_int)> {
    let done = |stage: Stage, result: libc::c_long| match result {
        0 => Ok(()),
        _ => Err((stage, net::errno())),
    };
    // SAFETY: takes flags, open descriptors and paths that end with a zero; the child has one thread.
    unsafe {
        let own = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let network = match devices {
            Devices::Hosts => 0,
            Devices::None => libc::CLONE_NEWNET,
        };
        done(Stage::Namespaces, libc::unshare(own | network).into())?;
        let (none, root) = (std::ptr::null(), c"/".as_ptr());
        let flags = libc::MS_PRIVATE | libc::MS_REC;
        done(Stage::Mounts, libc::mount(none, root, none, flags, none.cast()).into())?;
        for (mount, path) in mounts {
            let moved = libc::syscall(
                libc::SYS_move_mount,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            );
            done(Stage::Mounts, moved)?;
            libc::close(mount.as_raw_fd());
        }
        // Whoever starts it may be in more of a hurry than a machine is to be.
        done(Stage::Privileges, libc::setpriority(libc::PRIO_PROCESS, 0, 0).into())?;
        done(Stage::Privileges, libc::setgroups(0, std::ptr::null()).into())
    }
}

/// Makes the tap, and gives it number `to`; without one it stays as long as its namespace, for this user to open.
///
/// SAFETY: whatever has that number in this process is to be closed.
unsafe fn make_tap(name: &[u8; libc::IFNAMSIZ], to: Option<RawFd>) -> Result<(), c_int> {
    // SAFETY: the path ends with a zero; the requests are an ifreq whose name does, and numbers; the descriptor is this function's
    // own until it has its number.
    unsafe {
        let tap = libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if tap < 0 {
            return Err(net::errno());
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = from.cast_signed() as libc::c_char;
        }
        // Whole segments and their checksums are left to whoever needs them.
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let made = libc::ioctl(tap, libc::TUNSETIFF as libc::Ioctl, &raw const request) == 0
            && match to {
                Some(to) => libc::dup2(tap, to) >= 0,
                None => {
                    let owner = c_ulong::from(libc::geteuid());
                    libc::ioctl(tap, libc::TUNSETOWNER as libc::Ioctl, owner) == 0
                        && libc::ioctl(tap, libc::TUNSETPERSIST as libc::Ioctl, 1 as c_ulong) == 0
                }
            };
        if !made {
            return Err(net::errno());
        }
        libc::close(tap);
    }
    Ok(())
}

/// Leaves nothing that the next exec could give back.
fn drop_privileges() -> Result<(), c_int> {
    for capability in 0..=c_ulong::from(u8::MAX) {
        // SAFETY: takes numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match net::errno() {
                // The kernel knows no more.
                libc::EINVAL if capability > 0 => break,
                errno => return Err(errno),
            }
        }
    }
    // SAFETY: takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(net::errno()),
    }
}

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Of all privileges in the namespace that was entered keeps the one over its network, also across the exec.
fn keep_net_admin() -> Result<(), c_int> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Set {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let one = 1 << NET_ADMIN;
    let none = Set { effective: 0, permitted: 0, inheritable: 0 };
    let sets = [Set { effective: one, permitted: one, inheritable: one }, none];
    // SAFETY: capset reads one header and, of this version, two sets; prctl takes numbers.
    unsafe {
        if libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) != 0 {
            return Err(net::errno());
        }
        let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
        match libc::prctl(libc::PR_CAP_AMBIENT, raise, c_ulong::from(NET_ADMIN), 0, 0) {
            0 => Ok(()),
            _ => Err(net::errno()),
        }
    }
}

/// Writes `text` to the file at `path` in one go.
fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> Result<(), c_int> {
    let text = text.to_bytes();
    // SAFETY: the path ends with a zero; the bytes are read only; the descriptor is this function's own.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(net::errno());
        }
        let written = libc::write(fd, text.as_ptr().cast(), text.len());
        let errno = net::errno();
        libc::close(fd);
        if written < 0 { Err(errno) } else { Ok(()) }
    }
}

/// Whether this kernel keeps ordinary users from making namespaces, and the setting that does it.
#[must_use]
pub fn what_forbids_namespaces() -> Option<&'static str> {
    let reads =
        |path: &str, value: &str| crate::fs::read_text(path.as_ref()).is_ok_and(|text| text.trim() == value);
    [
        (
            "kernel.apparmor_restrict_unprivileged_userns=0",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
        ("kernel.unprivileged_userns_clone=1", "/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces=10000", "/proc/sys/user/max_user_namespaces", "0"),
        ("user.max_net_namespaces=10000", "/proc/sys/user/max_net_namespaces", "0"),
    ]
    .into_iter()
    .find(|(_, path, value)| reads(path, value))
    .map(|(setting, _, _)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_reports_says_what_it_did() {
        let (action, error) = Stage::read(Stage::Tap.report(libc::EACCES));
        assert_eq!(action, "make a tap (/dev/net/tun) for");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let (action, error) = Stage::read(Stage::Execute.report(libc::ENOENT));
        assert_eq!((action, error.kind()), ("start", io::ErrorKind::NotFound));
    }
}
