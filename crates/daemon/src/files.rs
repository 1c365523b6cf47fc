//! Files out of a guest and into it: a tar between a client and the guest's agent. Nothing of it is looked at here.

use axum::{
    body::Body,
    extract::{Path as Segment, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::Engine;
use http_body_util::channel::Channel;
use model::copy::CopyPath;

use serde::Deserialize;

use crate::{api::App, extract::Params, fail::Fail, upload::Upload};

/// Pieces that wait for the guest.
const QUEUE: usize = 4;

/// Which files of a guest.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct FilesQuery {
    /// Absolute.
    path: String,
}

impl FilesQuery {
    fn parse(&self) -> Result<CopyPath, Fail> {
        CopyPath::try_from(&*self.path).map_err(|why| Fail::invalid(format!("{:?}: {why}", self.path)))
    }
}

/// A tar of what lies at a path of a guest. A link is followed there; those below it are not.
#[utoipa::path(get, path = "/v1/vms/{reference}/files", params(("reference" = String, Path), FilesQuery),
    responses((status = 200, content_type = "application/x-tar")))]
pub async fn vm_files_read(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<FilesQuery>,
) -> Result<Response, Fail> {
    read(&app.engine, &reference, &query.parse()?).await
}

/// Puts the one thing of a tar at a path of a guest: into the directory that is there, or as what is called so.
#[utoipa::path(put, path = "/v1/vms/{reference}/files", params(("reference" = String, Path), FilesQuery),
    request_body(content_type = "application/x-tar"), responses((status = 204)))]
pub async fn vm_files_write(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<FilesQuery>,
    body: Body,
) -> Result<StatusCode, Fail> {
    let body = Upload::from(body);
    write(&app.engine, &reference, &query.parse()?, body).await
}

/// Answers with a tar of what lies at `path` in the VM `reference`.
async fn read(engine: &Engine, reference: &str, path: &CopyPath) -> Result<Response, Fail> {
    let files = engine.vm_files_read(reference, path).await?;
    // What breaks off is cut off, so that it is not taken for whole.
    let stream = futures_util::stream::try_unfold(files, |mut files| async move {
        Ok::<_, engine::guest::GuestError>(files.body.next().await?.map(|piece| (piece, files)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream)).into_response())
}

/// Puts the one thing of the tar `body` at `path` in the VM `reference`.
async fn write(
    engine: &Engine,
    reference: &str,
    path: &CopyPath,
    mut body: Upload,
) -> Result<StatusCode, Fail> {
    let (mut sender, channel) = Channel::new(QUEUE);
    let pump = async {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Fail::invalid(format!("the tar broke off: {error}")))?;
            if sender.send_data(piece).await.is_err() {
                break;
            }
        }
        drop(sender);
        // The answer is the guest's.
        std::future::pending::<Result<StatusCode, Fail>>().await
    };
    tokio::select! {
        broken = pump => broken,
        written = engine.vm_files_write(reference, path, channel) => {
            written.map(|()| StatusCode::NO_CONTENT).map_err(Fail::from)
        }
    }
}
