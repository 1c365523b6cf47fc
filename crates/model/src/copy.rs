//! The two sides of a copy: a path of this host, or `REF:PATH` in a guest.

use std::fmt;

/// The longest path and the longest name of Linux.
const MAX_PATH: (usize, usize) = (4095, 255);
/// Where a path begins that does not say.
const HOME: &str = "/root/";

/// An absolute path in a guest. What lies there is the guest's matter: for the host it is text to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPath(String);

/// Why a text is no [`CopyPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPathError {
    /// It does not begin at the root.
    Relative,
    /// It is longer than a path can be, has such a name in it, or a zero byte.
    Unfit,
}

impl fmt::Display for CopyPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relative => "a path in a guest is absolute here",
            Self::Unfit => "no path is like that",
        })
    }
}

impl std::error::Error for CopyPathError {}

impl TryFrom<&str> for CopyPath {
    type Error = CopyPathError;

    fn try_from(text: &str) -> Result<Self, CopyPathError> {
        if !text.starts_with('/') {
            return Err(CopyPathError::Relative);
        }
        let unfit = text.len() > MAX_PATH.0
            || text.contains('\0')
            || text.split('/').any(|name| name.len() > MAX_PATH.1);
        if unfit { Err(CopyPathError::Unfit) } else { Ok(Self(text.to_owned())) }
    }
}

impl CopyPath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of what lies there; `None` of the root, and where the path ends by going up.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.split('/').rfind(|name| !matches!(*name, "" | ".")).filter(|name| *name != "..")
    }

    /// The same for a directory, whose name may be followed by slashes.
    #[must_use]
    pub fn without_slash(&self) -> Self {
        let trimmed = self.0.trim_end_matches('/');
        Self(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
    }
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side<'a> {
    /// A path of this host.
    Host(&'a str),
    /// A path in the VM that a reference names.
    Guest(&'a str, CopyPath),
}

impl<'a> Side<'a> {
    /// What the word stands for. One that begins with `/` or `.` is this host's whatever follows; a path in a guest that does not
    /// begin with `/` begins in `/root`.
    ///
    /// # Errors
    /// Where the path cannot be one.
    pub fn of(word: &'a str) -> Result<Self, CopyPathError> {
        match word.split_once(':') {
            Some((reference, path)) if !word.starts_with(['/', '.', ':']) => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("{HOME}{path}") };
                Ok(Self::Guest(reference, CopyPath::try_from(&*path)?))
            }
            _ => Ok(Self::Host(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_of_the_host_or_of_a_guest() {
        let guest = |reference, path: &str| Ok(Side::Guest(reference, CopyPath(path.to_owned())));
        let long = format!("dev:/{}", "x".repeat(256));
        for (word, side) in [
            ("file", Ok(Side::Host("file"))),
            ("./dev:file", Ok(Side::Host("./dev:file"))),
            ("/a:b", Ok(Side::Host("/a:b"))),
            (":a", Ok(Side::Host(":a"))),
            ("", Ok(Side::Host(""))),
            ("dev:/etc/passwd", guest("dev", "/etc/passwd")),
            ("dev:notes/a:b", guest("dev", "/root/notes/a:b")),
            ("dev:", guest("dev", "/root/")),
            ("dev:../etc", guest("dev", "/root/../etc")),
            ("dev:/a\0b", Err(CopyPathError::Unfit)),
            (&long, Err(CopyPathError::Unfit)),
        ] {
            assert_eq!(Side::of(word), side, "{word}");
        }
        assert_eq!(CopyPath::try_from("etc"), Err(CopyPathError::Relative));
    }

    #[test]
    fn a_path_ends_in_a_name_or_has_none() {
        for (path, name, bare) in [
            ("/a/b", Some("b"), "/a/b"),
            ("/a/b//", Some("b"), "/a/b"),
            ("/a/.", Some("a"), "/a/."),
            ("/", None, "/"),
            ("/a/..", None, "/a/.."),
        ] {
            let path = CopyPath::try_from(path).unwrap();
            assert_eq!((path.name(), path.without_slash().as_str()), (name, bare), "{path:?}");
        }
    }
}
