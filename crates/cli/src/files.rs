//! Files of this host as a tar for a guest, and a guest's tar as files of this host.
//!
//! A guest is hostile, and its tar may be anything: nothing is made outside of what was asked for or through a link, links that lead
//! out are left out, and all lengths are bounded.

mod pack;
mod unpack;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use pack::pack;
pub use unpack::unpack;

use crate::text::visible;

/// Of how many that were left out the names are kept.
const NAMED: usize = 5;

/// Why files were not copied. What was copied before stays.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file of this host cannot be read or made.
    #[error("cannot copy {}", shown(.0))]
    Host(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is no tar that the agent makes, or breaks off.
    #[error("what the guest sent is malformed")]
    Malformed(#[source] io::Error),
    /// What came names something that is not made.
    #[error("the guest sent {}, which is refused", shown(.0))]
    Refused(PathBuf),
    /// More came than is taken.
    #[error("the guest sent {0}, and no more is taken")]
    TooMuch(&'static str),
    /// Whoever takes the tar takes no more.
    #[error("the copy broke off")]
    Gone,
}

/// What was not copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    count: usize,
    first: Vec<PathBuf>,
}

impl Left {
    fn out(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path.to_owned());
        }
    }

    /// A sentence about it, where there is anything.
    #[must_use]
    pub fn sentence(&self, what: &str) -> Option<String> {
        let names: Vec<_> = self.first.iter().map(|path| shown(path)).collect();
        let rest = if self.count > names.len() { ", …" } else { "" };
        (self.count > 0).then(|| format!("left out {} {what}: {}{rest}", self.count, names.join(", ")))
    }
}

/// A path for people.
fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}
