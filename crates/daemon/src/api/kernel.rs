//! Kernels.

use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use engine::{Engine, Kind};
use wire::control::{self, ErrorBody, ImportKernel, Kernels, PullKernel};

use super::{App, Detach, look, parse};
use crate::{
    events::Binding,
    extract::{Params, Payload},
    fail::Fail,
};

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/kernels", get(kernel_list))
        .route("/v1/kernels/{name}", get(kernel_show).delete(kernel_delete))
        .route("/v1/kernels/{name}/import", post(kernel_import))
        .route("/v1/kernels/{name}/promote", post(kernel_promote))
        .route("/v1/kernels/{name}/pull", post(kernel_pull))
}

/// All kernels by name.
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = Kernels)))]
pub async fn kernel_list(State(app): State<App>) -> Result<Json<Kernels>, Fail> {
    Ok(Json(look(&app, |engine| engine.kernel_list()).await?))
}

/// One kernel.
#[utoipa::path(get, path = "/v1/kernels/{name}", params(("name" = String, Path)),
    responses((status = 200, body = control::Kernel), (status = 404, body = ErrorBody)))]
pub async fn kernel_show(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<Json<control::Kernel>, Fail> {
    Ok(Json(look(&app, move |engine| engine.kernel_show(&name)).await?))
}

/// Removes an unused kernel.
#[utoipa::path(delete, path = "/v1/kernels/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 409, body = ErrorBody)))]
pub async fn kernel_delete(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Fail> {
    let subject = name.clone();
    let _ = app
        .complete(Kind::KernelDelete, &subject, Binding::Detached, |engine, operation| {
            engine.kernel_delete(operation, name)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Imports a kernel.
#[utoipa::path(post, path = "/v1/kernels/{name}/import", params(("name" = String, Path), Detach),
    request_body = ImportKernel,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn kernel_import(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let from: ImportKernel = parse(&body)?;
    Ok(app.operate(Kind::KernelImport, name, Binding::of(detach.detach), |engine, operation, name| {
        engine.kernel_import(operation, name, from)
    }))
}

/// Copies the file of a kernel that stays where it is into the store.
#[utoipa::path(post, path = "/v1/kernels/{name}/promote", params(("name" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn kernel_promote(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    app.operate(Kind::KernelPromote, name, Binding::of(detach.detach), Engine::kernel_promote)
}

/// Gets a kernel of the catalog.
#[utoipa::path(post, path = "/v1/kernels/{name}/pull", params(("name" = String, Path), Detach),
    request_body = PullKernel, responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn kernel_pull(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let pull: PullKernel = parse(&body)?;
    Ok(app.operate(Kind::KernelPull, name, Binding::of(detach.detach), |engine, operation, name| {
        engine.kernel_pull(operation, name, pull)
    }))
}
