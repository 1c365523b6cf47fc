//! Control groups of jails, where the helper may make some: what a machine may take of the host, and who is all in its jail.
//!
//! systemd gives the helper a part of the tree (`Delegate=`) and puts it into a group of its own there (`DelegateSubgroup=`), beside which
//! those of jails are; a helper in the tree's root makes them there. Elsewhere there are none: what runs is known by its process alone.

use std::{
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use host::fs;
use model::{VmId, system::HELPER_GROUP};

/// How the groups of jails begin.
const PREFIX: &str = "jail-";
/// What Firecracker needs beside its guest's memory.
const OWN_MEMORY_MIB: u64 = 256;
/// Its threads: one for each processor, and a few of its own.
const OWN_THREADS: u64 = 16;
/// In which time a processor's share is counted, in microseconds.
const PERIOD: u64 = 100_000;

/// Where the groups of jails are.
#[derive(Debug)]
pub(super) struct Groups(PathBuf);

impl Groups {
    /// Where they can be, if anywhere.
    pub fn find() -> Option<Self> {
        let mounts = fs::read_text(Path::new("/proc/self/mountinfo")).ok()?;
        let own = fs::read_text(Path::new("/proc/self/cgroup")).ok()?;
        let place = place(&mounts, &own)?;
        // The machines' limits are those that their groups take.
        let controllers = place.join("cgroup.subtree_control");
        for controller in ["+cpu", "+memory", "+pids"] {
            let _ = fs::set_value(&controllers, controller);
        }
        Some(Self(place))
    }

    /// The one of `vm`, which need not be there.
    pub fn of(&self, vm: VmId) -> Group {
        Group(self.0.join(format!("{PREFIX}{vm}")))
    }
}

/// Where groups are made by a process that is in the group that `own` tells (cgroups(7)).
fn place(mounts: &str, own: &str) -> Option<PathBuf> {
    let tree = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
    })?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let parent = match own.rsplit_once('/') {
        Some((parent, HELPER_GROUP)) => parent,
        None if own.is_empty() => "",
        _ => return None,
    };
    Some(Path::new(tree).join(parent))
}

/// A control group.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    /// It is there and empty, for a machine of this size.
    pub fn make(&self, processors: NonZeroU16, memory_mib: NonZeroU32) -> host::Result<()> {
        fs::create_dir(&self.0)?;
        let processors = u64::from(processors.get());
        let memory = (u64::from(memory_mib.get()) + OWN_MEMORY_MIB) << 20;
        for (limit, value) in [
            ("memory.max", memory.to_string()),
            ("memory.swap.max", "0".to_owned()),
            ("pids.max", (processors + OWN_THREADS).to_string()),
            // One more, for what the machine has done for it.
            ("cpu.max", format!("{} {PERIOD}", (processors + 1) * PERIOD)),
        ] {
            let file = self.0.join(limit);
            // The tree has the controllers that this host gives it.
            if fs::exists(&file) {
                fs::set_value(&file, &value)?;
            }
        }
        Ok(())
    }

    /// Process `pid` is in it.
    pub fn add(&self, pid: u32) -> host::Result<()> {
        fs::set_value(&self.0.join("cgroup.procs"), &pid.to_string())
    }

    /// Neither it nor any process in it is there; that takes at most `patience`.
    pub fn end(&self, patience: Duration) -> host::Result<()> {
        if !fs::is_dir(&self.0) {
            return Ok(());
        }
        // Without it, as before Linux 5.14, the group has what its one process left, which was killed before.
        let _ = fs::set_value(&self.0.join("cgroup.kill"), "1");
        let end = Instant::now() + patience;
        loop {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_where_a_part_of_the_tree_is_the_helpers() {
        let mounts = "25 1 0:22 / /proc rw - proc proc rw\n\
                      30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let unit = "0::/system.slice/banger-helper.service";
        for (own, expect) in [
            ("0::/\n", Some("/sys/fs/cgroup/")),
            ("4:memory:/x\n0::/\n", Some("/sys/fs/cgroup/")),
            (&format!("{unit}/helper\n"), Some("/sys/fs/cgroup/system.slice/banger-helper.service")),
            // What is not given away is systemd's.
            (&format!("{unit}\n"), None),
            ("0::/user.slice/user-1000.slice/session-1.scope\n", None),
            ("4:memory:/\n", None),
        ] {
            assert_eq!(place(mounts, own).as_deref(), expect.map(Path::new), "{own}");
        }
        assert_eq!(place("25 1 0:22 / /proc rw - proc proc rw\n", "0::/\n"), None);
    }
}
