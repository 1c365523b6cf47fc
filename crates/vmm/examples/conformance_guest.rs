//! The guest that the conformance suite boots: `/init` of an initramfs, which serves sessions on the agent's port.
//!
//! A session begins with one line: `echo`, `poweroff`, `reboot`, `panic`, `say N` for N lines on the console, or
//! `say-later N` for N lines once the session has ended.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it is all alone in its guest")]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    thread,
    time::Duration,
};

use bytes::BytesMut;
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, init_module, reboot},
    termios::tcdrain,
};
use wire::session::{self, Event, Nonce, PORT, Receiver, Secret};

fn main() {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, place, kind, MountFlags::empty(), None).expect("mount points are in the payload");
    }
    for module in fs::read_to_string("/banger/modules.load").expect("a list of modules").lines() {
        let image = fs::read(module).expect("modules are in the payload");
        // One that drives a device that is not there may refuse.
        let _ = init_module(&image, c"");
    }
    let config = fs::read_to_string("/banger/config.json").expect("a configuration");
    let secret = Secret::from_hex(config.trim()).expect("the configuration is the secret");
    println!("guest: up");
    let mut port = open_port();
    println!("guest: serving");
    let mut guest =
        Guest { receiver: Receiver::guest(&secret), nonce: None, line: Vec::new(), echo: false, later: 0 };
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            // Nobody is at the host's end. There is no event for somebody coming back, only trying again.
            Ok(0) => thread::sleep(Duration::from_millis(5)),
            Ok(count) => guest.serve(&buffer[..count], &mut port, &secret),
            Err(e) => panic!("cannot read the port: {e}"),
        }
    }
}

fn open_port() -> File {
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        for port in ports {
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim() == PORT {
                let device = format!("/dev/{}", port.file_name().to_string_lossy());
                return OpenOptions::new().read(true).write(true).open(device).expect("the port opens once");
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

struct Guest {
    receiver: Receiver,
    nonce: Option<Nonce>,
    /// The first line of the session, as far as it is there.
    line: Vec<u8>,
    /// Whether that line said so.
    echo: bool,
    /// How many lines are owed to the console.
    later: u32,
}

impl Guest {
    fn serve(&mut self, bytes: &[u8], port: &mut File, secret: &Secret) {
        self.receiver.push(bytes);
        while let Some(event) = self.receiver.next_event() {
            let mut out = BytesMut::new();
            let mut late = 0;
            match event {
                // The host sends it until it hears the echo, and hears only one.
                Event::Opened(nonce) if self.nonce == Some(nonce) => {}
                Event::Opened(nonce) => {
                    self.nonce = Some(nonce);
                    (self.line, self.echo) = (Vec::new(), false);
                    out.extend_from_slice(&session::mark(secret, nonce));
                }
                Event::Data(bytes) if self.echo => session::data(&bytes, &mut out),
                Event::Data(bytes) => {
                    self.line.extend_from_slice(&bytes);
                    self.command(&mut out);
                }
                Event::Ended => {
                    session::end(&mut out);
                    late = std::mem::take(&mut self.later);
                }
                Event::Broken => println!("guest: broken session"),
            }
            port.write_all(&out).expect("the port takes what fits it");
            if late > 0 {
                say(late);
            }
        }
    }

    fn command(&mut self, out: &mut BytesMut) {
        let Some(end) = self.line.iter().position(|&byte| byte == b'\n') else { return };
        let rest = self.line.split_off(end + 1);
        let line = String::from_utf8_lossy(&self.line).trim().to_owned();
        match line.as_str() {
            "echo" => {
                self.echo = true;
                session::data(&rest, out);
            }
            "poweroff" => drop(reboot(RebootCommand::PowerOff)),
            "reboot" => drop(reboot(RebootCommand::Restart)),
            // The kernel does not survive its init.
            "panic" => std::process::exit(3),
            line => {
                let (word, count) = line.split_once(' ').unwrap_or((line, "0"));
                let count = count.parse().unwrap_or(0);
                if word == "say-later" {
                    self.later = count;
                } else {
                    say(count);
                }
                session::data(b"said\n", out);
            }
        }
        self.line.clear();
    }
}

fn say(count: u32) {
    for number in 0..count {
        println!("guest: line {number}");
    }
    // The kernel feeds the serial port at its leisure, and a machine that ends takes along what is left.
    tcdrain(std::io::stdout()).expect("the console is a terminal");
}
