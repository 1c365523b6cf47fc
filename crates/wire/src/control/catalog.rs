//! Catalogs: what can be had by name alone.

use serde::{Deserialize, Serialize};

/// `GET /v1/catalogs/{kind}`: what can be had by name alone, for this host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalog {
    /// `images` or `kernels`.
    pub kind: String,
    /// Where it came from; none for the one that banger was built with.
    #[serde(default)]
    pub source: Option<String>,
    /// Its serial, which grows with each one that is published.
    pub serial: u64,
    /// In its own order.
    pub entries: Vec<CatalogEntry>,
}

/// An image or kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CatalogEntry {
    /// Its name.
    pub name: String,
    /// The distribution it is of.
    pub distro: String,
    /// The processors that it is for.
    pub arch: String,
    /// The kernel that an image boots, where it is not the default one.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Bytes to be fetched.
    pub size: u64,
    /// What it is, for people.
    pub description: String,
    /// Whether there is one of its name here.
    pub here: bool,
}

/// `POST /v1/catalogs/refresh`: those that have an address, as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Catalogs {
    /// The catalogs.
    pub catalogs: Vec<Catalog>,
}
