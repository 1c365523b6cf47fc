//! Catalogs: the lists of images and of kernels that can be had ready-made, as JSON.
//!
//! ```text
//! { "version": 1, "kind": "images", "serial": 7, "entries": [
//!     { "name": "debian-bookworm", "distro": "debian", "arch": "x86_64", "kernel": "debian-cloud",
//!       "url": "debian-bookworm-x86_64-0123456789ab.tar.zst", "sha256": "…", "size": 123, "description": "…" } ] }
//! ```
//! A url without a scheme is the name of a file beside the catalog, so a directory with both can be put anywhere. Nothing is
//! fetched here; that a catalog is genuine is for its signature to say.

pub mod bundle;
pub mod signature;

use std::collections::HashSet;

use model::{ImageName, KernelName, location::Location};
use serde::Deserialize;

use crate::{
    json::{self, JsonError, shown},
    oci::Digest,
};

/// The version of catalogs that is read.
pub const VERSION: u32 = 1;
/// The most bytes of a catalog.
pub const LONGEST: u64 = 1 << 20;
/// The most bytes of what an entry names.
pub const LARGEST: u64 = 256 << 30;
/// The most bytes of a text that people read.
const LONGEST_TEXT: usize = 500;

/// What a catalog lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Images.
    Images,
    /// Kernels.
    Kernels,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Images, Self::Kernels];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Kernels => "kernels",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// What it lists. A signed list of kernels must not pass for one of images.
    pub kind: Kind,
    /// Grows with each catalog that is published, so that an old one cannot come back.
    pub serial: u64,
    /// What there is.
    pub entries: Vec<Entry>,
}

/// An image or a kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; that of a kernel follows the same rule.
    pub name: ImageName,
    /// The distribution it is of.
    pub distro: String,
    /// The processors that it is for, as `uname -m` calls them.
    pub arch: String,
    /// The kernel that an image boots, where it is not the default one.
    pub kernel: Option<KernelName>,
    /// Where its bundle is.
    pub place: Place,
    /// The digest of its bundle.
    pub digest: Digest,
    /// The bytes of its bundle.
    pub size: u64,
    /// What it is, for people.
    pub description: String,
}

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// There.
    At(Location),
    /// The file of that name beside the catalog.
    Beside(String),
}

/// Why something is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It is longer than catalogs are.
    #[error("it has more than {LONGEST} bytes")]
    TooLong,
    /// It is not the JSON that it should be.
    #[error("it is not written as catalogs are")]
    Malformed(#[source] JsonError),
    /// It is of another version.
    #[error("it has version {0}, which this banger does not know")]
    Version(u32),
    /// An entry cannot be used.
    #[error("entry {number} ({name:?}): {why}")]
    Entry {
        /// Which one, from 1.
        number: usize,
        /// Its name, shortened.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Deserialize)]
struct Document {
    kind: Kind,
    serial: u64,
    entries: Vec<Written>,
}

/// An entry as it is written.
#[derive(Deserialize)]
struct Written {
    name: String,
    #[serde(default)]
    distro: String,
    arch: String,
    #[serde(default)]
    kernel: Option<String>,
    url: String,
    sha256: String,
    size: u64,
    #[serde(default)]
    description: String,
}

/// Reads a catalog.
///
/// # Errors
/// Where it is none, or says something that cannot be.
pub fn parse(bytes: &[u8]) -> Result<Catalog, CatalogError> {
    if bytes.len() as u64 > LONGEST {
        return Err(CatalogError::TooLong);
    }
    // The version first: what a later one looks like is not known.
    let Versioned { version } = json::parse(bytes).map_err(CatalogError::Malformed)?;
    if version != VERSION {
        return Err(CatalogError::Version(version));
    }
    let document: Document = json::parse(bytes).map_err(CatalogError::Malformed)?;
    let mut entries = Vec::with_capacity(document.entries.len());
    let mut known = HashSet::new();
    for (number, written) in (1..).zip(document.entries) {
        let name = shown(&written.name);
        let refused = |why| CatalogError::Entry { number, name, why };
        let found = entry(written).and_then(|entry| {
            let is_new = known.insert((entry.name.clone(), entry.arch.clone()));
            if is_new { Ok(entry) } else { Err("there is another one of that name and arch".to_owned()) }
        });
        entries.push(found.map_err(refused)?);
    }
    Ok(Catalog { kind: document.kind, serial: document.serial, entries })
}

fn entry(written: Written) -> Result<Entry, String> {
    let Written { name, distro, arch, kernel, url, sha256, size, description } = written;
    let told = |what: &str, why: &dyn std::fmt::Display| format!("its {what}: {why}");
    if !(1..=LARGEST).contains(&size) {
        return Err(told("size", &format_args!("{size} is not from 1 to {LARGEST}")));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if arch.is_empty() || arch.len() > 32 || !arch.chars().all(fine) {
        return Err(told("arch", &"it is no name of processors"));
    }
    for (what, text) in [("distro", &distro), ("description", &description)] {
        if text.len() > LONGEST_TEXT {
            return Err(told(what, &format_args!("it is longer than {LONGEST_TEXT} bytes")));
        }
        if text.chars().any(char::is_control) {
            return Err(told(what, &"it has control characters"));
        }
    }
    Ok(Entry {
        name: ImageName::try_from(&*name).map_err(|why| told("name", &why))?,
        kernel: kernel
            .map(|kernel| KernelName::try_from(&*kernel))
            .transpose()
            .map_err(|why| told("kernel", &why))?,
        place: place(url).map_err(|why| told("url", &why))?,
        digest: format!("sha256:{sha256}").parse().map_err(|why| told("sha256", &why))?,
        distro,
        arch,
        size,
        description,
    })
}

fn place(url: String) -> Result<Place, String> {
    if url.contains("://") {
        return Location::try_from(&*url).map(Place::At).map_err(|why| why.to_string());
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    match url.starts_with('.') || url.is_empty() || url.len() > 255 || !url.chars().all(fine) {
        true => Err("it is neither an address nor the plain name of a file".to_owned()),
        false => Ok(Place::Beside(url)),
    }
}

impl Catalog {
    /// The catalog that this program was built with. There is no public place for bundles yet, so it lists none.
    #[must_use]
    pub fn embedded(kind: Kind) -> Self {
        let bytes: &[u8] = match kind {
            Kind::Images => include_bytes!("catalog/images.json"),
            Kind::Kernels => include_bytes!("catalog/kernels.json"),
        };
        parse(bytes).expect("a test reads both")
    }

    /// The entry that is called `name`, for processors `arch`.
    ///
    /// # Errors
    /// The other processors that it is there for; none where there is no such name at all.
    pub fn find(&self, name: &str, arch: &str) -> Result<&Entry, Vec<&str>> {
        let named = || self.entries.iter().filter(|entry| entry.name.as_str() == name);
        named().find(|entry| entry.arch == arch).ok_or_else(|| named().map(|entry| &*entry.arch).collect())
    }
}

impl Entry {
    /// Where its bundle is, when its catalog came from `catalog`; `None` where that is not known and needed.
    #[must_use]
    pub fn location(&self, catalog: Option<&Location>) -> Option<Location> {
        match &self.place {
            Place::At(location) => Some(location.clone()),
            Place::Beside(name) => Some(catalog?.beside(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one() -> Value {
        json!({ "name": "debian", "distro": "debian", "arch": "x86_64", "kernel": "cloud", "size": 7,
                "url": "debian-x86_64-012345.tar.zst", "sha256": "01".repeat(32), "description": "Debian 12" })
    }

    fn catalog(entries: &[Value]) -> Vec<u8> {
        json!({ "version": 1, "kind": "images", "serial": 3, "entries": entries, "later": {} })
            .to_string()
            .into_bytes()
    }

    fn told(bytes: &[u8]) -> String {
        let error = parse(bytes).unwrap_err();
        match &error {
            CatalogError::Malformed(cause) => format!("{error}: {cause}"),
            _ => error.to_string(),
        }
    }

    #[test]
    fn embedded_catalogs_are_read_and_promise_nothing() {
        for kind in Kind::ALL {
            let catalog = Catalog::embedded(kind);
            assert_eq!((catalog.kind, catalog.entries.len()), (kind, 0));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn entries_are_found_by_name_and_arch() {
        let mut other = one();
        other["arch"] = json!("aarch64");
        other["url"] = json!("https://b/c.tar.zst");
        let catalog = parse(&catalog(&[one(), other])).unwrap();
        assert_eq!((catalog.serial, catalog.kind), (3, Kind::Images));
        let found = catalog.find("debian", "x86_64").unwrap();
        assert_eq!(found.kernel.as_ref().unwrap().as_str(), "cloud");
        let at = Location::try_from("https://a/x/images.json").unwrap();
        let place = |entry: &Entry, of| entry.location(of).map(|found| found.to_string());
        assert_eq!(place(found, Some(&at)).as_deref(), Some("https://a/x/debian-x86_64-012345.tar.zst"));
        assert_eq!(place(found, None), None);
        let other = catalog.find("debian", "aarch64").unwrap();
        assert_eq!(place(other, None).as_deref(), Some("https://b/c.tar.zst"));
        assert_eq!(catalog.find("debian", "riscv64"), Err(vec!["x86_64", "aarch64"]));
        assert_eq!(catalog.find("alpine", "x86_64"), Err(vec![]));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_entry() {
        let check = |key: &str, value: Value, expected: &str| {
            let mut entry = one();
            entry[key] = value;
            assert_eq!(told(&catalog(&[one(), entry])), format!("entry 2 {expected}"), "{key}");
        };
        check("name", json!("../x"), "(\"../x\"): its name: '/' is not allowed; use a-z, 0-9, -, . and _");
        check("name", json!("debian"), "(\"debian\"): there is another one of that name and arch");
        let check = |key: &str, value: Value, expected: &str| {
            check(key, value, &format!("(\"debian\"): its {key}: {expected}"));
        };
        check("arch", json!("x86-64"), "it is no name of processors");
        check("kernel", json!(""), "it is empty");
        check("size", json!(0), &format!("0 is not from 1 to {LARGEST}"));
        check("size", json!(LARGEST + 1), &format!("{} is not from 1 to {LARGEST}", LARGEST + 1));
        check("sha256", json!("AB"), "\"sha256:AB\" is no digest");
        check("description", json!("\u{1b}[2J"), "it has control characters");
        check("distro", json!("x".repeat(501)), "it is longer than 500 bytes");
        for url in ["", "..", "a/b", "/etc/passwd", ".x", "a\n"] {
            check("url", json!(url), "it is neither an address nor the plain name of a file");
        }
        check("url", json!("ftp://a/b"), "an address begins with https://, http:// or file:///");
        check("url", json!("https://u:p@a/b"), "it may have no name or password in it");
    }

    #[test]
    fn what_is_no_catalog_is_refused() {
        assert_eq!(
            told(br#"{ "version": 2, "entries": 7 }"#),
            "it has version 2, which this banger does not know"
        );
        assert_eq!(told(&vec![b' '; LONGEST as usize + 1]), "it has more than 1048576 bytes");
        let malformed = "it is not written as catalogs are: ";
        assert!(told(b"").starts_with(malformed));
        assert_eq!(
            told(br#"{ "version": 1, "kind": "vms", "serial": 1, "entries": [] }"#),
            format!("{malformed}unknown variant `vms`, expected `images` or `kernels` at line 1 column 29")
        );
        let deep = [b"[".repeat(500_000), b"]".repeat(500_000)].concat();
        assert!(told(&deep).starts_with(malformed));
    }
}
