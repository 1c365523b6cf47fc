//! Catalogs and their bundles, as somebody publishes them: made with zstd and minisign.
#![expect(clippy::disallowed_methods, reason = "a test's files and processes are its own")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{images::Tar, need};

/// Somebody with a key and a directory to publish in.
#[derive(Debug)]
pub struct Publisher {
    minisign: PathBuf,
    zstd: PathBuf,
    directory: PathBuf,
    key: String,
}

impl Publisher {
    /// Makes a key and the new directory `directory`; without minisign or zstd the test has said that it skips.
    ///
    /// # Panics
    /// Where minisign does not do it.
    #[must_use]
    pub fn new(directory: &Path) -> Option<Self> {
        let minisign = need::program("minisign", "minisign")?;
        let zstd = need::program("zstd", "zstd")?;
        fs::create_dir(directory).expect("a test's directory is writable");
        let (public, secret) = (directory.join("key.pub"), directory.join("key"));
        run(Command::new(&minisign).args(["-G", "-W", "-p"]).arg(&public).arg("-s").arg(&secret));
        let text = fs::read_to_string(&public).expect("it was just written");
        let key = text.lines().nth(1).expect("the key is its second line").to_owned();
        Some(Self { minisign, zstd, directory: directory.to_owned(), key })
    }

    /// The public key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where everything lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The address of the file `name`.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        format!("file://{}", self.directory.join(name).display())
    }

    /// Makes the bundle `name` of the files of a published image or kernel in `from`, and gives its bytes.
    ///
    /// # Panics
    /// Where zstd does not do it.
    pub fn bundle(&self, name: &str, from: &Path) -> Vec<u8> {
        let (path, plain) = (self.directory.join(name), self.directory.join("bundle.tar"));
        let mut files = crate::tree::list(from);
        // The manifest comes first.
        files.sort_by_key(|path| !path.ends_with("manifest.json"));
        // Not by the program `tar`: other tests link these files meanwhile, which it takes for changes.
        let tar = files.iter().fold(Tar::default(), |tar, path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("their names are plain");
            tar.file(name, 0o644, &fs::read(path).expect("it is there"))
        });
        fs::write(&plain, tar.finish()).expect("a test's directory is writable");
        run(Command::new(&self.zstd).args(["-q", "-f", "--rm"]).arg(&plain).arg("-o").arg(&path));
        fs::read(&path).expect("it was just written")
    }

    /// Publishes a catalog of `kind` with these entries as `<kind>.json`, signed.
    pub fn publish(&self, kind: &str, serial: u64, entries: &[Value]) {
        let text = json!({ "version": 1, "kind": kind, "serial": serial, "entries": entries }).to_string();
        self.publish_text(kind, text.as_bytes());
    }

    /// Publishes `text` as the catalog of `kind`, signed.
    ///
    /// # Panics
    /// Where minisign does not do it.
    pub fn publish_text(&self, kind: &str, text: &[u8]) {
        let path = self.directory.join(format!("{kind}.json"));
        fs::write(&path, text).expect("a test's directory is writable");
        let mut minisign = Command::new(&self.minisign);
        run(minisign.arg("-S").arg("-s").arg(self.directory.join("key")).arg("-m").arg(&path));
    }
}

/// An entry of a catalog.
#[must_use]
pub fn entry(name: &str, url: &str, sha256: &str, size: usize) -> Value {
    json!({ "name": name, "distro": "test", "arch": std::env::consts::ARCH, "url": url, "sha256": sha256,
            "size": size, "description": format!("the test's {name}") })
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
