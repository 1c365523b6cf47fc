//! Files out of a guest and into it: a tar between a client and the guest's agent. Nothing of it is looked at here.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::Engine;
use http_body_util::{BodyExt, channel::Channel};
use model::copy::CopyPath;

use crate::{fail::Fail, upload::Upload};

/// Pieces that wait for the guest.
const QUEUE: usize = 4;

/// Answers with a tar of what lies at `path` in the VM `reference`.
pub async fn read(engine: &Engine, reference: &str, path: &CopyPath) -> Result<Response, Fail> {
    let files = engine.vm_files_read(reference, path).await?;
    let stream = futures_util::stream::try_unfold(files, |mut files| async move {
        while let Some(frame) = files.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some((data, files)));
            }
        }
        // What breaks off is cut off, so that it is not taken for whole.
        Ok::<_, hyper::Error>(None)
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream)).into_response())
}

/// Puts the one thing of the tar `body` at `path` in the VM `reference`.
pub async fn write(
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
