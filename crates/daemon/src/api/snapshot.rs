//! Snapshots of running VMs.

use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use engine::Kind;
use wire::control::{self, ErrorBody, Snapshots, TakeSnapshot};

use super::{App, Detach, look, parse};
use crate::{
    events::Binding,
    extract::{Params, Payload},
    fail::Fail,
};

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/vms/{reference}/snapshot", post(vm_snapshot))
        .route("/v1/snapshots", get(snapshot_list))
        .route("/v1/snapshots/{name}", get(snapshot_show).delete(snapshot_delete))
}

/// Saves a running VM, which goes on, with copies of its disks.
#[utoipa::path(post, path = "/v1/vms/{reference}/snapshot", params(("reference" = String, Path), Detach),
    request_body = TakeSnapshot,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_snapshot(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let take: TakeSnapshot = parse(&body)?;
    let binding = Binding::of(detach.detach);
    Ok(app.operate(Kind::VmSnapshot, reference, binding, |engine, operation, reference| {
        engine.vm_snapshot(operation, reference, take)
    }))
}

/// All snapshots by name.
#[utoipa::path(get, path = "/v1/snapshots", responses((status = 200, body = Snapshots)))]
pub async fn snapshot_list(State(app): State<App>) -> Result<Json<Snapshots>, Fail> {
    Ok(Json(look(&app, |engine| engine.snapshot_list()).await?))
}

/// One snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{name}", params(("name" = String, Path)),
    responses((status = 200, body = control::Snapshot), (status = 404, body = ErrorBody)))]
pub async fn snapshot_show(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<Json<control::Snapshot>, Fail> {
    Ok(Json(look(&app, move |engine| engine.snapshot_show(&name)).await?))
}

/// Removes a snapshot; VMs that were made of it stay.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 409, body = ErrorBody)))]
pub async fn snapshot_delete(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Fail> {
    let subject = name.clone();
    let _ = app
        .complete(Kind::SnapshotDelete, &subject, Binding::Detached, |engine, operation| {
            engine.snapshot_delete(operation, name)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
