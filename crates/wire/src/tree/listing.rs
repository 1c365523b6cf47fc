//! Reads a listing as it comes from a guest, which may be hostile: all of it is bounded, and each name is one that a tree may have.

use std::collections::BTreeMap;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use model::workspace::{MAX_ENTRIES, MAX_LISTING, TreePathError, check_tree_path};

use super::{Entry, Line, MAX_LINE};

/// Takes bytes as they come and gives what was listed.
#[derive(Debug, Default)]
pub struct Listing {
    buffer: BytesMut,
    /// Up to here `buffer` has no end of a line.
    searched: usize,
    bytes: u64,
    found: BTreeMap<Vec<u8>, Entry>,
    is_whole: bool,
}

/// Why a listing is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// It is not of the agreed form.
    #[error("{0}")]
    Malformed(&'static str),
    /// There is more of something than is taken.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The most.
        limit: u64,
    },
    /// A name is none that a tree may have.
    #[error("{} is refused", path.escape_ascii())]
    Path {
        /// The name.
        path: Vec<u8>,
        /// What is wrong with it.
        #[source]
        cause: TreePathError,
    },
}

impl Listing {
    /// Adds bytes that arrived.
    ///
    /// # Errors
    /// Where what came so far is no listing, or none that is taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ListingError> {
        let limit = |what, count: u64, limit| {
            if count > limit { Err(ListingError::TooMuch { what, limit }) } else { Ok(()) }
        };
        self.bytes += bytes.len() as u64;
        limit("bytes of names", self.bytes, MAX_LISTING)?;
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = memchr(b'\n', &self.buffer[self.searched..]) {
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            self.line(&line)?;
            limit("files", self.found.len() as u64, MAX_ENTRIES)?;
        }
        self.searched = self.buffer.len();
        match self.searched {
            0 => Ok(()),
            _ if self.is_whole => Err(ListingError::Malformed("the end of its list")),
            1..=MAX_LINE => Ok(()),
            _ => Err(ListingError::Malformed("a line of its list is too long")),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), ListingError> {
        if line.len() > MAX_LINE {
            return Err(ListingError::Malformed("a line of its list is too long"));
        }
        let line = serde_json::from_slice(line);
        match line.map_err(|_| ListingError::Malformed("a line of its list"))? {
            Line::Entry(_) | Line::End(_) if self.is_whole => {
                Err(ListingError::Malformed("the end of its list"))
            }
            Line::Entry(entry) => {
                let path = entry.path.as_bytes().to_vec();
                if let Err(cause) = check_tree_path(&path) {
                    return Err(ListingError::Path { path, cause });
                }
                match self.found.insert(path, entry) {
                    Some(_) => Err(ListingError::Malformed("a file that is listed twice")),
                    None => Ok(()),
                }
            }
            Line::End(count) if count == self.found.len() as u64 => {
                self.is_whole = true;
                Ok(())
            }
            Line::End(_) => Err(ListingError::Malformed("the end of its list")),
        }
    }

    /// Whether its last line came.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What was listed, by path.
    ///
    /// # Errors
    /// Where its last line did not come.
    pub fn finish(self) -> Result<BTreeMap<Vec<u8>, Entry>, ListingError> {
        if self.is_whole { Ok(self.found) } else { Err(ListingError::Malformed("its list has no end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str, step: usize) -> Result<Vec<String>, String> {
        let mut listing = Listing::default();
        for piece in lines.as_bytes().chunks(step) {
            listing.push(piece).map_err(|e| e.to_string())?;
        }
        let found = listing.finish().map_err(|e| e.to_string())?;
        Ok(found.keys().map(|path| path.escape_ascii().to_string()).collect())
    }

    #[test]
    fn listings() {
        let entry =
            |path: &str| format!("{{\"entry\":{{\"path\":\"{path}\",\"kind\":\"file\",\"size\":1}}}}\n");
        let end = |count: u64| format!("{{\"end\":{count}}}\n");
        let check = |lines: &[String], expected: Result<&[&str], &str>| {
            let lines = lines.concat();
            for step in [1, 7, lines.len().max(1)] {
                let found = read(&lines, step);
                let found = found.as_ref().map(|paths| paths.iter().map(String::as_str).collect::<Vec<_>>());
                assert_eq!(found.as_deref().map_err(|e| e.as_str()), expected, "{lines} by {step}");
            }
        };
        check(&[end(0)], Ok(&[]));
        check(&[entry("b"), entry("a/c"), end(2)], Ok(&["a/c", "b"]));
        check(&[], Err("its list has no end"));
        check(&[entry("a")], Err("its list has no end"));
        check(&[entry("a"), end(2)], Err("the end of its list"));
        check(&[end(0), end(0)], Err("the end of its list"));
        check(&[end(0), "x".to_owned()], Err("the end of its list"));
        check(&[entry("a"), end(1), entry("b")], Err("the end of its list"));
        check(&[entry("a"), entry("a"), end(2)], Err("a file that is listed twice"));
        check(&[entry("../a"), end(1)], Err("../a is refused"));
        check(&[entry("a/.git/config"), end(1)], Err("a/.git/config is refused"));
        check(&["\n".to_owned()], Err("a line of its list"));
        check(&[entry(&"x".repeat(MAX_LINE))], Err("a line of its list is too long"));
    }
}
