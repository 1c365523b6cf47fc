//! Why something could not be had from a registry.

use image::oci::{Digest, DocumentError, SinkError};
use model::ImageReference;

use super::{credentials::CredentialsError, proxy::ProxyError};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why something could not be had from a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no connection to it.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// This host's certificates, which tell whom to trust, cannot be used.
    #[error("cannot read the certificates of this host")]
    Certificates(#[source] std::io::Error),
    /// The proxy on the way to it cannot be used.
    #[error("the proxy cannot be used")]
    Proxy(#[from] ProxyError),
    /// It said nothing for too long.
    #[error("{host} stopped answering")]
    Stalled {
        /// The host.
        host: String,
    },
    /// A connection broke off.
    #[error("the connection broke off")]
    BrokenOff(#[source] Cause),
    /// A connection broke off too often.
    #[error("the download of blob {digest} broke off {times} times")]
    Broken {
        /// The blob.
        digest: Digest,
        /// How often, without getting on.
        times: u32,
        /// The last time.
        #[source]
        cause: Box<RegistryError>,
    },
    /// It answers with an error.
    #[error("{host} answers {status}{said}")]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: http::StatusCode,
        /// What it says of it.
        said: String,
    },
    /// It has no such image.
    #[error("there is no {reference} in its registry")]
    NotFound {
        /// The reference.
        reference: ImageReference,
    },
    /// A blob that a manifest names is not there.
    #[error("the registry has no blob {digest}")]
    NoBlob {
        /// The blob.
        digest: Digest,
    },
    /// There is no such file.
    #[error("there is nothing at {address}")]
    Nothing {
        /// Where.
        address: String,
    },
    /// It wants other credentials, or some at all.
    #[error("{} does not allow to pull {}", reference.host(), reference.path())]
    Denied {
        /// The reference.
        reference: ImageReference,
    },
    /// It sends us somewhere we do not go.
    #[error("the server leads to {to}, {why}")]
    Lead {
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// It asks for an authorization that nobody knows.
    #[error("{host} asks for an authorization that is not supported")]
    Challenge {
        /// The host.
        host: String,
    },
    /// The answer of a token server is none.
    #[error("{host} gives no token")]
    Token {
        /// The host.
        host: String,
    },
    /// What its token server gave it does not accept: it is out of date, or from somebody whom it does not trust.
    #[error("{host} does not accept the token that its token server gave")]
    TokenRefused {
        /// The host.
        host: String,
    },
    /// An answer is longer than it can be.
    #[error("an answer is longer than {limit} bytes")]
    TooLong {
        /// The allowed length.
        limit: u64,
    },
    /// It goes on elsewhere than where it was asked to.
    #[error("the server gives another part of blob {digest} than was asked for")]
    WrongPart {
        /// The blob.
        digest: Digest,
    },
    /// A document is not accepted.
    #[error("manifest {digest} is refused")]
    Document {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        cause: DocumentError,
    },
    /// A blob is not accepted, or cannot be written.
    #[error(transparent)]
    Blob(#[from] SinkError),
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The image does not fit.
    #[error("the image needs {needed} bytes, and {free} are free")]
    NoSpace {
        /// Bytes to be fetched.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// This daemon is going down.
    #[error("the daemon is stopping")]
    Stopped,
}

impl RegistryError {
    /// Whether the same may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::BrokenOff(_) => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == http::StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    /// The error of a call to the engine's own helpers.
    pub(crate) fn engine(error: crate::Error) -> Self {
        match error {
            crate::Error::Host(error) => Self::Blob(error.into()),
            _ => Self::Stopped,
        }
    }
}

/// What an error's body says, in the registry API's words or nothing.
pub(super) fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        message: String,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|body| body.errors).unwrap_or_default();
    let message = errors.into_iter().map(|one| one.message).find(|message| !message.is_empty());
    message.map_or(String::new(), |message| format!(": {}", message.chars().take(200).collect::<String>()))
}
