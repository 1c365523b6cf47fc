//! The first role: from the kernel's first process to the image's init.
//!
//! ```text
//! mounts → config → modules → disks → root (image + overlay) → plain → work → kernel modules → identity → network → hand over
//!                                                                                               fork: the agent  ┘   └ exec: init
//! ```
//! Each step is timed. The first that fails is told on the console in one line, and the machine ends, so that the host
//! notices at once.

mod disks;
mod hand_over;
pub(crate) mod identity;
mod init;
mod layers;
mod lean;
mod modules;
mod mounts;
pub(crate) mod network;
mod seed;

use std::{
    io::{self, Write},
    path::Path,
};

use host::{Error, Result};
use wire::guest::{Config, End, Step, VERSION};

pub use init::{Choice, choose};

use crate::{finish, storage::Storage};

/// Where the boot payload is, and where what it mounts is, as seen by `/init`.
const PAYLOAD: &str = "/";

/// What the second role takes over from the first.
#[derive(Debug)]
pub struct Booted {
    /// What the host said.
    pub config: Config,
    /// How long each step took.
    pub steps: Vec<Step>,
    /// What becomes PID 1.
    pub init: Choice,
    /// The writable file systems.
    pub storage: Storage,
}

/// Boots. Returns only by ending the machine.
pub fn run() -> ! {
    let mut end = End::Reboot;
    let error = match boot(&mut end) {
        Ok(booted) => hand_over::start(Box::leak(Box::new(booted))),
        Err(error) => error,
    };
    say(&one_line(&error));
    rustix::fs::sync();
    finish::end_machine(end)
}

fn boot(end: &mut End) -> Result<Booted> {
    let mut timeline = Timeline::new();
    timeline.step("mounts", mounts::kernel)?;
    let config = timeline.step("config", read_config)?;
    *end = config.end;
    let refused = timeline.step("modules", modules::load)?;
    let disks = timeline.step("disks", || disks::find(&config.disks, &refused))?;
    let root = timeline.step("root", || layers::root(&disks))?;
    let overlay = timeline.step("plain", || layers::plain(&root))?;
    let work = timeline.step("work", || layers::work(&root, &disks))?;
    timeline.step("kernel-modules", || layers::kernel_modules(&root, &disks))?;
    let init = timeline.step("init", || choose(&root, &config.init))?;
    timeline.step("identity", || identity::write(&root, &config, &init))?;
    let up = timeline.step("network", || network::set_up(&root, config.network.as_ref()));
    // A guest without its network is still one that can be entered and looked at.
    up.unwrap_or_else(|error| note(&error));
    timeline.step("hand-over", || hand_over::enter(&root, &init))?;
    let storage = Storage { overlay, work };
    // They may have been enlarged while the VM was stopped.
    if let Err(error) = timeline.step("grow", || storage.grow()) {
        note(&error);
    }
    Ok(Booted { config, steps: timeline.steps, init, storage })
}

/// Takes the configuration out of the payload: nobody after `/init` is to read the channel's secret.
fn read_config() -> Result<Config> {
    let path = Path::new(PAYLOAD).join(wire::guest::CONFIG_PATH);
    let bytes = host::fs::read(&path)?;
    host::fs::remove(&path)?;
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|e| Error::path("understand", &path, io::Error::from(e)))?;
    if config.version != VERSION {
        let cause =
            io::Error::other(format!("it is of version {}, this agent speaks {VERSION}", config.version));
        return Err(Error::path("use", &path, cause));
    }
    Ok(config)
}

/// The steps so far.
struct Timeline {
    steps: Vec<Step>,
}

impl Timeline {
    fn new() -> Self {
        Self { steps: Vec::with_capacity(13) }
    }

    fn step<T>(&mut self, name: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = now_us();
        let result = act();
        let at_us = now_us();
        self.steps.push(Step { name: name.to_owned(), at_us, took_us: at_us - begun });
        result
    }
}

/// Microseconds since the kernel began.
#[must_use]
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let part = |n: i64| u64::try_from(n).unwrap_or_default();
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1000
}

/// Writes a line to the console, and waits until the serial port has sent it.
fn say(line: &str) {
    let mut stderr = io::stderr();
    // There is nobody left to tell that even this failed.
    let _ = writeln!(stderr, "banger: {line}");
    let _ = rustix::termios::tcdrain(&stderr);
}

/// Tells of something that does not keep the guest from starting.
fn note(error: &Error) {
    say(&format!("note: {}", one_line(error)));
}

/// The whole chain in one line, without control characters: names in it come from images.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
