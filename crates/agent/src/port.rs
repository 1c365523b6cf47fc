//! Finds and opens the port that the host gives the agent.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use wire::session::PORT;

/// Between two looks for a port that is not there yet: the driver makes ports as the device announces them, and tells
/// nobody but udev.
const INTERVAL: Duration = Duration::from_millis(2);

/// Opens the port, waiting for it to appear.
pub async fn open() -> OwnedFd {
    loop {
        if let Some(port) = find().and_then(|path| {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            rustix::fs::open(path, flags, Mode::empty()).ok()
        }) {
            return port;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn find() -> Option<PathBuf> {
    let ports = host::fs::list(Path::new("/sys/class/virtio-ports")).ok()?;
    let ours = |port: &&PathBuf| {
        host::fs::read_limited(&port.join("name"), 256).is_ok_and(|name| name.trim_ascii() == PORT.as_bytes())
    };
    Some(Path::new("/dev").join(ports.iter().find(ours)?.file_name()?))
}
