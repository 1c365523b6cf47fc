//! The pages of the book that show how to work with banger: each example is run in order, as a user types it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::home::Home;

use super::ssh;

/// What a page shows that needs more than banger.
const LEFT_OUT: [&str; 5] = [
    "git clone <the repository> banger",
    "cd banger",
    "cargo xtask demo",
    "cargo build --release",
    "export PATH=$PWD/target/release:$PATH",
];

/// Where a page tells another exit code than 0.
const CODES: [(&str, i32); 1] = [("banger vm run --rm -- sh -c 'echo out; echo err >&2; exit 42'", 42)];

/// The lines of a page's indented blocks.
fn examples(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src").join(page);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned);
    lines.filter(|line| !LEFT_OUT.contains(&&**line)).collect()
}

/// A place to work in, with a repository of a user who types there.
struct Desk {
    home: Home,
    place: PathBuf,
}

impl Desk {
    fn new() -> Option<Self> {
        let home = ssh::home_with_image("debian-bookworm")?.with_env("BANGER_VM_DEFAULTS_MEMORY", "256M");
        let place = home.path().join("desk");
        let programs = place.join("bin");
        fs::create_dir_all(place.join("repo")).unwrap();
        fs::create_dir_all(&programs).unwrap();
        // They look for their configuration where the user database says, not in HOME.
        for name in ["ssh", "scp"] {
            let script = format!("#!/bin/sh\nexec /usr/bin/{name} -F \"$HOME/.ssh/config\" \"$@\"\n");
            fs::write(programs.join(name), script).unwrap();
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let desk = Self { home, place };
        fs::write(desk.place.join("repo/Makefile"), "test:\n").unwrap();
        desk.must("cd repo && git init -q -b main && git add . && git commit -q -m first");
        Some(desk)
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
        let output = shell.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn must(&self, line: &str) {
        let (code, said) = self.types(line);
        assert_eq!(code, Some(0), "{line}: {said}");
    }

    fn follow(&self, page: &str) {
        let lines = examples(page);
        assert!(!lines.is_empty(), "{page} has examples");
        for line in lines {
            let expect = CODES.iter().find(|(of, _)| *of == line).map_or(0, |(_, code)| *code);
            let (code, said) = self.types(&line);
            assert_eq!(code, Some(expect), "{page}: {line}: {said}");
        }
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
