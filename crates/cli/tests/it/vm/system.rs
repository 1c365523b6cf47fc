//! `banger system` in a real Debian with systemd: banger testing banger.

mod doctor;
mod helper;
mod resolver;
mod service;

use std::process::Command;

use testkit::{home::Home, need};

use super::{home, image::debian};

/// What is in the machine besides Debian's smallest: what helper and daemon need, and what looks at what they did.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,procps,kmod,nftables,iproute2,util-linux,passt,qemu-system-x86,\
     systemd-resolved,libnss-resolve";
/// The owner's number and home.
const OWNER: u32 = 1234;

/// A machine `dev` with banger's programs in it, and somebody who is to own them.
#[expect(clippy::disallowed_methods, reason = "tests use the machine's own tools")]
fn machine(memory: &str) -> Option<Home> {
    let home = home()?;
    let strip = need::program("binutils", "strip")?;
    let tar = debian("units", PACKAGES, &[])?;
    let imported = home.run(&["image", "import", &tar.to_string_lossy(), "--name", "system"]);
    assert!(imported.status.success(), "{}", imported.stderr);
    let create = ["vm", "create", "--name", "dev", "--image", "system", "--memory", memory, "--wait", "init"];
    let _ = home.ok(&create);
    for program in ["banger", "bangerd", "banger-agent", "banger-helper"] {
        let small = home.path().join(program);
        let stripped = Command::new(&strip).arg("-o").arg(&small).arg(home.programs().join(program)).status();
        assert!(stripped.unwrap().success());
        let _ = home.ok(&["vm", "cp", &small.to_string_lossy(), "dev:/srv/"]);
    }
    ok(&home, &format!("useradd --create-home --shell /bin/sh --uid {OWNER} alice"));
    Some(home)
}

/// What a shell's `script` says in the machine, with its code.
fn sh(home: &Home, script: &str) -> (i32, String) {
    let output = home.run(&["vm", "exec", "dev", "--", "sh", "-c", &format!("exec 2>&1\n{script}")]);
    (output.code(), output.text())
}

/// The same for one that must succeed.
fn ok(home: &Home, script: &str) -> String {
    let (code, said) = sh(home, script);
    let log = "journalctl -u banger-helper -u bangerd -n 40 -o cat";
    assert_eq!(code, 0, "{script}\n{said}\n{}", sh(home, log).1);
    said
}

/// The script in which somebody else does what `script` says.
fn of(uid: u32, script: &str) -> String {
    format!("setpriv --reuid {uid} --regid {uid} --clear-groups {script}")
}

/// What is on the machine that an installation could change.
fn traces(home: &Home) -> String {
    ok(home, "find /etc /usr/local -newermt 2000-01-01 | sort; ip -brief link; nft list ruleset")
}
