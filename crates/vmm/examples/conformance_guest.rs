//! The guest that the conformance suite boots: `/init` of an initramfs, which serves sessions on the agent's port, or one
//! connection after the other where its configuration says `vsock`.
//!
//! A session begins with one line: `echo`, `poweroff`, `reboot`, `panic`, `say N` for N lines on the console,
//! `say-later N` for N lines once the session has ended, `remember WORD` to keep a word in memory, `recall` to say it, or `card` for the address of its network
//! card.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it is all alone in its guest")]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    sync::{Mutex, MutexGuard},
    thread,
    time::Duration,
};

use bytes::BytesMut;
use host::vsock;
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, init_module, reboot},
    termios::tcdrain,
};
use wire::{
    guest::VSOCK_PORT,
    session::{self, Event, PORT, Receiver, Secret},
};

fn main() {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, place, kind, MountFlags::empty(), None).expect("mount points are in the payload");
    }
    // A kernel that has all it needs comes without the list.
    for module in fs::read_to_string("/banger/modules.load").unwrap_or_default().lines() {
        let image = fs::read(module).expect("modules are in the payload");
        // One that drives a device that is not there may refuse.
        let _ = init_module(&image, c"");
    }
    let config = fs::read_to_string("/banger/config.json").expect("a configuration");
    println!("guest: up");
    if config.trim() == "vsock" {
        serve_connections();
    }
    let secret = Secret::from_hex(config.trim()).expect("the configuration is the secret");
    let mut port = open_port();
    println!("guest: serving");
    let mut receiver = Receiver::guest(&secret);
    let mut nonce = None;
    let mut session = Session::default();
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            // Nobody is at the host's end. There is no event for somebody coming back, only trying again.
            Ok(0) => thread::sleep(Duration::from_millis(5)),
            Ok(count) => receiver.push(&buffer[..count]),
            Err(e) => panic!("cannot read the port: {e}"),
        }
        while let Some(event) = receiver.next_event() {
            let mut out = BytesMut::new();
            let mut late = 0;
            match event {
                // The host sends it until it hears the echo, and hears only one.
                Event::Opened(again) if nonce == Some(again) => {}
                Event::Opened(opened) => {
                    (nonce, session) = (Some(opened), Session::default());
                    out.extend_from_slice(&session::mark(&secret, opened));
                }
                Event::Data(bytes) => session::data(&session.hear(&bytes), &mut out),
                Event::Ended => {
                    session::end(&mut out);
                    late = std::mem::take(&mut session.later);
                }
                Event::Broken => println!("guest: broken session"),
            }
            port.write_all(&out).expect("the port takes what fits it");
            say(late);
        }
    }
}

/// Serves connections of the host, each until the host ends it.
fn serve_connections() -> ! {
    let listener = vsock::listen(VSOCK_PORT).expect("the port is free");
    println!("guest: serving");
    loop {
        let (socket, peer) = vsock::accept(&listener).expect("somebody comes");
        if peer != vsock::HOST {
            continue;
        }
        let mut stream = File::from(socket);
        let mut session = Session::default();
        let mut buffer = [0; 4096];
        // An error is a host that went away, which is an end.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&session.hear(&buffer[..count])).is_err() {
                break;
            }
        }
        say(session.later);
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

/// One session, from its first line on.
#[derive(Default)]
struct Session {
    /// That line, as far as it is there.
    line: Vec<u8>,
    /// Whether it said so.
    echo: bool,
    /// How many lines are owed to the console.
    later: u32,
}

impl Session {
    /// Takes `bytes`; gives the answer.
    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.echo {
            return bytes.to_vec();
        }
        self.line.extend_from_slice(bytes);
        self.command()
    }

    fn command(&mut self) -> Vec<u8> {
        let Some(end) = self.line.iter().position(|&byte| byte == b'\n') else { return Vec::new() };
        let rest = self.line.split_off(end + 1);
        let line = String::from_utf8_lossy(&self.line).trim().to_owned();
        match line.as_str() {
            "echo" => self.echo = true,
            "recall" => return format!("{}\n", remembered()).into_bytes(),
            "card" => return format!("{}\n", card()).into_bytes(),
            "poweroff" => drop(reboot(RebootCommand::PowerOff)),
            "reboot" => drop(reboot(RebootCommand::Restart)),
            // The kernel does not survive its init.
            "panic" => std::process::exit(3),
            line => {
                let (word, count) = line.split_once(' ').unwrap_or((line, "0"));
                if word == "remember" {
                    count.clone_into(&mut remembered());
                    return b"said\n".to_vec();
                }
                let count = count.parse().unwrap_or(0);
                if word == "say-later" {
                    self.later = count;
                } else {
                    say(count);
                }
                return b"said\n".to_vec();
            }
        }
        rest
    }
}

/// The address of the network card, if there is one.
fn card() -> String {
    let devices = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let real = devices.filter(|device| device.path().join("device").exists());
    real.filter_map(|device| fs::read_to_string(device.path().join("address")).ok())
        .map(|address| address.trim().to_owned())
        .collect()
}

/// The word that was to be remembered last.
fn remembered() -> MutexGuard<'static, String> {
    static WORD: Mutex<String> = Mutex::new(String::new());
    WORD.lock().expect("one thread")
}

fn say(count: u32) {
    if count == 0 {
        return;
    }
    for number in 0..count {
        println!("guest: line {number}");
    }
    // The kernel feeds the serial port at its leisure, and a machine that ends takes along what is left.
    tcdrain(std::io::stdout()).expect("the console is a terminal");
}
