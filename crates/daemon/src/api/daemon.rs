//! The daemon itself, and what happens in it.

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use wire::control::{self, Daemon};

use super::App;

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/daemon", get(daemon_show))
        .route("/v1/daemon/stop", post(daemon_stop))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/events", get(events))
}

/// The daemon.
#[utoipa::path(get, path = "/v1/daemon", responses((status = 200, body = Daemon)))]
pub async fn daemon_show(State(app): State<App>) -> Json<Daemon> {
    Json(Daemon {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("BANGER_COMMIT").to_owned(),
        api: control::VERSION,
        pid: std::process::id(),
        socket: app.socket,
    })
}

/// Stops the daemon; VMs run on.
#[utoipa::path(post, path = "/v1/daemon/stop", responses((status = 204)))]
pub async fn daemon_stop(State(app): State<App>) -> StatusCode {
    app.streams.stop.cancel();
    StatusCode::NO_CONTENT
}

/// This API as an OpenAPI document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200)))]
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], crate::openapi::document()).into_response()
}

/// What happens from now on, one line each.
#[utoipa::path(get, path = "/v1/events",
    responses((status = 200, body = control::Happening, content_type = "application/x-ndjson")))]
pub async fn events(State(app): State<App>) -> Response {
    let listener = app.engine.operations().happenings().listen();
    let stream = futures_util::stream::unfold(listener, |mut listener| async move {
        let mut line = serde_json::to_vec(&listener.next().await?).expect("what happens has string keys");
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(line), listener))
    });
    ([(header::CONTENT_TYPE, control::EVENTS)], Body::from_stream(stream)).into_response()
}
