//! Rows about the host: what runs guests, room on its disk, programs that are needed, what a logout does.

use std::path::{Path, PathBuf};

use host::{dirs::Dirs, env, fs, proc, proc::Program};
use model::{config::Vmm, size};
use vmm::{Accelerator, Backend, ProbeError, Report, Settings, firecracker::Firecracker, qemu::Qemu};
use wire::doctor::Row;

use crate::{chain, config::Config, network::Probe, vmms};

/// Free bytes below which the default image and a VM hardly fit.
const SCARCE: u64 = 10 << 30;
/// Free bytes below which a VM can hardly be started.
const NONE: u64 = 1 << 30;

/// What runs VMs, and whether on the processor. The test guests are run now, whatever is remembered of earlier ones or is
/// configured: a row says what is, not what is wanted.
pub fn vmm(config: &Config) -> Vec<Row> {
    let scratch = match Scratch::new() {
        Ok(scratch) => scratch,
        Err(error) => {
            return vec![Row::fail("qemu", chain(&error), "a test guest needs a temporary directory")];
        }
    };
    let qemu = Qemu::find(&Settings { accelerator: None, ..vmms::qemu(config, scratch.0.clone()) });
    let firecracker =
        Firecracker::find(&Settings { accelerator: None, ..vmms::firecracker(config, scratch.0.clone()) });
    let mut rows = match &qemu {
        Ok(qemu) => vec![Row::pass("qemu", found(qemu.report())), kvm(qemu.report())],
        Err(error) if firecracker.is_ok() => vec![Row::warn("qemu", chain(error), error.hint())],
        Err(error) => vec![Row::fail("qemu", chain(error), error.hint())],
    };
    let kvm_works = qemu.is_ok_and(|qemu| qemu.report().accelerator == Accelerator::Kvm);
    rows.push(match firecracker {
        Ok(firecracker) => {
            let found = found(firecracker.report());
            Row::pass("firecracker", format!("{found}; a test guest ran to its end"))
        }
        // It is of no use where there is no KVM, which has a row of its own.
        Err(ProbeError::Missing { .. }) if !kvm_works => {
            Row::pass("firecracker", "not installed: it needs KVM")
        }
        Err(ProbeError::NoKvm { .. }) if config.vmm != Vmm::Firecracker => {
            Row::pass("firecracker", "not used: it needs KVM")
        }
        Err(error) => Row::warn("firecracker", chain(&error), error.hint()),
    });
    rows
}

/// Which one it is. That one is newer than what was tested is worth to be known, and nothing to be mended.
fn found(report: &Report) -> String {
    let found = format!("{} {}", report.program.display(), report.version);
    match report.untested {
        Some((major, minor)) => format!("{found}, newer than {major}.{minor}, with which banger was tested"),
        None => found,
    }
}

fn kvm(report: &Report) -> Row {
    match (report.accelerator, &report.why_not_kvm) {
        (Accelerator::Kvm, _) => Row::pass("kvm", "a test guest ran to its end"),
        (Accelerator::Tcg, why) => Row::warn(
            "kvm",
            format!(
                "{}: guests are emulated, ten to thirty times slower where they compute",
                why.as_deref().unwrap_or("it is not used")
            ),
            way_to_kvm(),
        ),
    }
}

/// What to do where guests do not run on the processor.
fn way_to_kvm() -> &'static str {
    match fs::open_rw("/dev/kvm".as_ref()) {
        Ok(_) => "this host's KVM does not run ordinary guests; `accelerator = \"kvm\"` tries nevertheless",
        Err(error) if error.is_missing() => {
            "switch on virtualization in the firmware, or take a machine with nested virtualization"
        }
        Err(_) => "sudo adduser $USER kvm, and log in again",
    }
}

/// Whether a VM can have a network of its own: one is really made now, whatever is remembered of an earlier one.
pub fn network() -> Row {
    const NAME: &str = "network";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tried = Scratch::new().and_then(|scratch| {
        let runtime = runtime.map_err(|e| host::Error::new("start", "a runtime", e))?;
        Ok(runtime.block_on(Probe::Live.ask(&scratch.0)))
    });
    match tried {
        Ok(Ok(())) => Row::pass(NAME, "user namespaces, a tap, nftables and pasta worked together"),
        Ok(Err(missing)) => {
            Row::warn(NAME, format!("{missing}: `--nat` wants --allow-host-loopback"), missing.hint)
        }
        Err(error) => Row::warn(NAME, chain(&error), "a test network needs a temporary directory"),
    }
}

/// A directory for the time of a look.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> host::Result<Self> {
        let suffix = model::hex::encode(&host::rand::bytes::<8>());
        let path = std::env::temp_dir().join(format!("banger-doctor-{suffix}"));
        fs::create_dir(&path).map(|()| Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is empty but for what a probe could not remove, and the system clears its temporary directory.
        let _ = fs::remove_all(&self.0);
    }
}

/// Room for images and VMs.
pub fn disk(dirs: &Dirs) -> Row {
    // Of what is not made yet, the nearest directory that there is.
    let there = dirs.state.ancestors().find(|path| fs::is_dir(path)).unwrap_or(Path::new("/"));
    let free = match fs::free_space(there) {
        Ok(free) => free,
        Err(error) => return Row::warn("disk", chain(&error), "banger cannot tell how much room there is"),
    };
    let shares = match fs::shares_blocks(there) {
        true => "copies of disks share their blocks",
        false => "its file system copies disks as a whole, as it has no reflinks",
    };
    let found = format!("{} free at {}; {shares}", size::human(free), dirs.state.display());
    let hint = "banger vm prune, banger image prune, banger image cache prune, or set XDG_STATE_HOME to a larger disk";
    match free {
        ..NONE => Row::fail("disk", found, hint),
        NONE..SCARCE => Row::warn("disk", found, hint),
        SCARCE.. => Row::pass("disk", found),
    }
}

/// What ships workspaces.
pub fn git() -> Row {
    match Program::Git.path() {
        Ok(path) => Row::pass("git", path.display().to_string()),
        Err(_) => Row::warn(
            "git",
            "it is not installed: `vm run PATH` and `vm workspace` need it",
            "sudo apt-get install git",
        ),
    }
}

/// Whether VMs go when their user logs out.
pub fn logout() -> Row {
    let kills = ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"].iter().fold(false, |before, dir| {
        let dropped = fs::list(&Path::new(dir).join("logind.conf.d")).unwrap_or_default();
        let files = std::iter::once(Path::new(dir).join("logind.conf")).chain(dropped);
        files
            .filter_map(|path| fs::read_text(&path).ok())
            .fold(before, |before, text| kill_user_processes(&text).unwrap_or(before))
    });
    let user = env::text("USER").unwrap_or_default();
    let lingers = fs::exists(&Path::new("/var/lib/systemd/linger").join(&user));
    // logind spares root (logind.conf(5), KillExcludeUsers).
    if !kills || lingers || proc::own_uid() == 0 {
        return Row::pass("logout", "VMs outlive it");
    }
    Row::warn("logout", "systemd ends all of a user's processes at logout, VMs too", "loginctl enable-linger")
}

/// What a `logind.conf(5)` says of `KillUserProcesses=`, where it says something.
fn kill_user_processes(text: &str) -> Option<bool> {
    let mut values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("KillUserProcesses")?.trim().strip_prefix('='));
    let word = values.next_back()?.trim().to_ascii_lowercase();
    Some(["yes", "true", "on", "1"].contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_file_counts() {
        for (text, expect) in [
            ("", None),
            ("[Login]\n#KillUserProcesses=yes\n", None),
            ("[Login]\nKillUserProcesses=yes\n", Some(true)),
            ("[Login]\n KillUserProcesses = On \n", Some(true)),
            ("KillUserProcesses=yes\nKillUserProcesses=no\n", Some(false)),
        ] {
            assert_eq!(kill_user_processes(text), expect, "{text:?}");
        }
    }
}
