//! OpenSSH into a machine: by `vm ssh`, and by the configuration that `ssh-config` gives to the user's own programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{
    home::{Home, wait_until},
    images::{with_busybox, with_programs},
    need,
};

use super::home;
use crate::banger::DEADLINE;

/// What `make` is in the image.
const MAKE: &str = "#!/bin/sh\nif [ \"$1\" = format ]; then echo yes > formatted; fi\n";

/// A home with the image `name`: an sshd that nobody starts, and what scp, rsync and git need on the far side.
pub fn home_with_image(name: &str) -> Option<Home> {
    let home = home()?;
    let busybox = need::program("busybox", "busybox")?;
    let programs = [
        need::program("sshd", "sshd")?,
        need::program("rsync", "rsync")?,
        need::program("git", "git")?,
        need::program("ssh", "ssh-keygen")?,
    ];
    let sftp = PathBuf::from("/usr/lib/openssh/sftp-server");
    // The default exchange of keys takes an emulated guest seconds.
    let config = "Include /etc/ssh/sshd_config.d/*.conf\nSubsystem sftp /usr/lib/openssh/sftp-server\n\
                  KexAlgorithms curve25519-sha256\n";
    let users = b"root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n";
    let mut all: Vec<&Path> = programs.iter().map(PathBuf::as_path).collect();
    all.push(&sftp);
    let tar = with_programs(with_busybox(&busybox), &all)
        .file("etc/passwd", 0o644, users)
        .file("etc/ssh/sshd_config", 0o644, config.as_bytes())
        .file("bin/make", 0o755, MAKE.as_bytes())
        .symlink("bin/git", &programs[2].to_string_lossy())
        .symlink("bin/git-receive-pack", &programs[2].to_string_lossy())
        .symlink("bin/rsync", &programs[1].to_string_lossy());
    let tar = tar.finish();
    let imported = home.run_with(&["image", "import", "-", "--name", name], &tar);
    assert!(imported.status.success(), "{}", imported.stderr);
    Some(home)
}

/// A machine `dev` of it.
fn machine() -> Option<Home> {
    let home = home_with_image("sshd")?;
    let _ = home.ok(&["vm", "create", "--name", "dev", "--image", "sshd", "--memory", "256M"]);
    Some(home)
}

/// Starts it and waits until it listens, which it may do only after it went to the background.
pub fn start_sshd(home: &Home) {
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "mkdir -p /run/sshd && /usr/sbin/sshd"]);
    wait_until(DEADLINE, "the sshd listens", || home.ok(&["vm", "ports", "dev"]).contains("sshd"));
}

fn stop_sshd(home: &Home) {
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", "kill $(cat /run/sshd.pid)"]);
    wait_until(DEADLINE, "the sshd is gone", || !home.ok(&["vm", "ports", "dev"]).contains("sshd"));
}

/// Runs a program of the user's that must succeed; gives what it printed.
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn vm_ssh_is_openssh_with_a_pinned_key() {
    let Some(home) = machine() else { return };
    let without = home.run(&["-v", "vm", "ssh", "dev", "--", "echo", "hi"]);
    assert_eq!((without.code(), without.text().as_str()), (0, "hi"), "{}", without.stderr);
    assert!(without.stderr.contains("dev has no sshd that listens"), "{}", without.stderr);
    start_sshd(&home);
    let by_ssh =
        ["vm", "ssh", "dev", "--", "sh", "-c", "echo $SSH_CONNECTION \"$0\" \"$1\"", "a  b", "it's $HOME"];
    let said = home.ok(&by_ssh);
    assert!(said.starts_with("127.0.0.1 ") && said.ends_with(" a  b it's $HOME"), "{said}");
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 255", 125)] {
        assert_eq!(home.run(&["vm", "ssh", "dev", "--", "sh", "-c", script]).code(), code, "{script}");
    }
    assert_eq!(home.run(&["vm", "ssh", "dev", "--", "nonesuch"]).code(), 127);
    let quiet = home.run(&["vm", "ssh", "dev", "--", "true"]);
    assert_eq!((quiet.code(), quiet.text().as_str(), quiet.stderr.as_str()), (0, "", ""));

    // The key stays that of the machine over a stop; the agent puts it there again.
    let pins = home.path().join("state/ssh/known_hosts");
    let before = fs::read_to_string(&pins).unwrap();
    let _ = home.ok(&["vm", "restart", "dev"]);
    start_sshd(&home);
    assert_eq!(home.run(&["vm", "ssh", "dev", "--", "true"]).code(), 0);
    assert_eq!(fs::read_to_string(&pins).unwrap(), before);

    // A guest that shows another key than the one it was given is refused, with the place of the pin.
    stop_sshd(&home);
    let key = "/etc/ssh/ssh_host_ed25519_key";
    let swap = format!("rm {key}; ssh-keygen -q -t ed25519 -N '' -f {key}");
    let _ = home.ok(&["vm", "exec", "dev", "--", "sh", "-c", &swap]);
    start_sshd(&home);
    let changed = home.run(&["vm", "ssh", "dev", "--", "echo", "never"]);
    assert_eq!((changed.code(), changed.text().as_str()), (125, ""));
    let place = format!("{}:1", pins.display());
    assert!(changed.stderr.contains(&place), "{}", changed.stderr);
    // Without pins too.
    let kept = fs::read(&pins).unwrap();
    fs::remove_file(&pins).unwrap();
    assert_eq!(home.run(&["vm", "ssh", "dev", "--", "echo", "never"]).code(), 125);
    fs::write(&pins, kept).unwrap();

    let _ = home.ok(&["vm", "delete", "dev"]);
    assert_eq!(fs::read_to_string(&pins).unwrap(), "");
}

#[test]
fn scp_rsync_and_git_push_find_machines_by_the_users_configuration() {
    let Some(home) = machine() else { return };
    start_sshd(&home);
    let user = home.path().join("user");
    fs::create_dir_all(user.join(".ssh")).unwrap();
    let config = user.join(".ssh/config");
    fs::write(&config, "Host other\n  User me\n").unwrap();
    let ssh_config = |flag: &str| {
        let status = home.command(&["ssh-config", flag]).env("HOME", &user).output().unwrap().status;
        assert!(status.success());
        fs::read_to_string(&config).unwrap()
    };
    let installed = ssh_config("--install");
    assert_eq!(ssh_config("--install"), installed, "a second time changes nothing");
    let printed = home.ok(&["ssh-config"]);
    let (path, line) = printed.split_once('\n').unwrap();
    assert_eq!(installed, format!("# banger: begin\n{line}\n# banger: end\nHost other\n  User me\n"));
    assert!(Path::new(path).is_file() && line == format!("Include \"{path}\""));

    let told = ok(Command::new("ssh").arg("-GF").arg(&config).arg("dev.banger"));
    for line in ["forwardagent no", "identitiesonly yes", "stricthostkeychecking true", "user root"] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }

    let ssh = format!("ssh -F {}", config.display());
    let file = home.path().join("file");
    fs::write(&file, "one\n").unwrap();
    let _ = ok(Command::new("scp").arg("-qF").arg(&config).arg(&file).arg("dev.banger:/root/scp"));
    let _ = ok(Command::new("rsync").args(["-e", &ssh]).arg(&file).arg("dev.banger:/root/rsync"));
    assert_eq!(home.ok(&["vm", "exec", "dev", "--", "cat", "/root/scp", "/root/rsync"]), "one\none");

    let repo = home.path().join("repo");
    fs::create_dir(&repo).unwrap();
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(words).current_dir(&repo);
        ok(command.env("GIT_SSH_COMMAND", &ssh))
    };
    let _ = git(&["init", "-q", "-b", "main"]);
    let _ = git(&["commit", "-q", "--allow-empty", "-m", "pushed"]);
    let _ = home.ok(&["vm", "exec", "dev", "--", "git", "init", "-q", "--bare", "/root/bare"]);
    let _ = git(&["push", "-q", "dev.banger:/root/bare", "main"]);
    let there = home.ok(&["vm", "exec", "dev", "--", "git", "-C", "/root/bare", "rev-parse", "main"]);
    assert_eq!(there, git(&["rev-parse", "HEAD"]));

    assert_eq!(ssh_config("--uninstall"), "Host other\n  User me\n");
}

#[test]
fn an_sshd_that_goes_on_from_a_snapshot_has_the_key_of_its_own_machine() {
    let Some(home) = machine() else { return };
    start_sshd(&home);
    let _ = home.ok(&["vm", "snapshot", "dev", "warm"]);
    for name in ["one", "two"] {
        let _ = home.ok(&["vm", "create", "--snapshot", "warm", "--name", name]);
    }
    // ssh checks each key against that of its machine, which was known before.
    for name in ["one", "dev", "two"] {
        let said = home.run(&["-v", "vm", "ssh", name, "--", "sh", "-c", "echo $SSH_CONNECTION $(hostname)"]);
        assert_eq!(said.code(), 0, "{}", said.stderr);
        assert!(said.text().starts_with("127.0.0.1 ") && said.text().ends_with(name), "{}", said.text());
    }
}
