//! The judge of file systems. It takes milliseconds, in which a fuzzer tries hundreds of others, so it is asked for some only.
#![expect(clippy::disallowed_methods, reason = "it runs the tool that judges")]

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    path::Path,
    process::{Command, Stdio},
};

/// How often it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Always.
    Always,
    /// For one input in thirty-two, always the same.
    Sometimes,
}

impl Asked {
    /// Lets e2fsck look at `image`, which was made of `data`.
    ///
    /// # Panics
    /// Where it finds something, or cannot be run.
    pub fn check(self, data: &[u8], image: &Path) {
        let chosen = || {
            let mut hasher = DefaultHasher::new();
            data.hash(&mut hasher);
            hasher.finish().is_multiple_of(32)
        };
        if self == Self::Sometimes && !chosen() {
            return;
        }
        let system = ["/usr/sbin/e2fsck", "/sbin/e2fsck"].into_iter().find(|path| Path::new(path).is_file());
        let output = Command::new(system.unwrap_or("e2fsck"))
            .arg("-fn")
            .arg(image)
            .stdin(Stdio::null())
            .output()
            .expect("e2fsck runs");
        assert!(output.status.success(), "e2fsck says:\n{}", String::from_utf8_lossy(&output.stdout));
    }
}
