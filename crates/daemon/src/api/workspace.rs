//! Workspaces: a repository into a VM, and what changed out of it.

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as Segment, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::{Kind, Part};
use tokio_util::io::ReaderStream;
use wire::control::{self, Changes, ErrorBody, ExportWorkspace, PrepareWorkspace, Workspace, WorkspacePlan};

use super::{App, Detach, look, parse};
use crate::{
    events::Binding,
    extract::{Params, Payload},
    fail::Fail,
};

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/workspace/plan", post(workspace_plan))
        .route("/v1/vms/{reference}/workspace", get(workspace_show))
        .route("/v1/vms/{reference}/workspace/prepare", post(workspace_prepare))
        .route("/v1/vms/{reference}/workspace/export", post(workspace_export))
        .route("/v1/vms/{reference}/workspace/exports/{id}/patch", get(workspace_patch))
        .route("/v1/vms/{reference}/workspace/exports/{id}/changes", get(workspace_changes))
}

/// What of a repository would be shipped.
#[utoipa::path(post, path = "/v1/workspace/plan", request_body = PrepareWorkspace,
    responses((status = 200, body = WorkspacePlan), (status = 400, body = ErrorBody)))]
pub async fn workspace_plan(
    State(app): State<App>,
    Payload(body): Payload,
) -> Result<Json<WorkspacePlan>, Fail> {
    Ok(Json(app.engine.workspace_plan(parse(&body)?).await?))
}

/// What was shipped into a VM.
#[utoipa::path(get, path = "/v1/vms/{reference}/workspace", params(("reference" = String, Path)),
    responses((status = 200, body = Workspace), (status = 404, body = ErrorBody)))]
pub async fn workspace_show(
    State(app): State<App>,
    Segment(reference): Segment<String>,
) -> Result<Json<Workspace>, Fail> {
    Ok(Json(app.engine.workspace_show(&reference).await?))
}

/// Ships a repository into a VM.
#[utoipa::path(post, path = "/v1/vms/{reference}/workspace/prepare", params(("reference" = String, Path), Detach),
    request_body = PrepareWorkspace,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn workspace_prepare(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let request: PrepareWorkspace = parse(&body)?;
    Ok(app.operate(
        Kind::WorkspacePrepare,
        reference,
        Binding::of(detach.detach),
        |engine, operation, reference| engine.vm_prepare(operation, reference, request),
    ))
}

/// Makes a patch of what a guest changed, to be fetched afterwards.
#[utoipa::path(post, path = "/v1/vms/{reference}/workspace/export", params(("reference" = String, Path), Detach),
    request_body = ExportWorkspace,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn workspace_export(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let request: ExportWorkspace = parse(&body)?;
    Ok(app.operate(
        Kind::WorkspaceExport,
        reference,
        Binding::of(detach.detach),
        |engine, operation, reference| engine.vm_export(operation, reference, request),
    ))
}

/// The patch of an export; the last few of a VM are kept.
#[utoipa::path(get, path = "/v1/vms/{reference}/workspace/exports/{id}/patch",
    params(("reference" = String, Path), ("id" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = ErrorBody)))]
pub async fn workspace_patch(
    State(app): State<App>,
    Segment((reference, id)): Segment<(String, String)>,
) -> Result<Response, Fail> {
    let file = look(&app, move |engine| engine.vm_exported(&reference, &id, Part::Patch)).await?;
    Ok(whole_file(file, "application/octet-stream"))
}

/// The list of changes of an export.
#[utoipa::path(get, path = "/v1/vms/{reference}/workspace/exports/{id}/changes",
    params(("reference" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Changes), (status = 404, body = ErrorBody)))]
pub async fn workspace_changes(
    State(app): State<App>,
    Segment((reference, id)): Segment<(String, String)>,
) -> Result<Response, Fail> {
    let file = look(&app, move |engine| engine.vm_exported(&reference, &id, Part::Changes)).await?;
    Ok(whole_file(file, "application/json"))
}

fn whole_file(file: std::fs::File, kind: &'static str) -> Response {
    let stream = ReaderStream::new(tokio::fs::File::from_std(file));
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}
