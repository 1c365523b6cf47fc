//! Images and the cache of what they are made of.

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path as Segment, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use engine::{Engine, Kind};
use tokio_util::io::{StreamReader, SyncIoBridge};
use wire::control::{
    self, BuildImage, CacheContent, ErrorBody, Images, ImportImage, PullImage, RegisterImage,
};

use super::{App, Detach, look, parse};
use crate::{
    events::Binding,
    extract::{Params, Payload},
    fail::Fail,
    upload::upload,
};

/// Its routes. What follows `/v1/images/` is a name, whatever name that is.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/images", get(image_list))
        .route("/v1/image-builds", post(image_build))
        .route("/v1/image-pulls", post(image_pull))
        .route("/v1/image-prunes", get(image_prunable).post(image_prune))
        .route("/v1/image-cache", get(image_cache))
        .route("/v1/image-cache/prune", post(image_cache_prune))
        .route("/v1/images/{name}", get(image_show).delete(image_delete))
        .route("/v1/images/{name}/import", post(image_import).layer(DefaultBodyLimit::disable()))
        .route("/v1/images/{name}/register", post(image_register))
        .route("/v1/images/{name}/promote", post(image_promote))
}

/// All images by name.
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = Images)))]
pub async fn image_list(State(app): State<App>) -> Result<Json<Images>, Fail> {
    Ok(Json(look(&app, |engine| engine.image_list()).await?))
}

/// One image.
#[utoipa::path(get, path = "/v1/images/{name}", params(("name" = String, Path)),
    responses((status = 200, body = control::Image), (status = 404, body = ErrorBody)))]
pub async fn image_show(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<Json<control::Image>, Fail> {
    Ok(Json(look(&app, move |engine| engine.image_show(&name)).await?))
}

/// Removes an unused image.
#[utoipa::path(delete, path = "/v1/images/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = 409, body = ErrorBody)))]
pub async fn image_delete(
    State(app): State<App>,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Fail> {
    let subject = name.clone();
    let _ = app
        .complete(Kind::ImageDelete, &subject, Binding::Detached, |engine, operation| {
            engine.image_delete(operation, name)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes what is in the body, plain or compressed, an image: a root tar, an OCI archive or what `docker save` writes; or a
/// directory. The answer begins after the body was read.
#[utoipa::path(post, path = "/v1/images/{name}/import", params(("name" = String, Path)),
    request_body(content_type = "application/x-tar"),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_import(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(how): Params<ImportImage>,
    body: Body,
) -> Response {
    app.operate(Kind::ImageImport, name, Binding::Bound, |engine, operation, name| {
        let reader = SyncIoBridge::new(StreamReader::new(upload(body, operation.token().clone())));
        engine.image_import(operation, name, how, reader)
    })
}

/// Records a file system that stays where it is as an image.
#[utoipa::path(post, path = "/v1/images/{name}/register", params(("name" = String, Path), Detach),
    request_body = RegisterImage,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_register(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let how: RegisterImage = parse(&body)?;
    Ok(app.operate(Kind::ImageRegister, name, Binding::of(detach.detach), |engine, operation, name| {
        engine.image_register(operation, name, how)
    }))
}

/// Copies the file of a registered image into the store.
#[utoipa::path(post, path = "/v1/images/{name}/promote", params(("name" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_promote(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    app.operate(Kind::ImagePromote, name, Binding::of(detach.detach), Engine::image_promote)
}

/// Builds an image from a recipe.
#[utoipa::path(post, path = "/v1/image-builds", params(Detach), request_body = BuildImage,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_build(
    State(app): State<App>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let build: BuildImage = parse(&body)?;
    Ok(app.operate(
        Kind::ImageBuild,
        build.recipe.clone(),
        Binding::of(detach.detach),
        |engine, operation, _| engine.image_build(operation, build),
    ))
}

/// Pulls an image of the catalog, or from a registry.
#[utoipa::path(post, path = "/v1/image-pulls", params(Detach), request_body = PullImage,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_pull(
    State(app): State<App>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let pull: PullImage = parse(&body)?;
    Ok(app.operate(
        Kind::ImagePull,
        pull.reference.clone(),
        Binding::of(detach.detach),
        |engine, operation, _| engine.image_pull(operation, pull),
    ))
}

/// The images whose name a newer one has, and that no VM uses.
#[utoipa::path(get, path = "/v1/image-prunes", responses((status = 200, body = Images)))]
pub async fn image_prunable(State(app): State<App>) -> Result<Json<Images>, Fail> {
    Ok(Json(look(&app, |engine| engine.image_prunable()).await?))
}

/// Removes these, and says which there were.
#[utoipa::path(post, path = "/v1/image-prunes", responses((status = 200, body = Images)))]
pub async fn image_prune(State(app): State<App>) -> Result<Json<Images>, Fail> {
    let prune = |engine: Engine, operation| async move { engine.image_prune(&operation).await };
    Ok(Json(app.complete(Kind::ImagePrune, "", Binding::Detached, prune).await?))
}

/// What is in the cache of blobs.
#[utoipa::path(get, path = "/v1/image-cache", responses((status = 200, body = CacheContent)))]
pub async fn image_cache(State(app): State<App>) -> Result<Json<CacheContent>, Fail> {
    Ok(Json(app.engine.image_cache().await?))
}

/// Empties the cache of blobs, and says what was in it.
#[utoipa::path(post, path = "/v1/image-cache/prune", responses((status = 200, body = CacheContent)))]
pub async fn image_cache_prune(State(app): State<App>) -> Result<Json<CacheContent>, Fail> {
    let prune = |engine: Engine, _| async move { engine.image_cache_prune().await };
    Ok(Json(app.complete(Kind::ImageCachePrune, "", Binding::Detached, prune).await?))
}
