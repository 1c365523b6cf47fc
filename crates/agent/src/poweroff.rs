//! Ends the guest: asks its init in the init's own way, and sees to it that the machine ends.
//!
//! An init that shuts down ends the machine itself, when it has stopped its services and written all out. Only where it
//! does not within its time the agent ends what still runs, seals the disks and ends the machine.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use wire::guest::{End, InitKind};

use crate::{boot::Booted, finish, serve::log, sys};

/// The most that an init gets, whoever asks for more.
const MOST: Duration = Duration::from_secs(600);
/// What is left to processes of their own accord when init did nothing.
const LAST_PATIENCE: Duration = Duration::from_millis(500);
/// Time for the answer that it is under way to leave the machine: what the device has not taken is lost with it.
const ANSWER: Duration = Duration::from_millis(20);

/// Ends the guest. Blocks, and does not return.
pub fn run(booted: &Booted, init_timeout: Duration) -> ! {
    std::thread::sleep(ANSWER);
    let deadline = Instant::now() + init_timeout.min(MOST);
    let patience = if init_timeout.is_zero() {
        Duration::ZERO
    } else if booted.init.kind == InitKind::Agent {
        init_timeout.min(MOST)
    } else {
        match ask(booted.init.kind, booted.config.end) {
            Ok(()) => std::thread::sleep(deadline.saturating_duration_since(Instant::now())),
            Err(error) => log(&format!("init cannot be asked to end the guest: {error}")),
        }
        LAST_PATIENCE
    };
    finish::end_processes(patience);
    finish::seal_and_end(&booted.storage, booted.config.end)
}

/// Asks PID 1 to end the machine so that its VMM notices.
fn ask(kind: InitKind, end: End) -> io::Result<()> {
    match kind {
        InitKind::Systemd => {
            let offset = match end {
                End::Poweroff => 4,
                End::Reboot => 5,
            };
            sys::signal_init(sys::first_realtime_signal() + offset)
        }
        InitKind::Sysvinit | InitKind::Openrc | InitKind::Other => {
            let program = rustix::fs::readlink("/proc/1/exe", Vec::new())?;
            match Path::new(&*program.to_string_lossy()).file_name().and_then(|name| name.to_str()) {
                Some("busybox") => sys::signal_init(match end {
                    End::Poweroff => libc::SIGUSR2,
                    End::Reboot => libc::SIGTERM,
                }),
                Some("openrc-init") => write_fifo(
                    "/run/openrc/init.ctl",
                    match end {
                        End::Poweroff => b"poweroff",
                        End::Reboot => b"reboot",
                    },
                ),
                _ => write_fifo("/run/initctl", &runlevel(end))
                    .or_else(|_| write_fifo("/dev/initctl", &runlevel(end))),
            }
        }
        InitKind::Agent => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// `struct init_request` of sysvinit's `initreq.h`: go to the runlevel that ends the machine.
fn runlevel(end: End) -> [u8; 384] {
    const MAGIC: i32 = 0x0309_1969;
    const CHANGE_RUNLEVEL: i32 = 1;
    let level = match end {
        End::Poweroff => b'0',
        End::Reboot => b'6',
    };
    let mut request = [0; 384];
    // Magic number, command, runlevel, seconds between TERM and KILL.
    for (place, number) in request.chunks_exact_mut(4).zip([MAGIC, CHANGE_RUNLEVEL, i32::from(level), 3]) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    request
}

/// Writes to a FIFO that somebody reads.
fn write_fifo(path: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fifo = rustix::fs::open(path, flags, Mode::empty())?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fifo)?.st_mode) != rustix::fs::FileType::Fifo {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::write(&fifo, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_sysvinits() {
        let request = runlevel(End::Poweroff);
        assert_eq!(request[..16], [0x69, 0x19, 0x09, 0x03, 1, 0, 0, 0, b'0', 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(runlevel(End::Reboot)[8], b'6');
    }
}
