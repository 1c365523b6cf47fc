//! Bad input is told before anything is made, with what to type instead; and bad guests leave one of the right worlds.

use testkit::{
    home::{Home, Output},
    images::{Tar, with_busybox},
    need,
};

use super::{create, home};

/// The command fails with `code`, says `expect`, and nothing of a VM is there afterwards.
fn check(home: &Home, words: &[&str], code: i32, expect: &str) -> Output {
    let output = home.run(words);
    assert_eq!(output.code(), code, "{words:?}: {}", output.stderr);
    assert!(output.stderr.contains(expect), "{words:?}: {expect:?} is not in\n{}", output.stderr);
    assert_eq!(home.ok(&["vm", "list", "-q"]), "", "{words:?}");
    assert!(home.leftovers().is_empty(), "{words:?}");
    output
}

#[test]
fn wrong_words_are_refused_before_anything_is_made() {
    let Some(home) = home() else { return };
    for (words, code, expect) in [
        (&["vm", "create", "--name", "Not-A-Label"][..], 2, "is not allowed"),
        (&["vm", "create", "--name", "-x"], 2, ""),
        (&["vm", "create", "--vcpu", "0", "--image", "busybox"], 2, "vcpu"),
        (&["vm", "create", "--memory", "0", "--image", "busybox"], 2, "more than zero"),
        (&["vm", "create", "--disk-size", "-1G", "--image", "busybox"], 2, ""),
        (&["vm", "create", "--memory", "9000G", "--image", "busybox"], 2, "out of range"),
        (&["vm", "create", "--image", "nowhere"], 4, "there is no image \"nowhere\""),
        (&["vm", "create", "--image", "busybox", "--vmm", "xen"], 2, "invalid value"),
        (&["vm", "run", "-d", "--rm", "--image", "busybox"], 2, "--rm"),
        (&["vm", "run", "--from", "x", "--image", "busybox"], 2, "--branch"),
        (&["vm", "start", "nobody"], 4, "there is no VM \"nobody\""),
        (&["vm", "exec", "nobody", "--", "true"], 125, "there is no VM \"nobody\""),
    ] {
        check(&home, words, code, expect);
    }
}

#[test]
fn a_name_is_taken_once() {
    let Some(home) = home() else { return };
    let words = |name| [&create(name)[..], &["--no-start"]].concat();
    let _ = home.ok(&words("beta-sandbox"));
    let _ = home.ok(&words("beta"));
    let again = home.run(&words("beta"));
    assert_eq!(again.code(), 1);
    assert!(again.stderr.contains("the name beta is taken"), "{}", again.stderr);
    assert_eq!(home.run(&["vm", "show", "bet"]).code(), 1, "ambiguous");
    assert_eq!(home.vm("beta-")["name"], "beta-sandbox");
}

#[test]
fn broken_images_are_refused_and_leave_nothing() {
    let Some(home) = home() else { return };
    let whole = Tar::default().file("etc/x", 0o644, &[7; 100_000]).finish();
    let escape = {
        // A path with dots is written by hand: the library refuses to.
        let mut tar = Tar::default().file("aa/aa/aa/x", 0o644, b"x").finish();
        tar[..10].copy_from_slice(b"../../../x");
        let sum: u32 = tar[..512]
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar
    };
    for (name, bytes, expect) in [
        ("cut", &whole[..50_000], "cut off"),
        ("escape", &escape[..], "../../../x"),
        ("text", b"this is no tar at all, only a line of text".repeat(40).as_slice(), "tar"),
        ("empty", b"", ""),
    ] {
        let output = home.run_with(&["image", "import", "-", "--name", name], bytes);
        assert_eq!(output.code(), 1, "{name}: {}", output.stderr);
        assert!(output.stderr.contains(expect), "{name}: {}", output.stderr);
        assert_eq!(home.run(&["image", "show", name]).code(), 4);
        assert!(home.leftovers().is_empty(), "{name}");
    }
    // The answer comes before all is sent, and is not lost.
    for _ in 0..10 {
        let again = home.run_with(&["image", "import", "-", "--name", "busybox"], &whole);
        assert!(again.stderr.contains("the name busybox is taken"), "{}", again.stderr);
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_begun_is_gone() {
    // The kernel takes most of it.
    let Some(home) = Home::on_small_disk(env!("CARGO_BIN_EXE_banger"), 230 << 20) else { return };
    let random: Vec<u8> =
        (0u32..25 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let tar = Tar::default().file("big", 0o644, &random).finish();
    let output = home.run_with(&["image", "import", "-", "--name", "big"], &tar);
    assert_eq!(output.code(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("hint: free some space"), "{}", output.stderr);
    assert_eq!(home.run(&["image", "show", "big"]).code(), 4);
    assert!(home.leftovers().is_empty());
    // What there was before still works.
    assert_eq!(home.ok(&super::run_rm(&["echo", "fine"])), "fine");
}

#[test]
fn a_kernel_without_virtio_is_refused() {
    let Some(home) = home() else { return };
    // Debian's kernel without its modules, and a configuration that says so.
    let directory = home.path().join("kernel");
    let imported = testkit::tree::list(&home.path().join("state/kernels")).remove(0);
    #[expect(clippy::disallowed_methods, reason = "a test's files are its own")]
    {
        std::fs::create_dir(&directory).unwrap();
        std::fs::copy(imported.join("vmlinuz"), directory.join("vmlinuz")).unwrap();
        std::fs::write(directory.join("config"), "CONFIG_EXT4_FS=y\n# CONFIG_VIRTIO_BLK is not set\n")
            .unwrap();
    }
    let output = home.run(&["kernel", "import", "bare", "--from", &directory.to_string_lossy()]);
    assert_eq!(output.code(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("virtio"), "{}", output.stderr);
    assert_eq!(home.run(&["kernel", "show", "bare"]).code(), 4);
    assert!(home.leftovers().is_empty());
}

#[test]
fn a_missing_vmm_is_told_with_what_to_install() {
    let Some(home) = home() else { return };
    let home = home.with_env("BANGER_QEMU_BIN", "/nonexistent/qemu");
    let output = check(&home, &create("dev"), 1, "/nonexistent/qemu");
    assert!(output.stderr.contains("hint:"), "{}", output.stderr);
}

#[test]
fn an_init_that_dies_at_once_is_an_error_with_its_last_words() {
    let Some(home) = home() else { return };
    let Some(busybox) = need::program("busybox", "busybox") else { return };
    let tar =
        with_busybox(&busybox).file("bin/dies", 0o755, b"#!/bin/sh\necho last words of init\n").finish();
    let imported = home.run_with(&["image", "import", "-", "--name", "dies", "--init", "/bin/dies"], &tar);
    assert!(imported.status.success(), "{}", imported.stderr);
    let words = ["vm", "create", "--name", "dev", "--image", "dies", "--memory", "256M"];
    let output = home.run(&words);
    if output.status.success() {
        // Its agent answered before init had died.
        home.wait_for_state("dev", "error");
    } else {
        assert!(output.stderr.contains("banger vm logs dev"), "{}", output.stderr);
        assert_eq!(home.vm("dev")["state"], "error", "kept for its logs");
    }
    let log = home.ok(&["vm", "logs", "dev"]);
    assert!(log.contains("Attempted to kill init"), "{log}");
}

#[test]
fn a_stranger_is_not_answered() {
    let Some(home) = home() else { return };
    if host::proc::own_uid() != 0 {
        let _: Option<()> = need::missing("root", "no right to become another user");
        return;
    }
    let _ = home.run(&["daemon", "start"]);
    let socket = home.path().join("run/bangerd.sock");
    // As if somebody had opened all the doors on the way.
    for path in [home.path(), socket.parent().unwrap(), &socket] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let ask = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => shift) or die $!; $SIG{PIPE} = 'IGNORE'; \
               print $s \"GET /v1/daemon HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\"; $s->flush; print <$s>";
    let answer = |user: &str| {
        let mut asker = std::process::Command::new("setpriv");
        asker.args([&format!("--reuid={user}"), "--clear-groups", "perl", "-e", ask]).arg(&socket);
        let output = asker.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(answer("0").starts_with("HTTP/1.1 200"));
    assert_eq!(answer("65534"), "");
}
