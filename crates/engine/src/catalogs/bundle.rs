//! Fetching the bundle of an entry into a staging directory, compared with its catalog to the last byte.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Response, StatusCode, Uri};
use hyper::body::Incoming;
use image::oci::{Digest, Sink, SinkError};
use model::location::Location;
use wire::control::Event;

use super::Found;
use crate::{
    Engine, Error, Operation, Result, blocking,
    registry::{
        Http, RegistryError,
        download::{self, Source},
    },
};

/// How often those who follow are told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Bytes of a file that are copied at once.
const PIECE: usize = 1 << 20;

/// A file of the web.
struct Web<'a> {
    http: &'a Http,
    uri: Uri,
}

impl Source for Web<'_> {
    async fn request(&self, headers: &HeaderMap) -> Result<Response<Incoming>, RegistryError> {
        self.http.get(&self.uri, headers, None).await
    }

    async fn refuse(&self, response: Response<Incoming>) -> RegistryError {
        refusal(&self.uri, response.status())
    }
}

/// The error that an answer with `status` is.
pub(super) fn refusal(uri: &Uri, status: StatusCode) -> RegistryError {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => RegistryError::Nothing { address: uri.to_string() },
        status => {
            let host = uri.host().unwrap_or_default().to_owned();
            RegistryError::Status { host, status, said: String::new() }
        }
    }
}

/// What the store says that an image or kernel of the catalog came from: another bundle of the name is another source.
pub(crate) fn source(name: &str, digest: &Digest) -> String {
    format!("catalog {name} {}", &digest.to_string()[.."sha256:".len() + 12])
}

impl Engine {
    /// Fetches the bundle of `found` into `staging`, telling of it as `stage`. Its file has no name any more.
    ///
    /// # Errors
    /// Where it cannot be had or is not what the catalog says.
    pub(crate) async fn fetch_bundle(
        &self,
        operation: &Operation,
        stage: &'static str,
        found: &Found,
        staging: &Path,
    ) -> Result<Arc<File>> {
        let done = Arc::new(AtomicU64::new(0));
        let total = Some(found.entry.size);
        let tell = || {
            let (name, unit) = (stage.to_owned(), "bytes".to_owned());
            operation.emit(Event::Progress { name, done: done.load(Ordering::Relaxed), total, unit });
        };
        let fetching = self.fetch_file(operation, found, staging, &done);
        let mut fetching = std::pin::pin!(operation.cancellable(async { Ok(fetching.await) }));
        let mut ticks = tokio::time::interval(TELL_EVERY);
        let fetched = loop {
            tokio::select! {
                _ = ticks.tick() => tell(),
                fetched = &mut fetching => break fetched?,
            }
        };
        fetched.map_err(|cause| match cause {
            RegistryError::Stopped => Error::ShuttingDown,
            cause => Error::Pull {
                reference: format!("{} from {}", found.entry.name, found.location),
                cause: Box::new(cause),
            },
        })
    }

    async fn fetch_file(
        &self,
        operation: &Operation,
        found: &Found,
        staging: &Path,
        done: &Arc<AtomicU64>,
    ) -> Result<Arc<File>, RegistryError> {
        let (digest, needed) = (found.entry.digest, found.entry.size);
        let free = host::fs::free_space(staging).map_err(SinkError::from)?;
        if needed > free {
            return Err(RegistryError::NoSpace { needed, free });
        }
        let (partial, whole) = (staging.join(".bundle.part"), staging.join(".bundle"));
        let sink = blocking(move || Ok(Sink::create(&partial, digest, needed)?)).await;
        let sink = sink.map_err(RegistryError::engine)?;
        let sink = match &found.location {
            Location::Web(address) => {
                let http = Http::new(&self.0.registries);
                let web = Web { http: &http, uri: super::uri(address)? };
                download::fill(&http, &web, sink, done).await?
            }
            Location::File(path) => {
                let (path, done, operation) = (path.clone(), Arc::clone(done), operation.clone());
                let copied = tokio::task::spawn_blocking(move || copy(&operation, &path, sink, &done));
                copied.await.map_err(|_| RegistryError::Stopped)??
            }
        };
        let finished = tokio::task::spawn_blocking(move || {
            let file = sink.finish(&whole)?;
            host::fs::remove(&whole)?;
            (&*file).rewind().map_err(|e| host::Error::path("read", &whole, e))?;
            Ok::<_, SinkError>(file)
        });
        Ok(finished.await.map_err(|_| RegistryError::Stopped)??)
    }
}

/// Copies the file at `path` into `sink`, which refuses what is too much. One that is too short is found at the end.
fn copy(operation: &Operation, path: &Path, sink: Sink, done: &AtomicU64) -> Result<Sink, SinkError> {
    let mut sink = sink;
    let mut file = host::fs::open(path)?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = file.read(&mut piece).map_err(|e| host::Error::path("read", path, e))?;
        if count == 0 || operation.token().is_cancelled() {
            return Ok(sink);
        }
        sink.write(&piece[..count])?;
        done.fetch_add(count as u64, Ordering::Relaxed);
    }
}
