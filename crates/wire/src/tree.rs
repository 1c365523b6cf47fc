//! A guest's tree as it is compared with another: what lies there, and the contents of what differs.
//!
//! A listing is one JSON [`Line`] a line, its [`Line::End`] last, so that a cut one is not taken for whole. Contents come in the
//! order they were asked for ([`Wanted`], one JSON object a line) and without names: a guest says what a file holds, never
//! where it goes.
//!
//! ```text
//! picked = tag: u8 · length: u64, big endian · that many bytes of content, of a link its target
//! ```

mod listing;

pub use listing::{Listing, ListingError};
use model::workspace::MAX_CHANGED_BYTES;
use serde::{Deserialize, Serialize};

use crate::Word;

/// The most bytes of a request that names what is wanted or removed.
pub const MAX_WANTED: usize = 64 << 20;
/// The most bytes of one line.
pub const MAX_LINE: usize = 32 << 10;
/// The most stamps that an agent keeps while it unpacks; of further files it gives none.
pub const MAX_STAMPS: usize = 100_000;
/// The bytes before a content.
pub const HEADER: usize = 9;

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Something in the tree. Directories are not listed, nor anything called `.git`.
    Entry(Entry),
    /// All of this number were listed; the last line.
    End(u64),
}

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the tree.
    pub path: Word,
    /// What it is.
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
    /// Of a file: what is another once anything of it was changed. Only its agent knows what it means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
    /// It was changed a moment ago, so that its next change might leave the same stamp.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// It would run as its owner or group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub set_id: bool,
}

/// One line of the answer to an unpacked tar: a file and its stamp, as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Relative to the tree.
    pub path: Word,
    /// As in [`Entry::stamp`].
    pub stamp: String,
}

/// What something in a tree is, as git tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file.
    File,
    /// A file that its owner may execute.
    Executable,
    /// A symbolic link.
    Link,
    /// A device, fifo or socket.
    Other,
}

/// Whether a tree can be written in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By whom its files' modes let.
    Writable,
    /// By nobody, root in the guest included, until it is remounted.
    ReadOnly,
}

impl Access {
    /// As requests have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Writable => "writable",
            Self::ReadOnly => "read-only",
        }
    }

    /// What [`Access::word`] gave.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        [Self::Writable, Self::ReadOnly].into_iter().find(|access| access.word().as_bytes() == word)
    }
}

/// A file whose content is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Relative to the tree.
    pub path: Word,
    /// What is known already, and need not be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
}

/// A content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it is.
    pub kind: Kind,
    /// Its SHA-256 in hexadecimal; of a link that of its target.
    pub sha256: String,
    /// How many bytes it has: what has another size is another content, and need not be read to be told so. What was noted before
    /// there was this has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl Known {
    /// Whether something of this kind and size may be it, which only its digest tells then.
    #[must_use]
    pub fn may_be(&self, kind: Kind, size: u64) -> bool {
        self.kind == kind && self.size.map_or(size <= MAX_CHANGED_BYTES, |known| known == size)
    }
}

/// What an agent says of a file that was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picked {
    /// It is what is known.
    Same,
    /// It is not there, or nothing that has a content.
    Gone,
    /// It is this, and so many bytes of content follow.
    Content(Kind, u64),
}

impl Picked {
    /// What goes before the content.
    #[must_use]
    pub fn header(self) -> [u8; HEADER] {
        let (tag, length) = match self {
            Self::Same => (0, 0),
            Self::Gone | Self::Content(Kind::Other, _) => (1, 0),
            Self::Content(Kind::File, length) => (2, length),
            Self::Content(Kind::Executable, length) => (3, length),
            Self::Content(Kind::Link, length) => (4, length),
        };
        let mut header = [tag; HEADER];
        header[1..].copy_from_slice(&u64::to_be_bytes(length));
        header
    }

    /// What such bytes say; `None` where they are of no known form.
    #[must_use]
    pub fn parse(header: [u8; HEADER]) -> Option<Self> {
        let [tag, length @ ..] = header;
        let length = u64::from_be_bytes(length);
        match (tag, length) {
            (0, 0) => Some(Self::Same),
            (1, 0) => Some(Self::Gone),
            (2, _) => Some(Self::Content(Kind::File, length)),
            (3, _) => Some(Self::Content(Kind::Executable, length)),
            (4, _) => Some(Self::Content(Kind::Link, length)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_picked_survives_its_header() {
        for picked in [
            Picked::Same,
            Picked::Gone,
            Picked::Content(Kind::File, 0),
            Picked::Content(Kind::Executable, u64::MAX),
            Picked::Content(Kind::Link, 7),
        ] {
            assert_eq!(Picked::parse(picked.header()), Some(picked));
        }
        assert_eq!(Picked::parse([5; HEADER]), None);
        assert_eq!(Picked::parse([0, 0, 0, 0, 0, 0, 0, 0, 1]), None, "nothing is no content");
    }

    #[test]
    fn only_what_is_as_large_may_be_what_is_known() {
        let known = |size| Known { kind: Kind::File, sha256: String::new(), size };
        for (size, kind, found, may_be) in [
            (Some(3), Kind::File, 3, true),
            (Some(3), Kind::File, 4, false),
            (Some(3), Kind::Executable, 3, false),
            (None, Kind::File, MAX_CHANGED_BYTES, true),
            (None, Kind::File, 1 << 40, false),
        ] {
            assert_eq!(known(size).may_be(kind, found), may_be, "{size:?} {kind:?} {found}");
        }
        let line = serde_json::to_string(&known(None)).unwrap();
        assert_eq!(line, r#"{"kind":"file","sha256":""}"#, "as it was released");
        assert_eq!(serde_json::from_str::<Known>(&line).unwrap(), known(None));
    }

    #[test]
    fn lines_are_as_they_were_released() {
        let entry = Entry {
            path: Word::from(b"a\xff".to_vec()),
            kind: Kind::Executable,
            size: 3,
            stamp: None,
            fresh: false,
            set_id: false,
        };
        let stamped = Entry { stamp: Some("1.2".to_owned()), fresh: true, ..entry.clone() };
        let lines = [Line::Entry(entry), Line::Entry(stamped), Line::End(1)]
            .map(|line| serde_json::to_string(&line).unwrap());
        assert_eq!(
            lines,
            [
                r#"{"entry":{"path":{"hex":"61ff"},"kind":"executable","size":3}}"#,
                r#"{"entry":{"path":{"hex":"61ff"},"kind":"executable","size":3,"stamp":"1.2","fresh":true}}"#,
                r#"{"end":1}"#
            ]
        );
    }
}
