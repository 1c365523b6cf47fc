//! A guest's tree: how it is listed, the names in it, and where its links lead.

use std::collections::BTreeMap;

use model::workspace::{GuestPath, check_tree_path, link_stays};
use wire::tree::{Entry, HEADER, Listing, ListingError, Picked};

use crate::{choices::Choices, message};

/// The most links that are followed.
const MOST_LINKS: u32 = 40;

/// A listing is understood in one way however it is cut; no name in it leads out of the tree or into git's directory; and
/// whatever links are taken, following them never leaves the tree.
///
/// The first byte says what the others are: a listing, paths and targets of links, what is said of a file, the place of a
/// workspace.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.byte() % 4 {
        0 => {
            let step = 1 + usize::from(choices.byte());
            check_listing(choices.rest(), step);
        }
        1 => check_links(&mut choices),
        2 => {
            let mut header = [0; HEADER];
            let said = choices.take(HEADER);
            header[..said.len()].copy_from_slice(said);
            if let Some(picked) = Picked::parse(header) {
                assert_eq!(picked.header(), header);
            }
        }
        _ => check_place(choices.rest()),
    }
}

fn check_listing(bytes: &[u8], step: usize) {
    let whole = listing(bytes, bytes.len().max(1));
    let cut = listing(bytes, step);
    assert_eq!(whole.as_ref().ok(), cut.as_ref().ok(), "cut into pieces of {step}");
    match whole {
        Ok(found) => found.iter().for_each(|(path, entry)| {
            assert_eq!(path, entry.path.as_bytes());
            check_name(path);
        }),
        Err(error) => message::check(&error),
    }
}

fn listing(bytes: &[u8], step: usize) -> Result<BTreeMap<Vec<u8>, Entry>, ListingError> {
    let mut listing = Listing::default();
    bytes.chunks(step).try_for_each(|piece| listing.push(piece))?;
    listing.finish()
}

/// A name that was taken is one of a tree on every system.
fn check_name(path: &[u8]) {
    let shown = path.escape_ascii();
    assert!(!path.contains(&0) && path.len() <= 4095, "{shown}");
    for name in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        assert!(!name.eq_ignore_ascii_case(b".git"), "{shown}");
    }
    for name in path.split(|byte| *byte == b'/') {
        assert!(!matches!(name, b"" | b"." | b"..") && name.len() <= 255, "{shown}");
    }
}

/// Makes a tree of links, of those that are taken, and follows them.
fn check_links(choices: &mut Choices<'_>) {
    let mut links: BTreeMap<Vec<String>, String> = BTreeMap::new();
    while !choices.is_empty() && links.len() < 64 {
        let (path, target) = (names(choices), names(choices));
        if check_tree_path(path.as_bytes()).is_err() || !link_stays(path.as_bytes(), target.as_bytes()) {
            continue;
        }
        check_name(path.as_bytes());
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        // What is above a name of a tree, or below one, is no link.
        if !links.keys().any(|known| known.starts_with(&path) || path.starts_with(known)) {
            links.insert(path, target);
        }
    }
    for path in links.keys() {
        assert!(stays(&links, path), "{path:?} leads out by {links:?}");
    }
}

/// Whether what `path` leads to lies in the tree, or cannot be reached.
fn stays(links: &BTreeMap<Vec<String>, String>, path: &[String]) -> bool {
    let (mut at, mut followed) = (Vec::new(), 0);
    let mut rest: Vec<&str> = path.iter().rev().map(String::as_str).collect();
    while let Some(name) = rest.pop() {
        match name {
            "" | "." => continue,
            ".." => {
                if at.pop().is_none() {
                    return false;
                }
                continue;
            }
            _ => at.push(name.to_owned()),
        }
        if let Some(target) = links.get(&at) {
            followed += 1;
            if followed > MOST_LINKS {
                return true;
            }
            at.pop();
            rest.extend(target.split('/').rev());
        }
    }
    true
}

/// A path of few names, so that links meet, or any text.
fn names(choices: &mut Choices<'_>) -> String {
    let shape = choices.byte();
    if shape == 255 {
        return choices.text();
    }
    let name = |choices: &mut Choices<'_>| match choices.byte() % 8 {
        0 | 1 => "a",
        2 => "b",
        3 => "c",
        4 | 5 => "..",
        6 => ".",
        _ => "d",
    };
    (0..1 + shape % 5).map(|_| name(choices)).collect::<Vec<_>>().join("/")
}

fn check_place(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match GuestPath::try_from(text) {
        Ok(path) => {
            assert_eq!(path.as_str(), text);
            assert!(!text.contains(char::is_control) && text.len() <= 4095, "{text:?}");
            let mut names = text.split('/');
            assert_eq!(names.next(), Some(""), "{text:?}");
            assert!(names.all(|name| !matches!(name, "" | "." | "..") && name.len() <= 255), "{text:?}");
        }
        Err(error) => message::check(&error),
    }
}
