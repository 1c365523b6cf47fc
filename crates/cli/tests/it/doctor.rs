//! `banger doctor` with the real programs: it looks, starts nothing, and mends only what is safe to mend.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use testkit::home::{Home, Output};

fn home() -> Home {
    Home::empty(env!("CARGO_BIN_EXE_banger"))
}

/// The verdict and the words of row `name`.
fn row(output: &Output, name: &str) -> (String, String, String) {
    let rows = output.json();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("found"), text("hint"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_examination_starts_and_makes_nothing() {
    let home = home();
    let output = home.run(&["doctor"]);
    assert!(output.stdout.starts_with(b"pass  config "), "{}", output.text());
    assert!(output.text().contains("not running: the first command starts it"), "{}", output.text());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "it makes nothing");
    assert!(home.processes().is_empty(), "{:?}", home.processes());
}

#[test]
fn what_is_wrong_is_told_with_what_to_type_and_only_modes_are_mended() {
    let home = home();
    let (state, config) = (home.path().join("state"), home.path().join("config"));
    fs::create_dir(&state).unwrap();
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(state.join("banger.db"), "no database").unwrap();
    fs::write(config.join("config.toml"), "vmmm = 'qemu'\n").unwrap();

    let output = home.run(&["doctor", "-o", "json"]);
    assert_eq!(output.code(), 1, "{}", output.stderr);
    let (verdict, found, hint) = row(&output, "config");
    assert_eq!(verdict, "fail");
    assert!(found.contains("config.toml:1:1: unknown key `vmmm`"), "{found}");
    assert!(hint.starts_with("edit "), "{hint}");
    let (verdict, found, hint) = row(&output, "directories");
    assert_eq!((verdict.as_str(), hint.as_str()), ("fail", "banger doctor --fix"));
    assert!(found.ends_with("state has mode 0755: others may get in"), "{found}");
    let (verdict, found, hint) = row(&output, "database");
    assert_eq!(verdict, "fail");
    assert!(found.contains("is damaged or none of banger's"), "{found}");
    assert!(hint.contains("banger.db.damaged"), "{hint}");
    assert_eq!(mode(&state), 0o755, "without --fix it only looks");

    let output = home.run(&["doctor", "--fix", "-o", "json"]);
    assert_eq!(output.code(), 1, "the rest is not mended");
    assert_eq!(row(&output, "directories").0, "pass");
    assert_eq!(mode(&state), 0o700);
    assert_eq!(fs::read(state.join("banger.db")).unwrap(), b"no database", "it is left as it was");
    assert_eq!(fs::read(config.join("config.toml")).unwrap(), b"vmmm = 'qemu'\n");
}

#[test]
fn a_directory_that_is_a_link_is_told() {
    let home = home();
    let elsewhere = home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.path().join("state")).unwrap();
    let output = home.run(&["doctor", "--fix", "-o", "json"]);
    let (verdict, found, _) = row(&output, "directories");
    assert_eq!(verdict, "fail");
    assert!(found.ends_with("state is a symbolic link"), "{found}");
}

#[test]
fn a_missing_vmm_is_a_row() {
    let home = home().with_env("BANGER_QEMU_BIN", "/nonexistent/qemu");
    let output = home.run(&["doctor", "-o", "json"]);
    assert_eq!(output.code(), 1);
    let (verdict, found, hint) = row(&output, "qemu");
    assert_eq!(verdict, "fail");
    assert!(found.starts_with("cannot ask /nonexistent/qemu for its version"), "{found}");
    assert_eq!(hint, "check `qemu_bin` in the configuration");
}

#[test]
fn a_vmm_that_is_newer_than_what_was_tested_is_told() {
    let home = home();
    let qemu = home.path().join("qemu");
    fs::write(&qemu, "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 99.1.2'\n").unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let path = qemu.to_str().unwrap().to_owned();
    let (verdict, found, _) =
        row(&home.with_env("BANGER_QEMU_BIN", &path).run(&["doctor", "-o", "json"]), "qemu");
    assert_eq!(verdict, "pass");
    assert_eq!(found, format!("{path} 99.1.2, newer than 7.2, with which banger was tested"));
}

#[test]
fn a_firecracker_that_is_none_is_a_row() {
    let home = home().with_env("BANGER_FIRECRACKER_BIN", "/bin/echo");
    let output = home.run(&["doctor", "-o", "json"]);
    let (verdict, found, hint) = row(&output, "firecracker");
    assert_eq!(verdict, "warn");
    assert!(found.starts_with("/bin/echo is not Firecracker"), "{found}");
    assert_eq!(hint, "check `firecracker_bin` in the configuration");
}

#[test]
fn whether_kvm_works_is_tried_whatever_is_configured() {
    if testkit::need::qemu().is_none() {
        return;
    }
    let found = |accelerator: &str| {
        let output = home().with_env("BANGER_ACCELERATOR", accelerator).run(&["doctor", "-o", "json"]);
        row(&output, "kvm")
    };
    let tried = found("auto");
    assert_eq!(found("kvm"), tried);
    assert_eq!(found("tcg"), tried);
}

#[test]
fn a_daemon_that_runs_is_known_and_what_it_has_is_there() {
    let Some(home) = Home::new(env!("CARGO_BIN_EXE_banger")) else { return };
    let home = home.with_env("BANGER_DEFAULT_IMAGE", "busybox");
    let _ = home.ok(&["daemon", "start"]);
    let output = home.run(&["doctor", "-o", "json"]);
    assert_eq!(output.code(), 0, "{}", output.text());
    for (name, expect) in [
        ("daemon", " runs with pid "),
        ("database", "state/banger.db"),
        ("socket", "run/bangerd.sock"),
        ("image", "busybox, the default"),
        ("kernel", "debian-cloud, the default"),
        ("qemu", "/qemu-system-x86_64 "),
    ] {
        let (verdict, found, _) = row(&output, name);
        assert_eq!(verdict, "pass", "{name}: {found}");
        assert!(found.contains(expect), "{name}: {found}");
    }
    // One that outlived its file is told, not taken for one that works.
    let images = home.path().join("state/images");
    let image = fs::read_dir(&images).unwrap().next().unwrap().unwrap().path();
    fs::rename(image.join("rootfs.ext4"), home.path().join("aside")).unwrap();
    let output = home.run(&["doctor", "-o", "json"]);
    fs::rename(home.path().join("aside"), image.join("rootfs.ext4")).unwrap();
    let (verdict, found, hint) = row(&output, "image");
    assert_eq!(verdict, "fail");
    assert!(found.contains("has lost its file rootfs.ext4"), "{found}");
    assert_eq!(hint, "banger image delete busybox, then make it again");
}

#[test]
fn lines_of_ssh_that_are_out_of_date_are_told_and_mended() {
    let home = home();
    let user = home.path().join("user");
    fs::create_dir(&user).unwrap();
    let home = home.with_env("HOME", user.to_str().unwrap());
    let look = |words: &[&str]| row(&home.run(&[&["doctor", "-o", "json"], words].concat()), "ssh");
    let (verdict, found, _) = look(&[]);
    assert_eq!(verdict, "pass");
    assert!(found.contains("banger ssh-config --install"), "{found}");
    assert!(!user.join(".ssh").exists(), "it makes nothing");

    let config = user.join(".ssh/config");
    fs::create_dir(user.join(".ssh")).unwrap();
    fs::write(&config, "Host a\n  User b\n").unwrap();
    let _ = home.ok(&["ssh-config", "--install"]);
    let installed = fs::read_to_string(&config).unwrap();
    assert_eq!(look(&[]).0, "pass");
    // Of another installation; behind the user's own lines; and a file that is gone.
    let lines = installed.strip_suffix("Host a\n  User b\n").unwrap();
    let behind = format!("Host a\n  User b\n{lines}");
    for changed in [installed.replace("/state/", "/elsewhere/"), behind, installed.clone()] {
        fs::write(&config, changed).unwrap();
        fs::remove_file(home.path().join("state/ssh/config")).unwrap();
        let (verdict, _, hint) = look(&[]);
        assert_eq!(
            (verdict.as_str(), hint.as_str()),
            ("warn", "banger doctor --fix, or banger ssh-config --install")
        );
        assert_eq!(look(&["--fix"]).0, "pass");
        assert_eq!(fs::read_to_string(&config).unwrap(), installed);
        assert!(home.path().join("state/ssh/config").exists());
    }
    // What cannot be told apart is left as it is.
    let damaged = installed.replace("# banger: end\n", "");
    fs::write(&config, &damaged).unwrap();
    let (verdict, found, _) = look(&["--fix"]);
    assert!(verdict == "warn" && found.contains("do not pair"), "{found}");
    assert_eq!(fs::read_to_string(&config).unwrap(), damaged);
}

#[test]
fn what_a_disk_gives_is_told() {
    let (verdict, found, _) = row(&home().run(&["doctor", "-o", "json"]), "disk");
    assert_ne!(verdict, "", "{found}");
    let shares = host::fs::shares_blocks(&std::env::temp_dir());
    assert!(found.contains(if shares { "share their blocks" } else { "has no reflinks" }), "{found}");
}
