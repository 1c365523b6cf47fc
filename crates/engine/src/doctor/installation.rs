//! Rows about what belongs to banger: its programs, directories, socket, database, images and kernels.

use std::path::Path;

use host::{
    dirs::Dirs,
    fs::{self, Openness},
    proc::Program,
};
use store::{Compatibility, Published, Store};
use wire::doctor::Row;

use super::Mode;
use crate::{
    chain,
    config::Config,
    images::RECIPE,
    paths::{Paths, ROOTFS},
};

/// The program that boots guests.
pub fn agent(agent: Option<&Path>) -> Row {
    match agent {
        Some(path) => Row::pass("agent", path.display().to_string()),
        None => Row::fail(
            "agent",
            "banger-agent is neither beside bangerd nor in ../libexec/banger",
            "install it there: banger, bangerd and banger-agent belong together",
        ),
    }
}

/// Whether only this user can get at what banger keeps.
pub fn directories(dirs: &Dirs, mode: Mode) -> Row {
    private("directories", [&dirs.state, &dirs.cache, &dirs.runtime], 0o700, mode)
}

/// Whether only this user can talk to the daemon.
pub fn socket(dirs: &Dirs, mode: Mode) -> Row {
    private("socket", [&dirs.socket()], 0o600, mode)
}

/// Of `paths`, those that there are have to be this user's alone.
fn private<'a>(
    name: &str,
    paths: impl IntoIterator<Item = &'a std::path::PathBuf>,
    bits: u32,
    mode: Mode,
) -> Row {
    let (mut found, mut fixed) = (Vec::new(), Vec::new());
    for path in paths.into_iter().filter(|path| fs::exists(path)) {
        let shown = path.display();
        match fs::openness(path, bits) {
            Ok(Openness::Private) => found.push(shown.to_string()),
            Ok(Openness::Shared(was)) if mode == Mode::Fix => match fs::restrict(path, bits) {
                Ok(()) => fixed.push(format!("{shown} had mode {was:04o}, now it has {bits:04o}")),
                Err(error) => return Row::fail(name, chain(&error), "mend it by hand"),
            },
            Ok(Openness::Shared(was)) => {
                let why = format!("{shown} has mode {was:04o}: others may get in");
                return Row::fail(name, why, "banger doctor --fix");
            }
            Ok(Openness::Foreign) => {
                let hint = format!("move it aside: sudo mv {shown} {shown}.old");
                return Row::fail(name, format!("{shown} belongs to another user"), hint);
            }
            Ok(Openness::Link) => {
                let hint = "put a directory there; XDG_STATE_HOME and its like say where banger keeps things";
                return Row::fail(name, format!("{shown} is a symbolic link"), hint);
            }
            Err(error) => return Row::fail(name, chain(&error), "banger needs a place it can read"),
        }
    }
    match (fixed.is_empty(), found.is_empty()) {
        (false, _) => Row::pass(name, fixed.join(", ")),
        (true, false) => Row::pass(name, found.join(", ")),
        (true, true) => Row::pass(name, "not made yet"),
    }
}

/// Whether a daemon can open the database.
pub fn database(paths: &Paths) -> Row {
    let path = paths.database();
    let shown = path.display();
    match Store::check(&path) {
        Ok(Compatibility::Absent) => Row::pass("database", "none yet: the first daemon makes it"),
        Ok(Compatibility::Current) => Row::pass("database", shown.to_string()),
        Ok(Compatibility::Older) => Row::pass(
            "database",
            format!("{shown} is of an older banger: the next daemon migrates it, and keeps a copy beside it"),
        ),
        Ok(Compatibility::Newer) => Row::fail(
            "database",
            format!("{shown} was written by a newer banger"),
            "install that version again",
        ),
        Err(error) => Row::fail(
            "database",
            chain(&error),
            format!(
                "banger daemon stop, then put a copy of yours there, or begin anew: mv {shown} {shown}.damaged"
            ),
        ),
    }
}

/// Whether a VM for which no image is named has one.
pub fn image(paths: &Paths, config: &Config, published: &Published) -> Row {
    let name = config.default_image.as_str();
    match published.images.iter().find(|(found, _)| found == name) {
        Some((_, id)) if fs::exists(&paths.rootfs(id)) => Row::pass("image", format!("{name}, the default")),
        Some((_, id)) => Row::fail(
            "image",
            format!(
                "{name}, the default, has lost its file {ROOTFS} in {}",
                paths.images().join(id).display()
            ),
            format!("banger image delete {name}, then make it again"),
        ),
        None if name == RECIPE => match Program::Mmdebstrap.path() {
            Ok(_) => Row::pass("image", format!("{name}, the default, is built when it is first needed")),
            Err(_) => Row::fail(
                "image",
                format!(
                    "{name}, the default, is not there, and mmdebstrap, which builds it, is not installed"
                ),
                "sudo apt-get install mmdebstrap, or set `default_image`",
            ),
        },
        None => Row::fail(
            "image",
            format!("{name}, the default, is not there"),
            format!("banger image import SRC --name {name}, or set `default_image`"),
        ),
    }
}

/// Whether an image that names no kernel has one.
pub fn kernel(paths: &Paths, config: &Config, published: &Published) -> Row {
    let name = config.default_kernel.as_str();
    let import = format!("banger kernel import {name} --from DIR_OR_DEB, or set `default_kernel`");
    match published.kernels.iter().find(|(found, _)| found == name) {
        Some((_, id)) if fs::is_dir(&paths.kernels().join(id)) => {
            Row::pass("kernel", format!("{name}, the default"))
        }
        Some((_, id)) => Row::fail(
            "kernel",
            format!("{name}, the default, has lost its directory {}", paths.kernels().join(id).display()),
            format!("banger kernel delete {name}, then {import}"),
        ),
        // Only the built-in default stands for the distribution's, or this host's.
        None if config.default_kernel != Config::default().default_kernel => {
            Row::fail("kernel", format!("{name}, the default, is not there"), import)
        }
        None => match Program::AptGet.path() {
            Ok(_) => Row::pass(
                "kernel",
                format!("{name}, the default, is fetched by apt-get when it is first needed"),
            ),
            Err(_) => Row::warn(
                "kernel",
                format!(
                    "{name}, the default, is not there, nor is apt-get: this host's kernel will be taken"
                ),
                import,
            ),
        },
    }
}
