//! A request's body as something to read from, which ends with its operation.

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

/// How long a client that sends what nobody wants may pause.
const UNWANTED: std::time::Duration = std::time::Duration::from_secs(10);

/// The bytes of a body, until `token` is cancelled: a client that stalls holds up nobody who wants it to end.
pub fn upload(body: Body, token: CancellationToken) -> impl Stream<Item = std::io::Result<Bytes>> + Unpin {
    let body = Upload::from(body);
    Box::pin(futures_util::stream::unfold((body, token), |(mut body, token)| async move {
        let next = tokio::select! {
            next = body.next() => next?.map_err(std::io::Error::other),
            () = token.cancelled() => Err(std::io::ErrorKind::Interrupted.into()),
        };
        Some((next, (body, token)))
    }))
}

/// A body that is being read. What nobody wants of it is read nevertheless: a connection that is closed before that takes
/// the answer, which says why, along.
pub struct Upload(Option<BodyDataStream>);

impl From<Body> for Upload {
    fn from(body: Body) -> Self {
        Self(Some(body.into_data_stream()))
    }
}

impl Upload {
    /// The next bytes.
    pub async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        self.0.as_mut().expect("it is taken when it is dropped").next().await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut rest), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            while let Ok(Some(Ok(_))) = tokio::time::timeout(UNWANTED, rest.next()).await {}
        });
    }
}
