//! `system install`: programs, units, the word of root, and both services begun.
//!
//! Before anything is changed it is noted that an installation began. Where one was killed the next one finds the note, and starts
//! anew whatever may still run as it was before.

use std::path::{Path, PathBuf};

use host::{fs, proc::Program};
use model::system::{
    DAEMON_UNITS, INSTALL, Installation, JAIL_PROGRAMS, JAIL_UIDS, NAMES, PROGRAMS, SOCKET, SystemFile,
    UNFINISHED,
};
use wire::helper::Ask;

use super::{ask, failed, require_root, systemctl, units};
use crate::{
    args::InstallArgs,
    error::Error,
    talk::{Talk, print},
};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    uid: u32,
    /// Where the user has one.
    home: Option<String>,
}

/// Where the programs are that units start.
enum Placed {
    /// In this directory, with the system's.
    There(String),
    /// They are copied from this one.
    Copied(PathBuf),
}

/// `system install`.
///
/// # Errors
/// As [`super::run`].
pub fn install(talk: &Talk, args: &InstallArgs) -> Result<(), Error> {
    let owner = owner(args.owner.clone().or_else(|| host::env::text("SUDO_USER")))?;
    let before = fs::read_text(Path::new(INSTALL)).ok().and_then(|text| Installation::read(&text));
    let before = before.unwrap_or_default();
    let installation = Installation {
        owner: owner.uid,
        bridge: before.bridge,
        subnet: args.subnet.clone().or(before.subnet),
        jail_uids: has_jailer().then(|| before.jail_uids.unwrap_or_else(|| JAIL_UIDS.to_owned())),
    };
    let placed = programs()?;
    let directory = match &placed {
        Placed::There(directory) => directory,
        Placed::Copied(_) => PROGRAMS,
    };
    let files = installation.files(directory, owner.home.as_deref());
    if args.dry_run {
        return print(&plan(&files, &placed));
    }
    require_root("install")?;
    for program in [Program::Nft, Program::Systemctl] {
        program.path().map_err(|_| {
            failed(
                "nft and systemctl are needed, and one of them is not here",
                Some("apt install nftables; without systemd, banger works in user mode alone"),
            )
        })?;
    }
    let unfinished = Path::new(UNFINISHED);
    let mut changed = fs::exists(unfinished);
    if let Placed::Copied(source) = &placed {
        for name in NAMES {
            let path = Path::new(PROGRAMS).join(name);
            talk.say(&format!("writes {}: a copy that only root can change", path.display()));
            changed |= write(&path, &fs::read(&source.join(name))?, 0o755)?;
        }
    }
    for file in &files {
        talk.say(&format!("writes {}: {}", file.path, file.why));
        changed |= write(Path::new(&file.path), file.text.as_bytes(), 0o644)?;
    }
    systemctl(&["daemon-reload"])?;
    let [_, daemon] = DAEMON_UNITS;
    systemctl(&[&["enable"], &units()[..]].concat())?;
    if changed {
        // The socket of another owner goes with the unit that made it; machines stay.
        systemctl(&[&["stop"], &units()[..]].concat())?;
    }
    systemctl(&[&["start"], &units()[..2], &[daemon]].concat())?;
    ask(Ask::Status)?;
    fs::remove(unfinished)?;
    talk.say(&format!(
        "helper and daemon work for user {} and root alone; the helper answers at {SOCKET}",
        owner.uid
    ));
    if let Some(left) = owner.home.as_deref().and_then(machines_of_user_mode) {
        talk.say(&format!(
            "machines that were made before stay in {}; they are back when this is uninstalled",
            left.display()
        ));
    }
    Ok(())
}

/// Whether root has put Firecracker and its jailer where the helper starts them.
fn has_jailer() -> bool {
    JAIL_PROGRAMS.iter().all(|name| fs::program_of_root(&Path::new(PROGRAMS).join(name)).is_ok())
}

/// Where machines are that the user with `home` made before, without root.
fn machines_of_user_mode(home: &str) -> Option<PathBuf> {
    let state = Path::new(home).join(".local/state/banger");
    let machines = fs::list(&state.join("vms")).unwrap_or_default();
    (!machines.is_empty()).then_some(state)
}

/// What would be written.
fn plan(files: &[SystemFile], placed: &Placed) -> String {
    let mut text = String::new();
    if let Placed::Copied(source) = placed {
        for name in NAMES {
            text.push_str(&format!("# {PROGRAMS}/{name}: a copy of {}\n", source.join(name).display()));
        }
        text.push('\n');
    }
    for file in files {
        text.push_str(&format!("# {}: {}\n{}\n", file.path, file.why, file.text));
    }
    text
}

/// The home of user `uid`, where there is one.
pub fn home_of(uid: u32) -> Option<String> {
    owner(Some(uid.to_string())).ok()?.home
}

/// The user that `name`, or the number that it is, stands for.
fn owner(name: Option<String>) -> Result<Owner, Error> {
    let name = name.ok_or_else(|| Error::Usage {
        message: "whose installation is it?".to_owned(),
        hint: Some("--owner USER"),
    })?;
    let number: Option<u32> = name.parse().ok();
    let users = fs::read_text(Path::new("/etc/passwd"))?;
    let found = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid = fields.get(2)?.parse().ok()?;
        let home = fields.get(5).filter(|home| home.starts_with('/') && **home != "/");
        (fields[0] == name || Some(uid) == number)
            .then(|| Owner { uid, home: home.map(|home| (*home).to_owned()) })
    });
    // One of a directory elsewhere is a number to us; systemd asks there.
    match found.or(number.map(|uid| Owner { uid, home: None })) {
        Some(Owner { uid: 0, .. }) => Err(Error::Usage {
            message: "the owner is an ordinary user, whose machines could become root's otherwise".to_owned(),
            hint: Some("--owner USER"),
        }),
        Some(owner) => Ok(owner),
        None => Err(Error::Usage {
            message: format!("there is no user {name} in /etc/passwd"),
            hint: Some("--owner takes a number too, as `id -u USER` says it"),
        }),
    }
}

/// The directory of the programs, and whether they can be run where they lie.
fn programs() -> Result<Placed, Error> {
    let own = std::env::current_exe().map_err(|e| host::Error::new("find", "this program", e))?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let found = [dir.to_owned(), dir.join("../libexec/banger")]
        .into_iter()
        .find(|dir| NAMES.iter().all(|name| fs::is_file(&dir.join(name))))
        .ok_or_else(|| {
            failed(
                format!("not all of {} are beside banger or in ../libexec/banger", NAMES.join(", ")),
                Some("install banger with all its programs"),
            )
        })?;
    let real = fs::real_path(&found)?;
    // Elsewhere, as in a home, units do not see them, or others can write them.
    let is_systems = real.starts_with("/usr")
        && NAMES
            .iter()
            .all(|name| fs::program_of_root(&real.join(name)).is_ok_and(|path| path == real.join(name)));
    Ok(if is_systems { Placed::There(real.display().to_string()) } else { Placed::Copied(real) })
}

/// Puts `bytes` at `path`; tells whether that changed something. Where it does, that an installation began is noted first.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, Error> {
    let is_there = fs::openness(path, mode).is_ok_and(|openness| openness == fs::Openness::Private)
        && fs::read(path).is_ok_and(|there| there == bytes);
    if !is_there {
        for directory in [Path::new(UNFINISHED), path].iter().filter_map(|path| path.parent()) {
            fs::public_dir(directory)?;
        }
        fs::write_atomic(Path::new(UNFINISHED), b"")?;
        fs::write_atomic(path, bytes)?;
        fs::restrict(path, mode)?;
    }
    Ok(!is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_names_and_numbers() {
        let daemon = Owner { uid: 1, home: Some("/usr/sbin".to_owned()) };
        assert_eq!(owner(Some("daemon".to_owned())).unwrap(), daemon);
        assert_eq!(owner(Some("1".to_owned())).unwrap(), daemon);
        assert_eq!(owner(Some("4294967294".to_owned())).unwrap(), Owner { uid: 4_294_967_294, home: None });
        for bad in [None, Some("nobody-at-all"), Some("-1"), Some("root"), Some("0")] {
            assert!(matches!(owner(bad.map(str::to_owned)), Err(Error::Usage { .. })));
        }
    }
}
