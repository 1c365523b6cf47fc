//! The catalogs of images and kernels.

use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    routing::{get, post},
};
use engine::{CatalogKind, Engine, Kind};
use wire::control::{Catalog, Catalogs, ErrorBody};

use super::{App, look};
use crate::{events::Binding, fail::Fail};

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/catalogs/refresh", post(catalog_refresh))
        .route("/v1/catalogs/{kind}", get(catalog_show))
}

/// What the catalog of `images` or of `kernels` has for this host.
#[utoipa::path(get, path = "/v1/catalogs/{kind}", params(("kind" = String, Path)),
    responses((status = 200, body = Catalog), (status = 404, body = ErrorBody)))]
pub async fn catalog_show(
    State(app): State<App>,
    Segment(kind): Segment<String>,
) -> Result<Json<Catalog>, Fail> {
    let Some(kind) = CatalogKind::from_name(&kind) else {
        return Err(engine::Error::NotFound { kind: "catalog", name: kind, hint: None }.into());
    };
    Ok(Json(look(&app, move |engine| engine.catalog_show(kind)).await?))
}

/// Gets newer catalogs from where they are configured to be.
#[utoipa::path(post, path = "/v1/catalogs/refresh", responses((status = 200, body = Catalogs)))]
pub async fn catalog_refresh(State(app): State<App>) -> Result<Json<Catalogs>, Fail> {
    // Who goes away does not want it any more.
    let refresh = |engine: Engine, operation| async move { engine.catalog_refresh(&operation).await };
    Ok(Json(app.complete(Kind::CatalogRefresh, "", Binding::Bound, refresh).await?))
}
