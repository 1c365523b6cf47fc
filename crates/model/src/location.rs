//! Where a file can be fetched from: the web, or this host.

use std::{fmt, path::PathBuf};

/// The longest address, in bytes.
const LONGEST: usize = 2_048;

/// A place to fetch one file from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `https://` or `http://`. What is fetched over plain HTTP must be checked by other means.
    Web(String),
    /// An absolute path, written as `file://` and the path.
    File(PathBuf),
}

/// Why a text is no [`Location`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocationError {
    /// It begins with nothing that is known.
    Scheme,
    /// It has no host, or one that cannot be.
    Host,
    /// There is a name or a password in it, which would be shown and logged.
    Credentials,
    /// The path after `file://` is not absolute, or goes up.
    Path,
    /// There is a character in it that no address has.
    Character(char),
    /// It is too long.
    TooLong,
}

impl fmt::Display for LocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("an address begins with https://, http:// or file:///"),
            Self::Host => f.write_str("it has no host"),
            Self::Credentials => f.write_str("it may have no name or password in it"),
            Self::Path => f.write_str("after file:// comes an absolute path without .."),
            Self::Character(found) => write!(f, "{found:?} is not allowed in an address"),
            Self::TooLong => write!(f, "it is longer than {LONGEST} bytes"),
        }
    }
}

impl std::error::Error for LocationError {}

impl TryFrom<&str> for Location {
    type Error = LocationError;

    fn try_from(text: &str) -> Result<Self, LocationError> {
        if text.len() > LONGEST {
            return Err(LocationError::TooLong);
        }
        if let Some(path) = text.strip_prefix("file://") {
            if let Some(found) = text.chars().find(|c| c.is_control()) {
                return Err(LocationError::Character(found));
            }
            let is_fine = path.starts_with('/') && path.split('/').all(|part| part != "..");
            return if is_fine { Ok(Self::File(path.into())) } else { Err(LocationError::Path) };
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or(LocationError::Scheme)?;
        let fits = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(c);
        if let Some(found) = text.chars().find(|c| !fits(*c)) {
            return Err(LocationError::Character(found));
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(LocationError::Credentials);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(LocationError::Host);
        }
        Ok(Self::Web(text.to_owned()))
    }
}

impl Location {
    /// The file that is called `name` and lies beside this one. A name has no `/` in it.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        match self {
            Self::File(path) => Self::File(path.with_file_name(name)),
            Self::Web(text) => {
                let path = text.split('?').next().unwrap_or(text);
                let begin = path.find("://").map_or(0, |at| at + 3);
                let end = path[begin..].rfind('/').map_or(path.len(), |at| begin + at);
                Self::Web(format!("{}/{name}", &path[..end]))
            }
        }
    }
}

impl Location {
    /// The signature of this file, which lies beside it.
    #[must_use]
    pub fn signature(&self) -> Self {
        const END: &str = ".minisig";
        match self {
            Self::File(path) => {
                let mut path = path.clone().into_os_string();
                path.push(END);
                Self::File(path.into())
            }
            Self::Web(text) => {
                let (path, query) = text.split_at(text.find('?').unwrap_or(text.len()));
                Self::Web(format!("{path}{END}{query}"))
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(text) => f.write_str(text),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for good in [
            "https://a/b.json",
            "http://127.0.0.1:8080/x?y=z",
            "https://[::1]:1/",
            "https://a",
            "file:///a b/c",
        ] {
            assert_eq!(Location::try_from(good).map(|found| found.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", LocationError::Scheme),
            ("ftp://a/b", LocationError::Scheme),
            ("HTTPS://a/b", LocationError::Scheme),
            ("/a/b", LocationError::Scheme),
            ("https://", LocationError::Host),
            ("https:///x", LocationError::Host),
            ("https://:1/", LocationError::Host),
            ("https://user:secret@a/", LocationError::Credentials),
            ("https://a/b c", LocationError::Character(' ')),
            ("https://a/\n", LocationError::Character('\n')),
            ("https://a/#x", LocationError::Character('#')),
            ("https://é/", LocationError::Character('é')),
            ("file://a/b", LocationError::Path),
            ("file:///a/../b", LocationError::Path),
            ("file:///a\0", LocationError::Character('\0')),
            (&format!("https://a/{}", "x".repeat(LONGEST)), LocationError::TooLong),
        ] {
            assert_eq!(Location::try_from(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn what_lies_beside() {
        for (of, expected) in [
            ("https://a/b/c.json", "https://a/b/n"),
            ("https://a/c.json?x=/y", "https://a/n"),
            ("https://a", "https://a/n"),
            ("file:///m/c.json", "file:///m/n"),
        ] {
            assert_eq!(Location::try_from(of).unwrap().beside("n").to_string(), expected);
        }
        for (of, expected) in [
            ("https://a/c.json", "https://a/c.json.minisig"),
            ("https://a/c.json?x=/y", "https://a/c.json.minisig?x=/y"),
            ("file:///m/c.json", "file:///m/c.json.minisig"),
        ] {
            assert_eq!(Location::try_from(of).unwrap().signature().to_string(), expected);
        }
    }
}
