//! PID 1 of a guest whose image has no init: reaps what is left behind, keeps the agent running, and does what the
//! signals ask that programs like `poweroff` send to an init.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, wait};
use wire::guest::End;

use crate::{boot::Booted, finish, serve, sys};

/// How long processes have to end when the user ends the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the agent and stays.
pub fn run(booted: &'static Booted) -> ! {
    // Before the first child can end.
    sys::mask(sys::Mask::All);
    let mut agent = start(booted);
    loop {
        let signal = sys::next_signal();
        if signal == libc::SIGCHLD {
            while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
                if Some(pid) == agent {
                    agent = start(booted);
                }
            }
        } else if let Some(end) = asked_for(signal) {
            finish::end_processes(PATIENCE);
            finish::seal_and_end(&booted.storage, end)
        }
    }
}

fn start(booted: &'static Booted) -> Option<Pid> {
    sys::fork(|| serve::run(booted)).ok()
}

/// What `signal` asks of an init, by the conventions of busybox and systemd. A power-off of the guest's own is one
/// under every VMM: where it does not end the machine, the host hears of it on the console.
fn asked_for(signal: libc::c_int) -> Option<End> {
    match signal {
        libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGPWR => Some(End::Poweroff),
        libc::SIGTERM | libc::SIGINT => Some(End::Reboot),
        other => match other - sys::first_realtime_signal() {
            3 | 4 => Some(End::Poweroff),
            5 => Some(End::Reboot),
            _ => None,
        },
    }
}
