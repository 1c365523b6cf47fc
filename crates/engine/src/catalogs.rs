//! Catalogs: which one is in force, and taking a newer one.
//!
//! ```text
//! built in ─┐
//!           ├─▶ the one with the higher serial
//! stored ───┘   state/catalogs/<kind>.json: text, signature and address in one file, so that a crash leaves the old or the new
//! ```
//! A stored catalog is verified again each time it is read, with the key that is configured now. What its entries name is
//! fetched by `bundle`.

pub(crate) mod bundle;

use http::{HeaderMap, StatusCode};
use image::catalog::{
    self, Catalog, CatalogError, Entry, Kind,
    signature::{self, Key, KeyError, SignatureError},
};
use model::location::Location;
use serde::{Deserialize, Serialize};
use wire::control;

use crate::{
    Engine, Error, Operation, Result, blocking,
    registry::{Http, RegistryError},
};

/// The most bytes of a stored catalog: JSON escapes some of its text.
const LONGEST_STORED: u64 = 8 << 20;

/// Why a catalog is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It, or its signature, cannot be had.
    #[error("cannot get {location}")]
    Get {
        /// Where it should be.
        location: Location,
        /// Why.
        #[source]
        cause: Box<RegistryError>,
    },
    /// Nobody said whose signature it must have.
    #[error("no key is configured that it must be signed with")]
    NoKey,
    /// What is configured is no key.
    #[error("the key that is configured cannot be used")]
    Key(#[source] KeyError),
    /// It is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is none.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It lists something else.
    #[error("it is one of {}", .0.name())]
    OtherKind(Kind),
    /// It is older than the one there is.
    #[error("its serial is {serial}, and there is one with {known}")]
    Older {
        /// Its serial.
        serial: u64,
        /// The serial of the one there is.
        known: u64,
    },
    /// It has the serial of the one there is, and is another.
    #[error("its serial is {0}, like that of the one there is, which says something else")]
    Reused(u64),
    /// The stored one is not as it was stored.
    #[error("it is damaged")]
    Damaged(#[source] serde_json::Error),
    /// A file cannot be read or written.
    #[error(transparent)]
    Host(#[from] host::Error),
}

/// A catalog as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// Where it came from.
    location: String,
    signature: String,
    text: String,
}

/// A catalog that can be relied on, and where it came from.
#[derive(Debug)]
pub(crate) struct Trusted {
    pub catalog: Catalog,
    /// None of the one that banger was built with.
    pub location: Option<Location>,
}

/// An entry with the place of its bundle.
#[derive(Debug)]
pub(crate) struct Found {
    pub entry: Entry,
    pub location: Location,
}

impl Engine {
    /// What can be had by name alone, for this host.
    ///
    /// # Errors
    /// Where the stored catalog cannot be used.
    pub fn catalog_show(&self, kind: Kind) -> Result<control::Catalog> {
        self.catalog_view(kind, self.catalog(kind)?)
    }

    /// Gets newer catalogs from where they are configured to be.
    ///
    /// # Errors
    /// Where none is configured, or one cannot be had or is not taken: then the one before stays.
    pub async fn catalog_refresh(&self, operation: &Operation) -> Result<control::Catalogs> {
        let mut catalogs = Vec::new();
        let mut first = None;
        for kind in Kind::ALL {
            let Some(location) = self.catalog_location(kind) else { continue };
            // One that is refused must not keep the other from being taken.
            match self.refresh(operation, kind, location).await {
                Ok(trusted) => catalogs.push(self.catalog_view(kind, trusted)?),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => first = first.or(Some(error)),
            }
        }
        match first {
            Some(error) => Err(error),
            None if catalogs.is_empty() => Err(Error::NoCatalog),
            None => Ok(control::Catalogs { catalogs }),
        }
    }

    fn catalog_location(&self, kind: Kind) -> Option<&Location> {
        match kind {
            Kind::Images => self.0.config.image_catalog.as_ref(),
            Kind::Kernels => self.0.config.kernel_catalog.as_ref(),
        }
    }

    async fn refresh(&self, operation: &Operation, kind: Kind, location: &Location) -> Result<Trusted> {
        let refused = |cause: RefreshError| Error::Catalog {
            action: "refresh",
            kind: kind.name(),
            place: format!("from {location}"),
            cause: Box::new(cause),
        };
        // Refreshes come one after the other, so that the newest one stays.
        let claim = self.claim(format!("catalog of {}", kind.name()));
        let _claim = operation.cancellable(async { Ok(claim.await) }).await?;
        let got = operation.cancellable(async { Ok(self.get_newer(kind, location).await) }).await?;
        let (trusted, stored) = got.map_err(refused)?;
        operation.checkpoint()?;
        // One file takes the place of another at once, so there is nothing to undo.
        let path = self.paths().catalog(kind);
        let keep = blocking(move || Ok(host::fs::write_atomic(&path, &stored)?));
        let kept = self.points().around("keep_catalog", keep).await;
        kept.map_err(|cause| match cause {
            Error::Host(cause) => refused(cause.into()),
            cause => cause,
        })?;
        Ok(trusted)
    }

    /// The newer catalog of that kind at `location`, and what is to be stored of it.
    async fn get_newer(&self, kind: Kind, location: &Location) -> Result<(Trusted, Vec<u8>), RefreshError> {
        let http = Http::new(&self.0.registries);
        let get = |location: Location, limit| {
            let http = &http;
            async move {
                let got = get(http, &location, limit).await;
                got.map_err(|cause| RefreshError::Get { location, cause: Box::new(cause) })
            }
        };
        let text = get(location.clone(), catalog::LONGEST).await?;
        let signature = get(location.signature(), signature::LONGEST).await?;
        let catalog = self.verify(kind, &text, &signature)?;
        // One that cannot be used any more does not count: the key may be a new one.
        let known = self.stored(kind).unwrap_or_else(|error| {
            tracing::warn!(error = crate::chain(&error), "a stored catalog is replaced unread");
            None
        });
        let known_serial = known.as_ref().map_or(0, |(known, _)| known.catalog.serial);
        let known_serial = known_serial.max(Catalog::embedded(kind).serial);
        if catalog.serial < known_serial {
            return Err(RefreshError::Older { serial: catalog.serial, known: known_serial });
        }
        let (Ok(text), Ok(signature)) = (String::from_utf8(text), String::from_utf8(signature)) else {
            unreachable!("JSON and signatures are text");
        };
        if known.is_some_and(|(known, before)| known.catalog.serial == catalog.serial && before != text) {
            return Err(RefreshError::Reused(catalog.serial));
        }
        let stored = Stored { location: location.to_string(), signature, text };
        let bytes = serde_json::to_vec(&stored).expect("it is made of texts");
        Ok((Trusted { catalog, location: Some(location.clone()) }, bytes))
    }

    /// The catalog in `text`, which `signature` says is genuine.
    fn verify(&self, kind: Kind, text: &[u8], signature: &[u8]) -> Result<Catalog, RefreshError> {
        let key = self.0.config.catalog_key.as_ref().ok_or(RefreshError::NoKey)?;
        let key = Key::try_from(key.as_str()).map_err(RefreshError::Key)?;
        // Before a byte of it is looked at.
        key.verify(text, signature)?;
        let catalog = catalog::parse(text)?;
        if catalog.kind == kind { Ok(catalog) } else { Err(RefreshError::OtherKind(catalog.kind)) }
    }

    /// The catalog that is stored, with its text; without a key there is none.
    fn stored(&self, kind: Kind) -> Result<Option<(Trusted, String)>, RefreshError> {
        let path = self.paths().catalog(kind);
        if self.0.config.catalog_key.is_none() || !host::fs::exists(&path) {
            return Ok(None);
        }
        let bytes = host::fs::read_limited(&path, LONGEST_STORED)?;
        let stored: Stored = serde_json::from_slice(&bytes).map_err(RefreshError::Damaged)?;
        let catalog = self.verify(kind, stored.text.as_bytes(), stored.signature.as_bytes())?;
        let location = Location::try_from(&*stored.location).ok();
        Ok(Some((Trusted { catalog, location }, stored.text)))
    }

    /// The catalog that is in force.
    fn catalog(&self, kind: Kind) -> Result<Trusted> {
        let embedded = Catalog::embedded(kind);
        let stored = self.stored(kind).map_err(|cause| Error::Catalog {
            action: "read",
            kind: kind.name(),
            place: format!("in {}", self.paths().catalog(kind).display()),
            cause: Box::new(cause),
        })?;
        Ok(match stored {
            Some((stored, _)) if stored.catalog.serial >= embedded.serial => stored,
            _ => Trusted { catalog: embedded, location: None },
        })
    }

    /// The image or kernel `name` of the catalog; `None` where that has none.
    ///
    /// # Errors
    /// Where the catalog cannot be used, or has it for other processors only.
    pub(crate) fn in_catalog(&self, kind: Kind, name: &str) -> Result<Option<Found>> {
        let Trusted { catalog, location } = self.catalog(kind)?;
        let arch = std::env::consts::ARCH;
        let entry = match catalog.find(name, arch) {
            Ok(entry) => entry.clone(),
            Err(others) if others.is_empty() => return Ok(None),
            Err(others) => {
                let (kind, name, for_others) = (kind.name(), name.to_owned(), others.join(", "));
                return Err(Error::OtherArch { kind, name, others: for_others, host: arch });
            }
        };
        // One that was built in names its bundles in full.
        Ok(entry.location(location.as_ref()).map(|location| Found { entry, location }))
    }

    fn catalog_view(&self, kind: Kind, trusted: Trusted) -> Result<control::Catalog> {
        let here: Vec<String> = match kind {
            Kind::Images => self.store().image_list()?.iter().map(|image| image.name.to_string()).collect(),
            Kind::Kernels => {
                self.store().kernel_list()?.iter().map(|kernel| kernel.name.to_string()).collect()
            }
        };
        let Trusted { catalog, location } = trusted;
        let fits = |entry: &Entry| entry.arch == std::env::consts::ARCH;
        let show = |entry: Entry| control::CatalogEntry {
            here: here.iter().any(|name| name == entry.name.as_str()),
            name: entry.name.to_string(),
            distro: entry.distro,
            arch: entry.arch,
            kernel: entry.kernel.map(|kernel| kernel.to_string()),
            size: entry.size,
            description: entry.description,
        };
        Ok(control::Catalog {
            kind: kind.name().to_owned(),
            source: location.map(|location| location.to_string()),
            serial: catalog.serial,
            entries: catalog.entries.into_iter().filter(fits).map(show).collect(),
        })
    }
}

/// The bytes at `location`, at most `limit`.
async fn get(http: &Http, location: &Location, limit: u64) -> Result<Vec<u8>, RegistryError> {
    match location {
        Location::File(path) => {
            let path = path.clone();
            let read = blocking(move || Ok(host::fs::read_limited(&path, limit)?)).await;
            read.map_err(RegistryError::engine)
        }
        Location::Web(address) => {
            let uri = uri(address)?;
            let response = http.get(&uri, &HeaderMap::new(), None).await?;
            match response.status() {
                StatusCode::OK => http.body(response, limit).await,
                _ => Err(bundle::refusal(&uri, response.status())),
            }
        }
    }
}

fn uri(address: &str) -> Result<http::Uri, RegistryError> {
    address.parse().map_err(|_| RegistryError::Nothing { address: address.to_owned() })
}
