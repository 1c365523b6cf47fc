//! Catalogs, which come from the web, and their signatures.

use std::{collections::HashSet, path::PathBuf};

use image::{
    catalog::{self, Kind, LARGEST, Place, signature::Key},
    oci::Digest,
};
use model::location::Location;

use crate::{bundle, message};

/// A key whose secret half is gone, and all that was ever signed with it.
const KEY: &str = "RWTzo/NJiQzoxV6C4S91FyZbIQQqGgVx++mPdQdYGG2U0RR1wQVESeN4";
const SIGNED: &[u8] = b"catalog\n";

/// What is taken for a catalog names nothing that could be a path or another place than it says; what is taken for signed
/// was signed.
///
/// The first byte says what the others are: a catalog, a signature of [`SIGNED`], something with its signature, a key, an
/// address, a bundle, the parts of one.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    match what % 7 {
        0 => check_catalog(rest),
        1 => check_signature(SIGNED, rest),
        2 => {
            // Both are texts of lines, so a byte that neither has lies between them.
            let at = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            check_signature(&rest[..at], rest.get(at + 1..).unwrap_or_default());
        }
        3 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            if let Err(error) = Key::try_from(text) {
                message::check(&error);
            }
        }
        5 => bundle::check_archive(rest),
        6 => bundle::check_parts(rest),
        _ => {
            let Ok(text) = str::from_utf8(rest) else { return };
            match Location::try_from(text) {
                Ok(location) => check_location(&location),
                Err(error) => message::check(&error),
            }
        }
    }
}

fn check_catalog(bytes: &[u8]) {
    let catalog = match catalog::parse(bytes) {
        Ok(catalog) => catalog,
        Err(error) => return message::check(&error),
    };
    assert!(Kind::ALL.contains(&catalog.kind));
    let beside = Location::try_from("https://host/dir/catalog.json").expect("it is one");
    let mut known = HashSet::new();
    for entry in &catalog.entries {
        assert!(known.insert((entry.name.as_str(), &entry.arch)), "{entry:?} is there twice");
        assert!((1..=LARGEST).contains(&entry.size));
        assert!(entry.arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{:?}", entry.arch);
        let shown = [&entry.distro, &entry.description];
        assert!(shown.into_iter().all(|text| !text.contains(char::is_control)));
        assert_eq!(entry.digest.to_string().parse::<Digest>().as_ref(), Ok(&entry.digest));
        assert_eq!(catalog.find(entry.name.as_str(), &entry.arch), Ok(entry));
        let location = entry.location(Some(&beside)).expect("it is beside the catalog or elsewhere");
        check_location(&location);
        match &entry.place {
            Place::At(place) => assert_eq!(*place, location),
            Place::Beside(name) => assert_eq!(location.to_string(), format!("https://host/dir/{name}")),
        }
    }
}

/// An address is shown as what it is, and what is beside it is in the same place.
fn check_location(location: &Location) {
    let shown = location.to_string();
    assert_eq!(Location::try_from(&*shown).as_ref(), Ok(location), "{shown}");
    let authority = |location: &Location| match location {
        Location::Web(text) => text.split(['/', '?']).take(3).collect::<Vec<_>>().join("/"),
        Location::File(path) => {
            let dir = path.parent().unwrap_or(path).components().collect::<PathBuf>();
            dir.display().to_string()
        }
    };
    let beside = location.beside("name.tar.zst");
    assert_eq!(authority(&beside), authority(location), "{shown} and {beside}");
    assert!(beside.to_string().ends_with("/name.tar.zst"), "{beside}");
}

fn check_signature(content: &[u8], signature: &[u8]) {
    let key = Key::try_from(KEY).expect("it is one");
    match key.verify(content, signature) {
        Ok(()) => assert_eq!(content, SIGNED, "nobody signed that"),
        Err(error) => message::check(&error),
    }
}
