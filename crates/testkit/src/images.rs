//! Small root file systems for tests, as tars made from what the machine has.
#![expect(clippy::disallowed_methods, reason = "a test's files are its own")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The applets that tests use.
const APPLETS: &[&str] = &[
    "ash", "cat", "chmod", "cp", "dd", "df", "echo", "env", "false", "grep", "halt", "head", "hostname",
    "id", "kill", "ls", "mkdir", "mount", "mv", "poweroff", "ps", "pwd", "readlink", "reboot", "rm", "seq",
    "sh", "sleep", "stat", "stty", "sync", "tail", "touch", "true", "tty", "umount", "uname", "wc",
];

/// A tar under construction.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, tar::EntryType::Directory, 0o755, b"", None)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, content, None)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, b"", Some(target))
    }

    /// Adds another name of a file, which may be one of a layer below.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, 0o644, b"", Some(target))
    }

    fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        content: &[u8],
        link: Option<&str>,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        if let Some(link) = link {
            header.set_link_name(link).expect("a short target");
        }
        self.0.append_data(&mut header, path, content).expect("memory is writable");
        self
    }

    /// The finished tar.
    ///
    /// # Panics
    /// Never: it is in memory.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("memory is writable")
    }
}

/// Busybox and links to it, without an init: what `FROM scratch` images look like.
#[must_use]
pub fn busybox(program: &Path) -> Vec<u8> {
    with_busybox(program).finish()
}

/// The same with a user, ready for more.
///
/// # Panics
/// Where busybox cannot be read.
#[must_use]
pub fn with_busybox(program: &Path) -> Tar {
    let binary = fs::read(program).expect("it is there");
    let users = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    let base = Tar::default()
        .directory("bin")
        .directory("etc")
        .file("etc/passwd", 0o644, users)
        .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n")
        .file("bin/busybox", 0o755, &binary);
    APPLETS.iter().fold(base, |tar, name| tar.symlink(&format!("bin/{name}"), "busybox"))
}

/// Adds programs of this machine with the libraries that they need, where they lie here.
///
/// # Panics
/// Where one cannot be read.
#[must_use]
pub fn with_programs(tar: Tar, programs: &[&Path]) -> Tar {
    let mut files = BTreeSet::new();
    for program in programs {
        files.insert((*program).to_owned());
        let said = Command::new("ldd").arg(program).output().expect("ldd comes with the C library").stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        files.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    files.iter().fold(tar, |tar, path| {
        let content = fs::read(path).expect("it is there");
        tar.file(&path.to_string_lossy()[1..], 0o755, &content)
    })
}
