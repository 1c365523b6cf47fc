//! Enters the new root, starts the agent's second role, and becomes init.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

use host::{Error, Result};
use rustix::{
    fs::{Mode, OFlags},
    mount::mount_move,
    process::{chdir, chroot},
};

use super::{Booted, init::Choice, layers, mounts};
use crate::{reaper, root::Root, serve, sys};

/// What the kernel gives its first process; inits expect no more.
const INIT_ENVIRONMENT: [&std::ffi::CStr; 2] = [c"HOME=/", c"TERM=linux"];

/// Moves what is mounted into the new root, and makes that `/`.
///
/// # Errors
/// Where something cannot be moved.
pub fn enter(root: &Root, init: &Choice) -> Result<()> {
    let fail = |what: &'static str, e: rustix::io::Errno| Error::path(what, Path::new(layers::ROOT), e);
    let new = Path::new(layers::ROOT);
    // Links in their places would lead the move somewhere else; /proc is last, because paths of descriptors are in it.
    for place in ["dev", "run", "sys", "proc"] {
        root.make_own_dir(Path::new(place))?;
        mount_move(Path::new("/").join(place), new.join(place))
            .map_err(|e| fail("move the kernel's mounts to", e))?;
    }
    chdir(new).map_err(|e| fail("enter", e))?;
    mount_move(".", "/").map_err(|e| fail("move", e))?;
    chroot(".").and_then(|()| chdir("/")).map_err(|e| fail("change root to", e))?;
    // The console that the kernel opened is a node of the payload.
    let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
        .map_err(|e| Error::path("open", Path::new("/dev/console"), e))?;
    sys::replace_stdio(&console).map_err(|e| Error::path("use", Path::new("/dev/console"), e))?;
    host::net::bring_loopback_up()?;
    if init.program.is_none() {
        root.make_dir(Path::new("tmp"))?;
        mounts::without_init()?;
    }
    Ok(())
}

/// Starts the second role as a process of its own, and becomes the image's init; where there is none, PID 1 stays to
/// reap what is left behind. Returns only the error.
pub fn start(booted: &'static Booted) -> Error {
    let Some(program) = &booted.init.program else { reaper::run(booted) };
    match sys::fork(|| serve::run(booted)) {
        Ok(_) => become_init(program),
        Err(error) => Error::new("start", "the agent", error),
    }
}

fn become_init(program: &Path) -> Error {
    let path = CString::new(program.as_os_str().as_bytes()).unwrap_or_default();
    let fail = |e: io::Error| Error::new("run init", program.display(), e);
    // The Rust runtime ignores SIGPIPE, and what is ignored stays so for all that init starts.
    sys::reset_signals();
    fail(sys::exec(&path, &[path.as_c_str()], &INIT_ENVIRONMENT))
}
