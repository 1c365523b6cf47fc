//! The pages of the book that show how to work with banger: each example is run in order, as a user types it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{
    home::Home,
    images::with_busybox,
    kernel_deb, kernel_forge, need,
    oci::{self, Access, Registry},
};

use super::{catalog::proxy, ssh};

/// What a page shows that needs more than banger.
const LEFT_OUT: [&str; 8] = [
    "git clone <the repository> banger",
    "cd banger",
    "cargo xtask demo",
    "cargo build --release",
    "export PATH=$PWD/target/release:$PATH",
    // It takes minutes; the test of the default image does it.
    "banger image build debian-bookworm                # the default image, with Debian's mmdebstrap, as an ordinary user",
    // Not every host has a kernel of its own.
    "banger kernel import host --host                           # the one this host runs",
    "banger kernel import host --host                      # the one this host runs",
];

/// Where a page tells another exit code than 0.
const CODES: [(&str, i32); 1] = [("banger vm run --rm -- sh -c 'echo out; echo err >&2; exit 42'", 42)];

/// What a page says to do.
enum Step {
    /// A line of an indented block, to be typed.
    Type(String),
    /// A block of TOML, to be the configuration.
    Configure(String),
}

/// What is to be done by a page, in its order.
fn steps(page: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src").join(page);
    let text = fs::read_to_string(path).unwrap();
    let (mut steps, mut toml) = (Vec::new(), None::<String>);
    for line in text.lines() {
        match (&mut toml, line) {
            (Some(block), "```") => {
                steps.push(Step::Configure(std::mem::take(block)));
                toml = None;
            }
            (Some(block), line) => block.extend([line, "\n"]),
            (None, "```toml") => toml = Some(String::new()),
            (None, line) => {
                let typed = line.strip_prefix("    ").filter(|line| !LEFT_OUT.contains(line));
                steps.extend(typed.map(|line| Step::Type(line.to_owned())));
            }
        }
    }
    steps
}

/// A place to work in, with a repository of a user who types there.
struct Desk {
    home: Home,
    place: PathBuf,
    /// Variables that are set there.
    env: Vec<(&'static str, String)>,
    /// What stands in a page for something of this test.
    instead: Vec<(&'static str, String)>,
}

impl Desk {
    fn new() -> Option<Self> {
        let home = ssh::home_with_image("debian-bookworm")?.with_env("BANGER_VM_DEFAULTS_MEMORY", "256M");
        let desk = Self::in_home(home);
        fs::create_dir_all(desk.place.join("repo")).unwrap();
        // They look for their configuration where the user database says, not in HOME.
        for name in ["ssh", "scp"] {
            desk.program(name, &format!("exec /usr/bin/{name} -F \"$HOME/.ssh/config\" \"$@\""));
        }
        fs::write(desk.place.join("repo/Makefile"), "test:\n").unwrap();
        desk.must("cd repo && git init -q -b main && git add . && git commit -q -m first");
        Some(desk)
    }

    /// An empty one in `home`.
    fn in_home(home: Home) -> Self {
        let place = home.path().join("desk");
        fs::create_dir_all(place.join("bin")).unwrap();
        Self { home, place, env: Vec::new(), instead: Vec::new() }
    }

    /// Puts the program `name` there, a script.
    fn program(&self, name: &str, script: &str) {
        let path = self.place.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The exit code of what is typed, and what it said.
    fn types(&self, line: &str) -> (Option<i32>, String) {
        let path =
            [&self.place.join("bin"), self.home.programs()].map(|dir| dir.display().to_string()).join(":");
        #[expect(clippy::disallowed_methods, reason = "it is what a user types into a shell")]
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(&self.place).env_clear().env("HOME", &self.place);
        shell.env("PATH", format!("{path}:/usr/bin:/bin")).env("BANGER_HOME", self.home.path());
        shell.env("BANGER_VM_DEFAULTS_MEMORY", "256M").env("GIT_CONFIG_GLOBAL", self.place.join("gitconfig"));
        for who in ["AUTHOR", "COMMITTER"] {
            shell.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@b");
        }
        let output = shell.envs(self.env.iter().map(|(name, value)| (name, value))).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn must(&self, line: &str) {
        let (code, said) = self.types(line);
        assert_eq!(code, Some(0), "{line}: {said}");
    }

    fn follow(&self, page: &str) {
        let steps = steps(page);
        assert!(!steps.is_empty(), "{page} has examples");
        for step in steps {
            let line = match step {
                Step::Type(line) => self.instead.iter().fold(line, |line, (from, to)| line.replace(from, to)),
                Step::Configure(text) => {
                    self.configure(&text);
                    continue;
                }
            };
            let expect = CODES.iter().find(|(of, _)| *of == line).map_or(0, |(_, code)| *code);
            let (code, said) = self.types(&line);
            assert_eq!(code, Some(expect), "{page}: {line}: {said}");
        }
    }
}

impl Desk {
    /// Makes `text` the configuration, with the catalog and the key that were made at this desk.
    fn configure(&self, text: &str) {
        let public = fs::read_to_string(self.place.join("catalog.pub")).unwrap();
        let line = |line: &str| match line.split_once(" = ") {
            Some(("catalog_key", _)) => format!("catalog_key = {:?}\n", public.lines().nth(1).unwrap()),
            _ => format!("{line}\n"),
        };
        let catalog = format!("file://{}/catalog/", self.place.display());
        let text: String = text.replace("https://banger.example/", &catalog).lines().map(line).collect();
        fs::create_dir_all(self.home.path().join("config")).unwrap();
        fs::write(self.home.path().join("config/config.toml"), text).unwrap();
    }
}

/// A desk with what the pages on images and kernels take for granted, and the registry that all names in them lead to.
fn with_images() -> Option<(Desk, [Registry; 2])> {
    let home = super::home()?.with_env("BANGER_VM_DEFAULTS_MEMORY", "256M");
    let busybox = need::program("busybox", "busybox")?;
    let minisign = need::program("minisign", "minisign")?;
    need::program("jq", "jq")?;
    let mut desk = Desk::in_home(home);
    let os_release = b"ID=of-the-book\n";
    let root = with_busybox(&busybox).file("etc/os-release", 0o644, os_release).finish();
    let (tar, made) = (desk.place.join("rootfs.tar"), desk.place.join("made"));
    fs::write(&tar, &root).unwrap();
    oci::layout(&made, "1", &[&root], &[], &["--config.cmd=/bin/true"])?;
    let names = ["registry-1.docker.io", "ghcr.io", "registry.example"];
    let (secure, authority) = Registry::start_secure(&names)?;
    for name in ["library/alpine:3.20", "org/app:1.2", "tool:2"] {
        secure.push(&made, "1", name);
    }
    let local = Registry::start(Access::Anonymous)?;
    let (port, _) = proxy(secure.address());
    desk.env = vec![
        ("HTTPS_PROXY", format!("http://127.0.0.1:{port}")),
        ("SSL_CERT_FILE", authority.display().to_string()),
    ];
    desk.instead = vec![
        ("localhost:5000", local.address()),
        ("/srv/catalog", desk.place.join("catalog").display().to_string()),
        // Nobody is there to type a password.
        ("minisign -G", format!("{} -G -W", minisign.display())),
    ];

    // What builds images is skopeo here, which writes what they write.
    let copy = "skopeo --insecure-policy copy --quiet --dest-tls-verify=false oci:$HOME/made:1";
    let save = |kind: &str, name: &str| {
        let archive = "$HOME/archive";
        format!("rm -f {archive}; {copy} {kind}:{archive}:{name} >&2 && cat {archive}")
    };
    let docker = save("docker-archive", "$2:latest");
    desk.program(
        "docker",
        &format!("case $1 in build) ;; save) {docker} ;; push) {copy} docker://$2 ;; esac"),
    );
    desk.program("podman", &save("oci-archive", "$4"));
    desk.program("buildah", &format!("{copy} $3"));
    desk.program("sudo", "exec \"$@\"");
    desk.program("cargo", &format!("shift; exec {}/xtask \"$@\"", desk.home.programs().display()));

    // Files of the user's.
    desk.must("mkdir -p root tree arch/x86/boot && tar -xf rootfs.tar -C root");
    desk.must(&format!("{copy} oci:./layout:1.2"));
    let package = desk.place.join("linux-image-6.1.0-57-cloud-amd64_6.1.192-3_amd64.deb");
    std::os::unix::fs::symlink(kernel_deb::path()?, package).unwrap();
    for name in ["tree/vmlinuz", "arch/x86/boot/bzImage", "vmlinux"] {
        // It says what it is itself, wherever it lies.
        fs::write(desk.place.join(name), kernel_forge::vmlinux_with_config()).unwrap();
    }
    let rootfs = desk.home.run(&["image", "show", "busybox", "-o", "json"]).json()["rootfs"].clone();
    fs::copy(rootfs.as_str().unwrap(), desk.place.join("disk.ext4")).unwrap();
    // The daemon of before does not know of the proxy.
    let _ = desk.home.run(&["daemon", "stop"]);
    Some((desk, [secure, local]))
}

#[test]
fn images_and_kernels_work_as_they_are_written() {
    let Some((desk, _registries)) = with_images() else { return };
    desk.follow("images.md");
}

#[test]
fn your_own_image_works_as_it_is_written() {
    let Some((desk, _registries)) = with_images() else { return };
    desk.follow("own-image.md");
    let images = desk.home.ok(&["image", "list"]);
    let names = [
        "alpine-3.20",
        "app",
        "of-docker",
        "of-podman",
        "of-buildah",
        "mine",
        "whole",
        "of-root",
        "disk",
        "own",
        "tools",
    ];
    for name in names {
        assert!(
            images.lines().any(|line| line.starts_with(&format!("{name} "))),
            "{name} is not in\n{images}"
        );
    }
}

#[test]
fn getting_started_works_as_it_is_written() {
    let Some(desk) = Desk::new() else { return };
    desk.follow("getting-started.md");
}

#[test]
fn workspaces_work_as_they_are_written() {
    let Some(desk) = Desk::new() else { return };
    desk.follow("workspaces.md");
    assert_eq!(fs::read_to_string(desk.place.join("repo/formatted")).unwrap(), "yes\n");
}

#[test]
fn snapshots_work_as_they_are_written() {
    let Some(desk) = Desk::new() else { return };
    desk.follow("snapshots.md");
    assert_eq!(
        desk.home.ok(&["vm", "exec", "one", "--", "cat", "/tmp/ready"]),
        "all that takes long to get ready"
    );
    assert!(!desk.home.ok(&["snapshot", "list"]).contains("warm"));
}

#[test]
fn ssh_works_as_it_is_written() {
    let Some(desk) = Desk::new() else { return };
    desk.must("banger vm create --name dev");
    ssh::start_sshd(&desk.home);
    desk.must("banger vm exec dev -- git init -q --bare /root/repo.git");
    desk.must("mkdir src && echo notes > notes.txt && echo source > src/main");
    desk.must("git init -q -b main && git add notes.txt src && git commit -q -m first");
    desk.follow("ssh.md");
    desk.must("banger vm exec dev -- sh -c 'cat notes.txt src/main && git -C repo.git rev-parse main'");
}
