//! `system uninstall`: takes back exactly what was installed, while no machine runs.

use std::path::{Path, PathBuf};

use host::fs;
use model::system::{
    CACHE, DAEMON_UNITS, HELPER_UNITS, INSTALL, JAILS, LOG, NAMES, PROGRAMS, RUN, RUNTIME, STATE, UNFINISHED,
    UNITS,
};
use wire::helper::{Answer, Ask};

use super::{ask, failed, property, require_root, systemctl, units};
use crate::{args::UninstallArgs, error::Error, talk::Talk};

/// Where control groups are.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// The slice of services for which nothing else is said.
const SLICE: &str = "/system.slice";

/// `system uninstall`.
///
/// # Errors
/// As [`super::run`].
pub fn uninstall(talk: &Talk, args: &UninstallArgs) -> Result<(), Error> {
    require_root("uninstall")?;
    let installed: Vec<&str> =
        units().into_iter().filter(|unit| fs::exists(&Path::new(UNITS).join(unit))).collect();
    let [_, daemon] = DAEMON_UNITS;
    if installed.contains(&daemon) && runs_machines(daemon)? {
        return Err(failed("machines run", Some("stop them first: banger vm stop")));
    }
    let [helper_socket, helper] = HELPER_UNITS;
    let has_helper = installed.contains(&helper_socket) && installed.contains(&helper);
    if has_helper {
        systemctl(&["start", helper_socket])?;
        if let Answer::Status(status) = ask(Ask::Status)?
            && !status.taps.is_empty()
        {
            return Err(failed(
                format!("{} machines are on the bridge", status.taps.len()),
                Some("stop them first: banger vm stop"),
            ));
        }
    }
    // First the daemon, which would have the helper make the bridge again.
    for units in [DAEMON_UNITS, HELPER_UNITS] {
        if units == HELPER_UNITS && has_helper {
            ask(Ask::RemoveBridge)?;
        }
        let there: Vec<&str> = units.into_iter().filter(|unit| installed.contains(unit)).collect();
        if !there.is_empty() {
            systemctl(&[&["disable", "--now"], &there[..]].concat())?;
        }
    }
    // The helper is asked while its units are there, and works while its settings are.
    let files = installed.iter().map(|unit| Path::new(UNITS).join(unit));
    let files = files.chain([INSTALL, UNFINISHED].map(PathBuf::from));
    let files = files.chain(NAMES.iter().map(|name| Path::new(PROGRAMS).join(name)));
    for file in files.filter(|file| fs::exists(file)) {
        talk.say(&format!("removes {}", file.display()));
        fs::remove(&file)?;
    }
    systemctl(&["daemon-reload"])?;
    for directory in [RUNTIME, RUN, JAILS] {
        fs::remove_all(Path::new(directory))?;
    }
    for directory in [Path::new(PROGRAMS), Path::new(INSTALL).parent().unwrap_or(Path::new("/"))] {
        fs::remove_empty_dir(directory)?;
    }
    let kept = [LOG, STATE, CACHE];
    for directory in kept.map(Path::new).into_iter().filter(|directory| fs::exists(directory)) {
        if args.purge {
            talk.say(&format!("removes {}", directory.display()));
            fs::remove_all(directory)?;
        } else {
            talk.say(&format!("{} stays; --purge removes it", directory.display()));
        }
    }
    Ok(())
}

/// Whether the control group of the daemon's `unit` has somebody in it besides the daemon.
fn runs_machines(unit: &str) -> Result<bool, Error> {
    let own = property(unit, "MainPID")?;
    // Of a daemon that does not run systemd has forgotten the group, in which machines may run on.
    let group = Some(property(unit, "ControlGroup")?).filter(|group| !group.is_empty());
    let group = group.unwrap_or_else(|| format!("{SLICE}/{unit}"));
    // Where the kernel's first version of control groups is in use, systemd has a tree of its own.
    let trees = [CONTROL_GROUPS.to_owned(), format!("{CONTROL_GROUPS}/systemd")];
    let inside =
        trees.iter().find_map(|tree| fs::read_text(Path::new(&format!("{tree}{group}/cgroup.procs"))).ok());
    Ok(inside.unwrap_or_default().lines().any(|pid| pid != own))
}
