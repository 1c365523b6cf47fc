//! A registry of images: manifests, and blobs into the cache (OCI distribution specification).
//!
//! ```text
//! GET /v2/<path>/manifests/<tag or digest>   ─ 401 ─▶ auth ─▶ again
//! GET /v2/<path>/blobs/<digest>  Range: bytes=N-   ─ broken off ─▶ again from where it was
//! ```
//! What a registry says is compared with digests and sizes and is bounded in length and in time; none of it is taken on trust.
//! Plain HTTP is spoken with this host itself and where the user asked for it, HTTPS with all others.

mod auth;
mod credentials;
pub(crate) mod download;
mod error;
mod http;
mod proxy;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use image::oci::{
    self, BlobError, Choice, Descriptor, Digest, Document, DocumentError, Manifest, Sink, SinkError,
};
use model::{ImageReference, reference};

use self::auth::Auth;
pub(crate) use self::http::Http;
pub use self::{
    error::RegistryError,
    http::Patience,
    proxy::{Proxies, ProxyError},
};
use crate::blocking;

/// How a registry is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS; plain HTTP with this host itself.
    Secure,
    /// Plain HTTP, as the user asked for.
    Insecure,
}

/// How registries are spoken with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long they are waited for.
    pub patience: Patience,
    /// The files with the user's credentials, the one that counts most first.
    pub credentials: Vec<PathBuf>,
    /// The proxies on the way to them.
    pub proxies: Proxies,
}

/// Where Docker Hub's API is.
const HUB_API: &str = "registry-1.docker.io";

/// One repository of a registry.
#[derive(Debug)]
pub struct Registry {
    http: Http,
    auth: Auth,
    reference: ImageReference,
    base: String,
}

/// What a tag or digest leads to.
#[derive(Debug)]
pub struct Top {
    /// The digest of what the registry answers.
    pub digest: Digest,
    document: Document,
}

/// Where a blob goes: its place in the cache, and the file that it is written to until it is whole.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of this pull alone.
    pub partial: PathBuf,
    /// In the cache.
    pub cached: PathBuf,
}

impl Registry {
    /// The repository of `reference`, with the user's credentials.
    ///
    /// # Errors
    /// Where these cannot be read.
    pub async fn new(
        reference: ImageReference,
        transport: Transport,
        settings: &Settings,
    ) -> Result<Self, RegistryError> {
        let files = settings.credentials.clone();
        let (host, path) = (reference.host().to_owned(), reference.path().to_owned());
        let found = tokio::task::spawn_blocking(move || credentials::find(&files, &host, &path)).await;
        let credentials = found.map_err(|_| RegistryError::Stopped)??;
        let is_plain = transport == Transport::Insecure || reference.is_loopback();
        let scheme = if is_plain { "http" } else { "https" };
        let api = if reference.host() == reference::HUB { HUB_API } else { reference.host() };
        let auth = Auth::new(credentials, format!("repository:{}:pull", reference.path()));
        Ok(Self { http: Http::new(settings), auth, base: format!("{scheme}://{api}"), reference })
    }

    /// What the reference leads to, by one request.
    ///
    /// # Errors
    /// Where there is nothing, or what there is is refused.
    pub async fn top(&self) -> Result<Top, RegistryError> {
        self.document(self.reference.version(), None).await
    }

    /// The manifest that `top` leads to.
    ///
    /// # Errors
    /// Where there is none for this host, or it is refused.
    pub async fn manifest(&self, top: Top, choice: &Choice) -> Result<(Digest, Manifest), RegistryError> {
        let mut top = top;
        for _ in 0..oci::DEEPEST {
            let index = match top.document {
                Document::Manifest(manifest) => return Ok((top.digest, manifest)),
                Document::Index(index) => index,
            };
            let chosen = index.for_platform(choice);
            let chosen = chosen.map_err(|cause| RegistryError::Document { digest: top.digest, cause })?;
            top = self.document(&chosen.digest.to_string(), Some(chosen)).await?;
        }
        let cause = DocumentError::TooDeep(oci::DEEPEST);
        Err(RegistryError::Document { digest: top.digest, cause })
    }

    /// The document that is called `version`, and that `descriptor` describes where there is one.
    async fn document(&self, version: &str, descriptor: Option<&Descriptor>) -> Result<Top, RegistryError> {
        let accept = oci::ACCEPTED.join(", ");
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(&accept).expect("media types are plain"));
        let response = self.get(&format!("manifests/{version}"), &headers).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(RegistryError::NotFound { reference: self.reference.clone() });
            }
            _ => return Err(self.status(response).await),
        }
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let kind =
            text("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let stated = text("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let bytes = self.http.body(response, oci::LONGEST).await?;
        let found = Digest::of(&bytes);
        // A tag is what the registry says it is; a digest is what it is.
        let expected = version.parse().ok().or(stated).unwrap_or(found);
        if found != expected {
            let cause = BlobError::Digest { found };
            return Err(RegistryError::Blob(SinkError::Refused { digest: expected, cause }));
        }
        let described = descriptor.map(|d| &*d.media_type).filter(|kind| !kind.is_empty()).unwrap_or(&kind);
        let document = Document::parse(&bytes, described);
        let document = document.map_err(|cause| RegistryError::Document { digest: found, cause })?;
        Ok(Top { digest: found, document })
    }

    /// Fetches a blob, going on where a connection broke off. `done` counts its bytes.
    ///
    /// # Errors
    /// Where it cannot be had, or is not what its descriptor says; nothing is left then.
    pub async fn blob(
        &self,
        blob: &Descriptor,
        target: Target,
        done: Arc<AtomicU64>,
    ) -> Result<Arc<std::fs::File>, RegistryError> {
        let (digest, size) = (blob.digest, blob.size);
        let partial = target.partial;
        let sink = blocking(move || Ok(Sink::create(&partial, digest, size)?))
            .await
            .map_err(RegistryError::engine)?;
        let source = Blob { registry: self, blob };
        let sink = download::fill(&self.http, &source, sink, &done).await?;
        let finished = tokio::task::spawn_blocking(move || sink.finish(&target.cached)).await;
        Ok(finished.map_err(|_| RegistryError::Stopped)??)
    }

    /// Asks for something of the repository, with authorization where the registry wants it.
    async fn get(&self, what: &str, headers: &HeaderMap) -> Result<Response<Incoming>, RegistryError> {
        let text = format!("{}/v2/{}/{what}", self.base, self.reference.path());
        let uri: Uri = text.parse().expect("a reference's parts are plain");
        let response = self.http.get(&uri, headers, self.auth.header()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let denied = || RegistryError::Denied { reference: self.reference.clone() };
        self.auth.answer(&self.http, &uri, response.headers()).await?.ok_or_else(denied)?;
        let response = self.http.get(&uri, headers, self.auth.header()).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED if auth::is_token_refused(response.headers()) => {
                Err(RegistryError::TokenRefused { host: self.reference.host().to_owned() })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denied()),
            _ => Ok(response),
        }
    }

    /// The error that `response` is.
    async fn status(&self, response: Response<Incoming>) -> RegistryError {
        let status = response.status();
        if status == StatusCode::FORBIDDEN {
            return RegistryError::Denied { reference: self.reference.clone() };
        }
        // What it says of it helps, if it comes.
        let said = self.http.body(response, 64 << 10).await.unwrap_or_default();
        RegistryError::Status { host: self.reference.host().to_owned(), status, said: error::said(&said) }
    }
}

/// One blob of a registry.
struct Blob<'a> {
    registry: &'a Registry,
    blob: &'a Descriptor,
}

impl download::Source for Blob<'_> {
    async fn request(&self, headers: &HeaderMap) -> Result<Response<Incoming>, RegistryError> {
        self.registry.get(&format!("blobs/{}", self.blob.digest), headers).await
    }

    async fn refuse(&self, response: Response<Incoming>) -> RegistryError {
        match response.status() {
            StatusCode::NOT_FOUND => RegistryError::NoBlob { digest: self.blob.digest },
            _ => self.registry.status(response).await,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let pause = Duration::from_millis(250);
        let patience = Patience { connect: seconds(20), stall: seconds(60), attempts: 6, pause };
        let (credentials, proxies) = (host::dirs::credential_files(), Proxies::of_environment());
        Self { patience, credentials, proxies }
    }
}
