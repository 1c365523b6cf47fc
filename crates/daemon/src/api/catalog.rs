//! The catalogs of images and kernels.

use axum::{
    Json, Router,
    extract::{Path as Segment, State},
    routing::{get, post},
};
use engine::{CatalogKind, Kind};
use tokio::sync::oneshot;
use wire::control::{Catalog, Catalogs, ErrorBody, Outcome};

use super::{App, end_of, ended, look};
use crate::fail::Fail;

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
    let (sender, refreshed) = oneshot::channel();
    let refresh = app.engine.begin(Kind::CatalogRefresh, "", |engine, operation| async move {
        // Nobody listens any more where the client has gone.
        let _ = sender.send(engine.catalog_refresh(&operation).await?);
        Ok(Outcome::None)
    });
    // Who goes away does not want it any more.
    let _bound = refresh.token().clone().drop_guard();
    let _ = end_of(&refresh).await?;
    Ok(Json(refreshed.await.map_err(|_| ended())?))
}
