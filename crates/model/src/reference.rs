//! References to images in registries: `alpine:3.20`, `ghcr.io/org/app@sha256:…`, `localhost:5000/x`.
//!
//! ```text
//! [host[:port]/]path[/path…][:tag][@sha256:hex]
//! ```
//! As everywhere, the first part is a host where it has a dot or a colon or is `localhost`; without one it is Docker Hub, where
//! a single name means `library/name`. The text goes into URLs and headers, so everything that could mean more there is
//! refused.

use std::fmt;

use crate::{ImageName, name::NameError};

/// The host that is meant where none is named.
pub const HUB: &str = "docker.io";
/// The longest reference, as it is given and as it is shown with all that was left out.
const LONGEST: usize = 512;

/// A reference to an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceError {
    /// It is empty or longer than any.
    Length,
    /// Its host has something in it that no host has.
    Host,
    /// Its path is not lower case letters and digits, with `.`, `_`, `-` inside.
    Path,
    /// Its tag is not letters, digits, `.`, `_` and `-`, or too long.
    Tag,
    /// Its digest is not `sha256:` and 64 hexadecimal digits.
    Digest,
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "it must have 1 to 512 characters",
            Self::Host => "the registry must be a host name or address, with a port or without",
            Self::Path => "the parts of its path are of a-z, 0-9, and inside also . _ -",
            Self::Tag => "a tag has up to 128 of A-Z, a-z, 0-9, . _ -, and does not begin with . or -",
            Self::Digest => "a digest is sha256: and 64 of 0-9, a-f",
        })
    }
}

impl std::error::Error for ReferenceError {}

impl ImageReference {
    /// The registry, as people name it: a host, with a port where it has one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path of the repository in its registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is asked for in the repository: the digest, else the tag.
    #[must_use]
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The digest, where it has one: then the image can never be another one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Whether the registry is this host itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.rsplit_once(':').map_or(&*self.host, |(host, _)| host);
        host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    }

    /// The name that an image of it gets in the store where nobody chose one: the last part of its path and its tag.
    #[must_use]
    pub fn image_name(&self) -> Option<ImageName> {
        let last = self.path.rsplit('/').next().unwrap_or_default();
        let version = match &self.digest {
            Some(digest) => &digest["sha256:".len()..][..12],
            None => self.version(),
        };
        let version = version.trim_end_matches(['.', '-', '_']).to_ascii_lowercase();
        ImageName::try_from(format!("{last}-{version}").as_str()).ok()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        match (&self.tag, &self.digest) {
            (None, None) => write!(f, ":latest"),
            (tag, digest) => {
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
                digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
            }
        }
    }
}

impl TryFrom<&str> for ImageReference {
    type Error = ReferenceError;

    fn try_from(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(ReferenceError::Length);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ReferenceError::Digest);
        }
        let (host, rest) = match rest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (HUB, rest),
        };
        if !is_host(host) {
            return Err(ReferenceError::Host);
        }
        // Behind the last slash a colon begins the tag.
        let (path, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if !path.split('/').all(is_path_part) {
            return Err(ReferenceError::Path);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        // Docker's old names for its own.
        let host = if host == "index.docker.io" { HUB } else { host };
        let path =
            if host == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let reference = Self { host: host.to_owned(), path, tag: owned(tag), digest: owned(digest) };
        // What is recorded is what is shown, which is longer, and must be understood again.
        if reference.to_string().len() > LONGEST {
            return Err(ReferenceError::Length);
        }
        Ok(reference)
    }
}

/// Where the image for a VM comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// The store.
    Stored(ImageName),
    /// A registry, unless it was pulled before. Such a text has `:`, `/` or `@` in it, which no name has.
    Remote(ImageReference),
}

/// Why a text is neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChoiceError {
    /// It would be a name.
    Name(NameError),
    /// It would be a reference.
    Reference(ReferenceError),
}

impl TryFrom<&str> for ImageChoice {
    type Error = ChoiceError;

    fn try_from(text: &str) -> Result<Self, ChoiceError> {
        if text.contains([':', '/', '@']) {
            ImageReference::try_from(text).map(Self::Remote).map_err(ChoiceError::Reference)
        } else {
            ImageName::try_from(text).map(Self::Stored).map_err(ChoiceError::Name)
        }
    }
}

impl fmt::Display for ImageChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(name) => name.fmt(f),
            Self::Remote(reference) => reference.fmt(f),
        }
    }
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Reference(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChoiceError {}

fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let fine = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    host.split('.').all(label) && port.is_none_or(fine)
}

fn is_path_part(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| alphanumeric(*b) || b"._-".contains(b))
        && bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
        && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| word(b) || b".-".contains(&b))
        && text.bytes().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let hex = "0123456789abcdef".repeat(4);
        let check = |text: &str, expected: &str, name: &str| {
            let reference = ImageReference::try_from(text).unwrap();
            assert_eq!(reference.to_string(), expected, "{text}");
            assert_eq!(reference.image_name().unwrap().as_str(), name, "{text}");
            // What is shown means the same.
            assert_eq!(
                ImageReference::try_from(expected).as_ref(),
                Ok(&ImageReference::try_from(expected).unwrap())
            );
            assert_eq!(ImageReference::try_from(expected).unwrap().to_string(), expected);
        };
        check("alpine", "docker.io/library/alpine:latest", "alpine-latest");
        check("alpine:3.20", "docker.io/library/alpine:3.20", "alpine-3.20");
        check("org/app", "docker.io/org/app:latest", "app-latest");
        check("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine-latest");
        check("ghcr.io/org/sub/app:V1_", "ghcr.io/org/sub/app:V1_", "app-v1");
        check("localhost/x", "localhost/x:latest", "x-latest");
        check("localhost:5000/x:tag", "localhost:5000/x:tag", "x-tag");
        check("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "b-latest");
        let digest = format!("alpine@sha256:{hex}");
        check(&digest, &format!("docker.io/library/{digest}"), "alpine-0123456789ab");
        let both = format!("h.io/a:1@sha256:{hex}");
        check(&both, &both, "a-0123456789ab");
        assert_eq!(ImageReference::try_from(&*both).unwrap().version(), format!("sha256:{hex}"));
    }

    #[test]
    fn what_is_none() {
        use ReferenceError::{Digest, Host, Length, Path, Tag};
        let long = "x".repeat(513);
        let tag = format!("a:{}", "x".repeat(129));
        for (text, expected) in [
            ("", Length),
            (&*long, Length),
            ("Alpine", Path),
            ("a//b", Path),
            ("/a", Path),
            ("a/", Path),
            ("a/../b", Path),
            ("../a", Host),
            ("a b", Path),
            ("a?b", Path),
            ("a%2e", Path),
            ("a\r\nHost:x/b", Host),
            ("-a", Path),
            ("a:", Tag),
            ("a:-x", Tag),
            ("a:x y", Tag),
            (&*tag, Tag),
            ("a@md5:00", Digest),
            ("a@sha256:00", Digest),
            ("a@", Digest),
            ("user@h.io/a", Digest),
            ("h.io:0/a", Host),
            ("h.io:99999/a", Host),
            ("h.io:x/a", Host),
            ("h..io/a", Host),
            ("[::1]:5000/a", Host),
            ("h.io/", Path),
            ("http://h.io/a", Host),
            ("h_x.io/a", Host),
        ] {
            assert_eq!(ImageReference::try_from(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_is_no_longer_than_a_reference_may_be() {
        let check = |text: &str, shown: Result<usize, ReferenceError>| {
            let found = ImageReference::try_from(text).map(|reference| reference.to_string());
            assert_eq!(found.as_ref().map(String::len).map_err(|e| *e), shown, "{text}");
            if let Ok(shown) = found {
                assert_eq!(ImageReference::try_from(&*shown).map(|again| again.to_string()), Ok(shown));
            }
        };
        // `docker.io/`, `library/` and `:latest` come to it.
        check(&"x".repeat(512 - 25), Ok(512));
        check(&"x".repeat(512 - 24), Err(ReferenceError::Length));
        check(&format!("h.io/{}", "x".repeat(512 - 12)), Ok(512));
        check(&format!("h.io/{}", "x".repeat(512 - 11)), Err(ReferenceError::Length));
        check(&format!("{}:tag", "x/".repeat(249) + "y"), Err(ReferenceError::Length));
    }

    #[test]
    fn this_host_is_known() {
        let check = |text: &str, expected| {
            assert_eq!(ImageReference::try_from(text).unwrap().is_loopback(), expected, "{text}");
        };
        check("localhost/x", true);
        check("localhost:5000/x", true);
        check("127.1.2.3:80/x", true);
        check("localhost.evil.io/x", false);
        check("127.0.0.1.evil.io/x", false);
        check("10.0.0.1/x", false);
        check("alpine", false);
    }

    #[test]
    fn names_of_the_store_are_no_references() {
        for text in ["debian-bookworm", "alpine_3.20"] {
            assert_eq!(
                ImageChoice::try_from(text),
                Ok(ImageChoice::Stored(ImageName::try_from(text).unwrap()))
            );
        }
        for text in ["alpine:3.20", "a/b"] {
            let expected = ImageChoice::Remote(ImageReference::try_from(text).unwrap());
            assert_eq!(ImageChoice::try_from(text), Ok(expected), "{text}");
            assert!(ImageName::try_from(text).is_err(), "{text}");
        }
        assert_eq!(ImageChoice::try_from("a@sha256:x"), Err(ChoiceError::Reference(ReferenceError::Digest)));
        assert_eq!(ImageChoice::try_from(""), Err(ChoiceError::Name(NameError::Empty)));
    }
}
