//! The units of helper and daemon, as their directives are pinned here.
//!
//! The helper's are as tight as what it does lets them be: it changes links, taps, rules and a few settings below
//! `/proc/sys/net`, runs nft, binds the port for names, and gives its socket away. Where machines are jailed, it also mounts, makes
//! namespaces, devices and control groups, and becomes the users of jails: nearly all of root's rights, and only there.
//!
//! What the daemon starts inherits nearly all of the daemon's: filters of system calls, mounts, devices. So those are as tight as
//! an emulator that writes and executes memory, pasta that makes namespaces, and git in the owner's repositories let them be.
//! Both have neither capabilities nor a way to new ones. VMs stay in the daemon's control group and outlive it.

use super::{CACHE, DAEMON_UNITS, HELPER_GROUP, HELPER_UNITS, Jails, RUN, SOCKET, STATE};

/// The name of `directory` below the one that systemd keeps for its kind.
fn name(directory: &str) -> &str {
    directory.rsplit('/').next().unwrap_or(directory)
}

/// `path` as one word of a unit.
fn word(path: &str) -> String {
    let escaped = path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{escaped}\"")
}

pub(super) fn helper_socket(owner: u32) -> String {
    format!(
        "[Unit]
Description=Socket of banger's privileged helper

[Socket]
ListenSequentialPacket={SOCKET}
SocketUser={owner}
SocketMode=0600
DirectoryMode=0711
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"
    )
}

pub(super) fn daemon_socket(owner: u32) -> String {
    format!(
        "[Unit]
Description=Socket of banger's daemon

[Socket]
ListenStream={RUN}/bangerd.sock
SocketUser={owner}
SocketMode=0600
# Until the daemon has begun the directory is root's; then it is the owner's alone.
DirectoryMode=0711
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"
    )
}

pub(super) fn helper(programs: &str, jails: Jails) -> String {
    let [socket, _] = HELPER_UNITS;
    let rights = match jails {
        Jails::None => "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN
ProtectControlGroups=yes
RestrictNamespaces=yes
SystemCallFilter=@system-service
"
        .to_owned(),
        // Firecracker's jailer needs what is between the helper's own and DAC_OVERRIDE; other users' machines are ended by KILL.
        Jails::Some => format!(
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SETUID CAP_SETGID \
             CAP_MKNOD CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL
# Programs and devices of jails are not below /run, which may have neither.
StateDirectory=banger-helper
StateDirectoryMode=0700
Delegate=cpu memory pids
DelegateSubgroup={HELPER_GROUP}
DeviceAllow=/dev/kvm rwm
DeviceAllow=/dev/net/tun rwm
DeviceAllow=/dev/userfaultfd rwm
SystemCallFilter=@system-service @mount seccomp
"
        ),
    };
    format!(
        "[Unit]
Description=banger's privileged helper: bridge, taps and packet filter
Requires={socket}
After={socket}

[Service]
Type=notify
ExecStart={programs}/banger-helper
Restart=always
RestartSec=100ms
KillMode=process
SendSIGKILL=no
UMask=0077
# Guests pass unfiltered from somebody's change of the rules until the helper has answered it.
Nice=-20
RuntimeDirectory=banger-helper
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes
LogsDirectory=banger-helper
LogsDirectoryMode=0700
{rights}NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM

[Install]
Also={socket}
"
    )
}

pub(super) fn daemon(owner: u32, programs: &str, home: Option<&str>) -> String {
    let [socket, _] = DAEMON_UNITS;
    let home = home.map(|home| format!(" {}", word(&format!("-{home}")))).unwrap_or_default();
    let (state, cache, run) = (name(STATE), name(CACHE), name(RUN));
    format!(
        "[Unit]
Description=banger's daemon: virtual machines of their owner
Requires={socket}
After={socket} network.target

[Service]
Type=notify
User={owner}
ExecStart={programs}/bangerd
Restart=on-failure
RestartSec=1s
# Machines outlive the daemon, and one that the kernel ends for its memory takes no other with it.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=524288
UMask=0077
StateDirectory={state}
StateDirectoryMode=0700
CacheDirectory={cache}
CacheDirectoryMode=0700
RuntimeDirectory={run}
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
# Repositories are read where they lie, and a branch of a guest's work is written there.
ReadWritePaths=/tmp /var/tmp{home}
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
# Firecracker and QEMU filter themselves further; pasta mounts what it sees in a namespace of its own.
SystemCallFilter=@system-service @mount seccomp
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
Also={socket}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that of the names in `pinned`, `text` has exactly these directives.
    fn has(text: &str, pinned: &[&str]) {
        let names: Vec<String> =
            pinned.iter().filter_map(|line| Some(format!("{}=", line.split('=').next()?))).collect();
        let found: Vec<&str> =
            text.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
        assert_eq!(found, pinned);
    }

    #[test]
    fn the_units_directives_are_these() {
        has(
            &helper_socket(1000),
            &[
                "ListenSequentialPacket=/run/banger-helper/helper.sock",
                "SocketUser=1000",
                "SocketMode=0600",
                "DirectoryMode=0711",
            ],
        );
        // Bridge and taps outlive a restart of the helper, which has only what it needs.
        has(
            &helper("/usr/local/lib/banger", Jails::None),
            &[
                "ExecStart=/usr/local/lib/banger/banger-helper",
                "KillMode=process",
                "SendSIGKILL=no",
                "Nice=-20",
                "RuntimeDirectoryPreserve=yes",
                "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN",
                "RestrictNamespaces=yes",
                "SystemCallFilter=@system-service",
                "NoNewPrivileges=yes",
                "ProtectSystem=strict",
                "ProtectHome=yes",
                "LockPersonality=yes",
                "RestrictSUIDSGID=yes",
            ],
        );
        has(
            &helper("/usr/local/lib/banger", Jails::Some),
            &[
                "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN CAP_SYS_ADMIN CAP_SYS_CHROOT \
                 CAP_SETUID CAP_SETGID CAP_MKNOD CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL",
                "StateDirectory=banger-helper",
                "Delegate=cpu memory pids",
                "DelegateSubgroup=helper",
                "SystemCallFilter=@system-service @mount seccomp",
                "NoNewPrivileges=yes",
                "ProtectSystem=strict",
                "ProtectHome=yes",
                "LockPersonality=yes",
                "MemoryDenyWriteExecute=yes",
                "RestrictSUIDSGID=yes",
            ],
        );
        has(
            &daemon_socket(1000),
            &["ListenStream=/run/banger/bangerd.sock", "SocketUser=1000", "SocketMode=0600"],
        );
        // VMs outlive a restart of the daemon, which is nobody but the owner and can become nobody else.
        has(
            &daemon(1000, "/usr/local/lib/banger", Some("/home/a \"b\" 100%")),
            &[
                "User=1000",
                "ExecStart=/usr/local/lib/banger/bangerd",
                "KillMode=process",
                "OOMPolicy=continue",
                "StateDirectory=banger",
                "StateDirectoryMode=0700",
                "CacheDirectory=banger",
                "CacheDirectoryMode=0700",
                "RuntimeDirectory=banger",
                "RuntimeDirectoryMode=0700",
                "RuntimeDirectoryPreserve=yes",
                "CapabilityBoundingSet=",
                "NoNewPrivileges=yes",
                "ProtectSystem=strict",
                "ReadWritePaths=/tmp /var/tmp \"-/home/a \\\"b\\\" 100%%\"",
                "LockPersonality=yes",
                "RestrictSUIDSGID=yes",
                "SystemCallFilter=@system-service @mount seccomp",
            ],
        );
    }

    /// Emulation executes memory that it wrote, pasta and the test of a machine's network make namespaces, a machine's own
    /// network has settings below /proc/sys, and the host's kernel is a machine's with its modules.
    #[test]
    fn what_a_machine_inherits_is_bearable() {
        let text = daemon(1000, "/usr/local/lib/banger", None);
        for directive in [
            "MemoryDenyWriteExecute",
            "RestrictNamespaces",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "PrivateUsers",
            "PrivateDevices",
            "PrivateNetwork",
            "PrivateTmp",
            "ProtectHome",
            "ProtectProc",
            "ProcSubset",
        ] {
            assert!(!text.contains(directive), "{directive}");
        }
    }
}
