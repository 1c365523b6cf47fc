//! Who the guest is: names, machine id, keys.
//!
//! Written at every boot, into the root that is about to be entered. What the user put into the same files stays.

use std::{io, path::Path};

use host::{Error, Result};
use wire::guest::{Config, InitKind, Ssh};

use super::{init::Choice, note};
use crate::root::Root;

/// The most of a file that banger reads to write its own part.
const LIMIT: u64 = 1 << 20;
/// Marks a line of `/etc/hosts` as banger's.
const OURS: &str = "# banger";
/// Enclose banger's keys among those of the user.
const KEYS_BEGIN: &str = "# banger: keys below are replaced at every start";
const KEYS_END: &str = "# banger: end";

/// Units that would keep a guest from being up, and why it can do without.
const MASKED: [&str; 3] = [
    // The card, if there is one, is up before init; without one these would wait two minutes for it.
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "ifupdown-wait-online.service",
];

/// Writes the identity. Only the host name is worth not starting for: what an image does not let be written it does
/// not need, and is told on the console.
///
/// # Errors
/// Where the kernel does not take the host name.
pub fn write(root: &Root, config: &Config, init: &Choice) -> Result<()> {
    rustix::system::sethostname(config.hostname.as_bytes())
        .map_err(|e| Error::new("set host name", &config.hostname, e))?;
    for result in [
        hostname(root, &config.hostname),
        hosts(root, &config.hostname),
        machine_id(root, &config.machine_id),
        config.ssh.as_ref().map_or(Ok(()), |keys| ssh(root, keys)),
        masks(root, init.kind),
    ] {
        if let Err(error) = result {
            note(&error);
        }
    }
    Ok(())
}

/// Writes the names alone, all of them.
///
/// # Errors
/// Where one cannot be written.
pub fn names(root: &Root, name: &str, id: &str) -> Result<()> {
    hostname(root, name)?;
    hosts(root, name)?;
    machine_id(root, id)
}

fn hostname(root: &Root, name: &str) -> Result<()> {
    root.write(Path::new("etc/hostname"), format!("{name}\n").as_bytes(), 0o644)
}

fn machine_id(root: &Root, id: &str) -> Result<()> {
    // One that is there also tells systemd that this is no first boot, so it asks no questions.
    root.write(Path::new("etc/machine-id"), format!("{id}\n").as_bytes(), 0o444)
}

fn hosts(root: &Root, hostname: &str) -> Result<()> {
    let path = Path::new("etc/hosts");
    let found = root.read(path, LIMIT).unwrap_or_default();
    root.write(path, hosts_with(&String::from_utf8_lossy(&found), hostname).as_bytes(), 0o644)
}

/// `/etc/hosts` with the guest's own name, and with localhost where that is missing.
fn hosts_with(found: &str, hostname: &str) -> String {
    let mut out: String =
        found.lines().filter(|line| !line.ends_with(OURS)).map(|line| format!("{line}\n")).collect();
    let has_localhost = out.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name == "localhost")
    });
    if !has_localhost {
        out.push_str(&format!(
            "127.0.0.1 localhost {OURS}\n::1 localhost ip6-localhost ip6-loopback {OURS}\n"
        ));
    }
    out.push_str(&format!("127.0.1.1 {hostname} {OURS}\n"));
    out
}

/// Gives sshd banger's host key and lets banger's keys in, where the image has an sshd.
///
/// # Errors
/// Where one of the files cannot be written.
pub fn ssh(root: &Root, keys: &Ssh) -> Result<()> {
    if !["usr/sbin/sshd", "usr/bin/sshd"].iter().any(|path| root.is_program(Path::new(path))) {
        return Ok(());
    }
    const DROP_IN: &str = "# Written by banger at every start.\n\
        PermitRootLogin prohibit-password\n\
        PasswordAuthentication no\n\
        KbdInteractiveAuthentication no\n\
        StrictModes yes\n\
        HostKey /etc/ssh/ssh_host_ed25519_key\n";
    root.write(Path::new("etc/ssh/sshd_config.d/00-banger.conf"), DROP_IN.as_bytes(), 0o644)?;
    root.write(Path::new("etc/ssh/ssh_host_ed25519_key"), keys.host_key.as_bytes(), 0o600)?;
    let public = format!("{}\n", keys.host_key_public.trim_end());
    root.write(Path::new("etc/ssh/ssh_host_ed25519_key.pub"), public.as_bytes(), 0o644)?;
    let dir = root.make_own_dir(Path::new("root/.ssh"))?;
    // Otherwise StrictModes refuses the keys in it.
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::chmod(crate::root::fd_path(std::os::fd::AsFd::as_fd(&dir)), mode)
        .map_err(|e| Error::new("restrict", "root/.ssh", io::Error::from(e)))?;
    let path = Path::new("root/.ssh/authorized_keys");
    let found = root.read(path, LIMIT).unwrap_or_default();
    root.write(path, keys_with(&String::from_utf8_lossy(&found), &keys.authorized).as_bytes(), 0o600)
}

/// The user's keys and, replacing those of the last boot, banger's.
fn keys_with(found: &str, ours: &[String]) -> String {
    let mut out = String::new();
    let mut in_ours = false;
    for line in found.lines() {
        match line {
            KEYS_BEGIN => in_ours = true,
            KEYS_END => in_ours = false,
            line if !in_ours => out.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    out.push_str(&format!("{KEYS_BEGIN}\n"));
    ours.iter().for_each(|key| out.push_str(&format!("{}\n", key.trim_end())));
    out.push_str(&format!("{KEYS_END}\n"));
    out
}

/// Keeps the image's init from waiting for what this machine does not have. All of it is in `/run`, so nothing stays.
fn masks(root: &Root, init: InitKind) -> Result<()> {
    let run = Root::open(Path::new("/run"))?;
    match init {
        InitKind::Systemd => {
            let mask = |unit: &str| run.link("/dev/null", &Path::new("systemd/system").join(unit));
            MASKED.iter().try_for_each(|unit| mask(unit))?;
            // Without udev no device unit ever appears, and a login on the console would be waited for.
            let udev = [
                "usr/lib/systemd/systemd-udevd",
                "lib/systemd/systemd-udevd",
                "usr/bin/udevadm",
                "bin/udevadm",
            ];
            if !udev.iter().any(|path| root.is_program(Path::new(path))) {
                mask("serial-getty@ttyS0.service")?;
            }
            // The modules disk has what it looks for, and without its program it fails.
            if !["usr/bin/kmod", "bin/kmod"].iter().any(|path| root.is_program(Path::new(path))) {
                mask("kmod-static-nodes.service")?;
            }
            Ok(())
        }
        InitKind::Sysvinit | InitKind::Openrc => {
            // `fstab=no` is systemd's; to these the image's fstab is as wrong.
            let fstab = Path::new("etc/fstab");
            if root.read(fstab, 1).is_none() {
                return Ok(());
            }
            run.write(
                Path::new("banger/fstab"),
                b"# The disks of a banger guest are mounted before init.\n",
                0o644,
            )?;
            let target = root
                .real_path(fstab)
                .map(|path| Path::new(super::layers::ROOT).join(path.strip_prefix("/").unwrap_or(&path)));
            let Some(target) = target else { return Ok(()) };
            rustix::mount::mount_bind("/run/banger/fstab", &target)
                .map_err(|e| Error::path("cover", &target, e))
        }
        InitKind::Agent | InitKind::Other => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keeps_what_the_user_wrote() {
        let first = hosts_with("", "dev");
        assert_eq!(
            first,
            "127.0.0.1 localhost # banger\n::1 localhost ip6-localhost ip6-loopback # banger\n127.0.1.1 dev # banger\n"
        );
        assert_eq!(hosts_with(&first, "dev"), first);
        assert_eq!(
            hosts_with("127.0.0.1\tlocalhost\n10.0.0.1 db # localhost\n127.0.1.1 old # banger\n", "new"),
            "127.0.0.1\tlocalhost\n10.0.0.1 db # localhost\n127.0.1.1 new # banger\n"
        );
    }

    #[test]
    fn keys_of_the_user_stay_and_ours_are_replaced() {
        let first = keys_with("ssh-rsa A me\n", &["ssh-ed25519 B\n".to_owned()]);
        assert_eq!(first, format!("ssh-rsa A me\n{KEYS_BEGIN}\nssh-ed25519 B\n{KEYS_END}\n"));
        let second = keys_with(&(first + "ssh-rsa C\n"), &["ssh-ed25519 D".to_owned()]);
        assert_eq!(second, format!("ssh-rsa A me\nssh-rsa C\n{KEYS_BEGIN}\nssh-ed25519 D\n{KEYS_END}\n"));
    }
}
