//! Which VMM runs a VM, as its owner says it, and what is told where that cannot be.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use testkit::home::Home;

use super::{create, home};

/// A program that says `version` and runs no guest.
pub fn program(home: &Home, version: &str) -> PathBuf {
    let path = home.path().join(format!("firecracker-{version}"));
    let script =
        format!("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Firecracker v{version}' && exit\nexit 1\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_firecracker_that_cannot_be_used_is_told_before_anything_is_made() {
    let Some(scripts) = home() else { return };
    for (program, accelerator, expect, hint) in [
        (
            PathBuf::from("/nonexistent/firecracker"),
            "kvm",
            "cannot ask /nonexistent/firecracker",
            "firecracker_bin",
        ),
        (PathBuf::from("/bin/echo"), "kvm", "/bin/echo is not Firecracker", "firecracker_bin"),
        (program(&scripts, "1.7.0"), "kvm", "is Firecracker 1.7.0; 1.8 or newer is needed", "releases"),
        (program(&scripts, "1.12.1"), "tcg", "software emulation is configured", "--vmm qemu"),
        // Whatever this host's KVM is, this one runs no guest with it.
        (program(&scripts, "1.13.0"), "auto", "Firecracker needs KVM, which cannot be used", "--vmm qemu"),
    ] {
        let Some(home) = home() else { return };
        let home = home
            .with_env("BANGER_FIRECRACKER_BIN", program.to_str().unwrap())
            .with_env("BANGER_ACCELERATOR", accelerator);
        let output = home.run(&[&create("dev")[..], &["--vmm", "firecracker"]].concat());
        assert_eq!(output.code(), 1, "{}", output.stderr);
        assert!(output.stderr.contains(expect), "{expect:?} is not in\n{}", output.stderr);
        assert!(output.stderr.contains(hint), "{hint:?} is not in\n{}", output.stderr);
        assert_eq!(home.ok(&["vm", "list", "-q"]), "");
        assert!(home.leftovers().is_empty());
    }
}

#[test]
fn the_word_of_the_command_comes_before_that_of_the_configuration() {
    let Some(home) = home() else { return };
    let script = program(&home, "1.12.1");
    let home = home
        .with_env("BANGER_FIRECRACKER_BIN", script.to_str().unwrap())
        .with_env("BANGER_VMM", "firecracker");
    let refused = home.run(&[&create("dev")[..], &["--no-start"]].concat());
    assert!(refused.stderr.contains("Firecracker needs KVM"), "{}", refused.stderr);
    for (name, word) in [("chosen", "qemu"), ("found", "auto")] {
        let _ = home.ok(&[&create(name)[..], &["--no-start", "--vmm", word]].concat());
        assert_eq!(home.vm(name)["vmm"], "qemu", "--vmm {word}");
    }
}

#[test]
fn a_machine_with_nat_is_firecrackers_where_namespaces_can_be_used() {
    if testkit::need::namespaces().is_none() {
        return;
    }
    let Some(home) = home() else { return };
    let script = program(&home, "1.12.1");
    // Taken at its word that KVM works, it is the best one.
    let home = home
        .with_env("BANGER_FIRECRACKER_BIN", script.to_str().unwrap())
        .with_env("BANGER_ACCELERATOR", "kvm");
    for (name, more) in [("alone", &[][..]), ("connected", &["--nat"])] {
        let _ = home.ok(&[&create(name)[..], &["--no-start"], more].concat());
        assert_eq!(home.vm(name)["vmm"], "firecracker", "{more:?}");
    }
    let _ = home.ok(&["vm", "set", "alone", "--nat"]);
    assert_eq!(home.vm("alone")["nat"], true);
}

#[test]
fn a_network_with_a_rate_is_firecrackers_alone_and_that_is_told_before_anything_is_made() {
    if testkit::need::namespaces().is_none() {
        return;
    }
    let Some(home) = home() else { return };
    let home = home.with_env("BANGER_LIMITS_NETWORK_RATE", "10M").with_env("BANGER_VMM", "qemu");
    let refused = home.run(&[&create("dev")[..], &["--no-start", "--nat"]].concat());
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("limits.network_rate") && refused.stderr.contains("10M"),
        "{}",
        refused.stderr
    );
    assert_eq!(home.ok(&["vm", "list", "-q"]), "");
    let _ = home.ok(&[&create("dev")[..], &["--no-start"]].concat());
    let refused = home.run(&["vm", "set", "dev", "--nat"]);
    assert!(refused.stderr.contains("limits.network_rate"), "{}", refused.stderr);
    assert_eq!(home.vm("dev")["nat"], false);
}
