//! Operations under way and those that ended lately.

use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    http::StatusCode,
    routing::{get, post},
};
use engine::Operation;
use wire::control::{self, ErrorBody, Operations};

use super::App;
use crate::fail::Fail;

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/operations", get(operation_list))
        .route("/v1/operations/{id}", get(operation_show))
        .route("/v1/operations/{id}/cancel", post(operation_cancel))
}

/// Operations under way and those that ended lately.
#[utoipa::path(get, path = "/v1/operations", responses((status = 200, body = Operations)))]
pub async fn operation_list(State(app): State<App>) -> Json<Operations> {
    let operations = app.engine.operations().list().iter().map(Operation::show).collect();
    Json(Operations { operations })
}

/// One operation.
#[utoipa::path(get, path = "/v1/operations/{id}", params(("id" = String, Path)),
    responses((status = 200, body = control::Operation), (status = 404, body = ErrorBody)))]
pub async fn operation_show(
    State(app): State<App>,
    Segment(id): Segment<String>,
) -> Result<Json<control::Operation>, Fail> {
    Ok(Json(app.engine.operations().get(&id)?.show()))
}

/// Asks an operation to end and undo what it did.
#[utoipa::path(post, path = "/v1/operations/{id}/cancel", params(("id" = String, Path)),
    responses((status = 202), (status = 404, body = ErrorBody)))]
pub async fn operation_cancel(
    State(app): State<App>,
    Segment(id): Segment<String>,
) -> Result<StatusCode, Fail> {
    app.engine.operations().get(&id)?.cancel();
    Ok(StatusCode::ACCEPTED)
}
