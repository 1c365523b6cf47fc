//! Images of layers made by umoci, and what it unpacks of them.
#![expect(clippy::disallowed_methods, reason = "a test's files and processes are its own")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::need;

/// umoci at work on one image of an OCI layout.
#[derive(Debug)]
pub struct Umoci {
    program: PathBuf,
    layout: PathBuf,
    tag: String,
}

impl Umoci {
    /// Begins the empty image `tag` in `layout`, which is made where it is missing; without umoci the test has said that it skips.
    ///
    /// # Panics
    /// Where umoci does not do it.
    #[must_use]
    pub fn begin(layout: &Path, tag: &str) -> Option<Self> {
        let program = need::program("umoci", "umoci")?;
        let umoci = Self { program, layout: layout.to_owned(), tag: tag.to_owned() };
        if !layout.exists() {
            run(Command::new(&umoci.program).arg("init").arg("--layout").arg(layout));
        }
        umoci.run(&["new"], &[]);
        Some(umoci)
    }

    /// Runs `umoci WORDS --image … MORE`.
    ///
    /// # Panics
    /// Where umoci does not do it.
    #[track_caller]
    pub fn run(&self, words: &[&str], more: &[&str]) {
        run(self.command(words).args(more));
    }

    /// Adds a tar as a layer, compressed by umoci.
    ///
    /// # Panics
    /// Where umoci does not do it.
    #[track_caller]
    pub fn add(&self, tar: &[u8]) {
        let file = self.layout.with_extension("tar");
        fs::write(&file, tar).expect("a test's directory is writable");
        self.run(&["raw", "add-layer"], &[&file.display().to_string()]);
        fs::remove_file(file).expect("it was just written");
    }

    /// Unpacks the image into the new directory `out`, as root.
    ///
    /// # Panics
    /// Where umoci refuses it.
    #[track_caller]
    pub fn unpack(&self, out: &Path) -> Option<()> {
        self.try_unpack(out).map(|is_unpacked| assert!(is_unpacked, "umoci unpacks it"))
    }

    /// The same, and whether umoci does it; nothing is said where this user has no right to.
    ///
    /// # Panics
    /// Where umoci does not start.
    pub fn try_unpack(&self, out: &Path) -> Option<bool> {
        need::root("unpack owners and devices")?;
        let output = self.command(&["raw", "unpack"]).arg(out).stdin(Stdio::null()).output();
        Some(output.expect("it starts").status.success())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--image").arg(format!("{}:{}", self.layout.display(), self.tag));
        command
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
