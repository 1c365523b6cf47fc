//! Files of the owner's that every start puts into its guest: which may be named, before anything of them is looked at.

use std::{fmt, path::Path};

use crate::workspace::MAX_PATH;

/// Where an owner's home begins in a setting, as in a shell.
const HOME: &str = "~/";
/// The one directory of a guest that such files go into.
const GUEST_HOME: &str = "/root/";

/// The most bytes of all such files together: they are settings and keys, and travel at every start.
pub const MAX_SYNCED: u64 = 32 << 20;
/// The most files and directories of all of them.
pub const MAX_SYNCED_FILES: usize = 10_000;

/// A file or directory that every start puts into its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSync {
    /// Where it is here.
    pub host: HostPath,
    /// Where it goes.
    pub guest: HomePath,
    /// The permissions of the file, or of each file in the directory; without it those that it has here.
    pub mode: Option<u32>,
}

/// A path of the host's: `~/…` or absolute, and clean. That it leads to something in the owner's home shows when it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath(String);

/// A path below a guest's `/root`, without that; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomePath(String);

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncError {
    /// It is no table.
    Table,
    /// A key is none of those that there are.
    Unknown,
    /// It lacks a key.
    Missing(&'static str),
    /// It is no string.
    Text(&'static str),
    /// The path of the host begins elsewhere.
    Host,
    /// The path of the guest is not below its home.
    Guest,
    /// A path has `.`, `..`, an empty name or a control character in it, or is too long.
    Unclean(&'static str),
    /// The mode is none.
    Mode,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("an entry is a table: write [[file_sync]], and its keys below"),
            Self::Unknown => f.write_str("the keys are `host`, `guest` and `mode`"),
            Self::Missing(key) => write!(f, "it has no `{key}`"),
            Self::Text(key) => write!(f, "`{key}` is a string"),
            Self::Host => f.write_str("`host` begins with ~/ or /"),
            Self::Guest => f.write_str("`guest` is below /root: ~/… or /root/…"),
            Self::Unclean(key) => {
                write!(f, "`{key}` has no `.`, no `..`, no empty name, and no slash at its end")
            }
            Self::Mode => f.write_str("`mode` is a string of octal digits, up to \"0777\""),
        }
    }
}

impl std::error::Error for SyncError {}

impl TryFrom<&str> for HostPath {
    type Error = SyncError;

    fn try_from(text: &str) -> Result<Self, SyncError> {
        let below = text.strip_prefix(HOME).or_else(|| text.strip_prefix('/')).ok_or(SyncError::Host)?;
        if is_clean(below) { Ok(Self(text.to_owned())) } else { Err(SyncError::Unclean("host")) }
    }
}

impl HostPath {
    /// The path, where the owner's home is `home`.
    #[must_use]
    pub fn inside(&self, home: &Path) -> std::path::PathBuf {
        match self.0.strip_prefix(HOME) {
            Some(below) => home.join(below),
            None => self.0.as_str().into(),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for HomePath {
    type Error = SyncError;

    fn try_from(text: &str) -> Result<Self, SyncError> {
        let below =
            text.strip_prefix(HOME).or_else(|| text.strip_prefix(GUEST_HOME)).ok_or(SyncError::Guest)?;
        if is_clean(below) { Ok(Self(below.to_owned())) } else { Err(SyncError::Unclean("guest")) }
    }
}

impl HomePath {
    /// The path below `/root`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {GUEST_HOME}{}", self.host.0, self.guest.0)?;
        self.mode.map_or(Ok(()), |mode| write!(f, " ({mode:04o})"))
    }
}

/// Permissions as chmod(1) takes them in digits, without the bits that give a program another's rights.
///
/// # Errors
/// Where they are none.
pub fn mode(text: &str) -> Result<u32, SyncError> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or(SyncError::Mode)
}

fn is_clean(below: &str) -> bool {
    let fits = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_PATH.1;
    below.len() < MAX_PATH.0 && !below.chars().any(char::is_control) && below.split('/').all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host() {
        for (text, expect) in [
            ("~/.netrc", Ok("/home/me/.netrc")),
            ("/home/me/.config/tool", Ok("/home/me/.config/tool")),
            (".netrc", Err(SyncError::Host)),
            ("~other/.netrc", Err(SyncError::Host)),
            ("", Err(SyncError::Host)),
            ("~/", Err(SyncError::Unclean("host"))),
            ("~/a/../b", Err(SyncError::Unclean("host"))),
            ("~/a//b", Err(SyncError::Unclean("host"))),
            ("~/a\n", Err(SyncError::Unclean("host"))),
        ] {
            let path = HostPath::try_from(text).map(|path| path.inside(Path::new("/home/me")));
            assert_eq!(path, expect.map(Into::into), "{text:?}");
        }
    }

    #[test]
    fn paths_of_the_guest() {
        let long = format!("/root/{}", "x".repeat(256));
        for (text, expect) in [
            ("/root/.netrc", Ok(".netrc")),
            ("~/.config/tool", Ok(".config/tool")),
            ("/root", Err(SyncError::Guest)),
            ("/etc/passwd", Err(SyncError::Guest)),
            ("/rootkit/x", Err(SyncError::Guest)),
            ("/root/", Err(SyncError::Unclean("guest"))),
            ("/root/../etc/passwd", Err(SyncError::Unclean("guest"))),
            ("/root/a/", Err(SyncError::Unclean("guest"))),
            (&long, Err(SyncError::Unclean("guest"))),
        ] {
            let path = HomePath::try_from(text);
            assert_eq!(path.as_ref().map(HomePath::as_str), expect.as_ref().copied(), "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal_and_give_nobody_anothers_rights() {
        assert_eq!(mode("0600"), Ok(0o600));
        assert_eq!(mode("755"), Ok(0o755));
        for wrong in ["", "6", "0o600", "0800", "4755", "+600", "00600"] {
            assert_eq!(mode(wrong), Err(SyncError::Mode), "{wrong:?}");
        }
    }
}
