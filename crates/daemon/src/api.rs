//! Routes and their handlers. Each translates a request into one call of the engine and its result into an answer.

use std::{num::NonZeroU16, path::Path};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path as Segment, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::{CatalogKind, Engine, Kind, Operation, Part, Source};
use model::signal::Signal;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use wire::control::{
    self, AllStats, BuildImage, CacheContent, Catalog, Catalogs, Changes, CreateVm, Daemon, ErrorBody,
    ExportWorkspace, Images, ImportImage, ImportKernel, Kernels, Operations, Outcome, PrepareWorkspace,
    PullImage, PullKernel, SetVm, Vms, Wait, Workspace, WorkspacePlan,
};

use crate::{
    connect,
    events::{Binding, answer},
    exec::{self, Streams},
    extract::{Params, Payload},
    fail::Fail,
    files,
    upload::upload,
};

/// The largest JSON body; an environment may be long.
const MAX_JSON: usize = 4 << 20;

/// What every handler has.
#[derive(Clone)]
pub struct App {
    /// What does the work.
    pub engine: Engine,
    streams: Streams,
    socket: String,
}

/// All routes of the control API.
pub fn router(engine: Engine, streams: Streams, socket: &Path) -> Router {
    let app = App { engine, streams, socket: socket.display().to_string() };
    Router::new()
        .route("/v1/daemon", get(daemon_show))
        .route("/v1/daemon/stop", post(daemon_stop))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/vms", get(vm_list).post(vm_create))
        .route("/v1/stats", get(vm_stats))
        .route("/v1/vms/{reference}", get(vm_show))
        .route("/v1/vms/{reference}/start", post(vm_start))
        .route("/v1/vms/{reference}/stop", post(vm_stop))
        .route("/v1/vms/{reference}/restart", post(vm_restart))
        .route("/v1/vms/{reference}/kill", post(vm_kill))
        .route("/v1/vms/{reference}/delete", post(vm_delete))
        .route("/v1/vms/{reference}/set", post(vm_set))
        .route("/v1/vms/{reference}/reset", post(vm_reset))
        .route("/v1/vms/{reference}/exec", post(vm_exec))
        .route("/v1/vms/{reference}/connect", post(vm_connect))
        .route(
            "/v1/vms/{reference}/files",
            get(files::vm_files_read).put(files::vm_files_write).layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/vms/{reference}/ports", get(vm_ports))
        .route("/v1/vms/{reference}/health", get(vm_health))
        .route("/v1/vms/{reference}/logs", get(vm_logs))
        .route("/v1/workspace/plan", post(workspace_plan))
        .route("/v1/vms/{reference}/workspace", get(workspace_show))
        .route("/v1/vms/{reference}/workspace/prepare", post(workspace_prepare))
        .route("/v1/vms/{reference}/workspace/export", post(workspace_export))
        .route("/v1/vms/{reference}/workspace/exports/{id}/patch", get(workspace_patch))
        .route("/v1/vms/{reference}/workspace/exports/{id}/changes", get(workspace_changes))
        .route("/v1/images", get(image_list))
        .route("/v1/images/build", post(image_build))
        .route("/v1/images/pull", post(image_pull))
        .route("/v1/images/cache", get(image_cache))
        .route("/v1/images/cache/prune", post(image_cache_prune))
        .route("/v1/images/{name}", get(image_show).delete(image_delete))
        .route("/v1/images/{name}/import", post(image_import).layer(DefaultBodyLimit::disable()))
        .route("/v1/kernels", get(kernel_list))
        .route("/v1/kernels/{name}", get(kernel_show).delete(kernel_delete))
        .route("/v1/kernels/{name}/import", post(kernel_import))
        .route("/v1/kernels/{name}/pull", post(kernel_pull))
        .route("/v1/catalogs/refresh", post(catalog_refresh))
        .route("/v1/catalogs/{kind}", get(catalog_show))
        .route("/v1/events", get(events))
        .route("/v1/operations", get(operation_list))
        .route("/v1/operations/{id}", get(operation_show))
        .route("/v1/operations/{id}/cancel", post(operation_cancel))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .with_state(app)
}

async fn unknown(request: Request) -> Fail {
    let message =
        format!("there is no {} {} in version {}", request.method(), request.uri().path(), control::VERSION);
    Fail(ErrorBody::new(control::Code::NotFound, message))
}

/// Runs a call that looks things up in the database on a thread that may block.
async fn look<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(Engine) -> Result<T, engine::Error> + Send + 'static,
) -> Result<T, Fail> {
    let engine = app.engine.clone();
    let result = tokio::task::spawn_blocking(move || work(engine)).await;
    Ok(result.map_err(|_| ended())??)
}

fn ended() -> Fail {
    Fail(ErrorBody::new(control::Code::Internal, "it ended unexpectedly"))
}

/// What came of an operation that has no stream. It goes on where its client goes away, so that nothing is done by halves.
async fn end_of(operation: &Operation) -> Result<Outcome, Fail> {
    let mut follow = operation.follow();
    while let Some(event) = follow.next().await {
        match event {
            control::Event::Done { result } => return Ok(result),
            control::Event::Failed { error } => return Err(Fail(error)),
            _ => {}
        }
    }
    Err(ended())
}

/// A JSON body, whose errors are told like all others.
fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Fail> {
    serde_json::from_slice(body)
        .map_err(|error| Fail::invalid(format!("the request's body is wrong: {error}")))
}

/// How a request that begins an operation is bound to it.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct Detach {
    /// Answer with the operation at once instead of its events.
    #[serde(default, deserialize_with = "flag")]
    detach: bool,
}

/// A flag of a query: `?detach`, `?detach=true`, `?detach=false`.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

impl Detach {
    fn binding(&self) -> Binding {
        if self.detach { Binding::Detached } else { Binding::Bound }
    }
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

/// All VMs in order of creation.
#[utoipa::path(get, path = "/v1/vms", responses((status = 200, body = Vms)))]
pub async fn vm_list(State(app): State<App>) -> Result<Json<Vms>, Fail> {
    Ok(Json(look(&app, |engine| engine.vm_list()).await?))
}

/// Makes a VM and, unless told otherwise, starts it. With `rm` the stream stays open, and closing it deletes the VM.
#[utoipa::path(post, path = "/v1/vms", params(Detach), request_body = CreateVm,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson"),
              (status = 202, body = control::Operation)))]
pub async fn vm_create(
    State(app): State<App>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let request: CreateVm = parse(&body)?;
    let binding = match (detach.detach, request.rm) {
        (true, true) => {
            return Err(Fail::invalid("`rm` needs a stream that owns the VM, and `detach` gives none"));
        }
        (true, false) => Binding::Detached,
        (false, true) => Binding::Owner,
        (false, false) => Binding::Bound,
    };
    let subject = request.name.clone().unwrap_or_else(|| "(unnamed)".to_owned());
    let operation =
        app.engine.begin(Kind::VmCreate, &subject, |engine, operation| engine.vm_create(operation, request));
    Ok(answer(app.engine, operation, binding))
}

/// One VM.
#[utoipa::path(get, path = "/v1/vms/{reference}", params(("reference" = String, Path)),
    responses((status = 200, body = control::Vm), (status = 404, body = ErrorBody)))]
pub async fn vm_show(
    State(app): State<App>,
    Segment(reference): Segment<String>,
) -> Result<Json<control::Vm>, Fail> {
    Ok(Json(look(&app, move |engine| engine.vm_show(&reference)).await?))
}

/// What a start waits for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct StartQuery {
    /// Without it what the VM's creation or its image says.
    #[serde(default)]
    wait: Option<Wait>,
    /// Answer with the operation at once instead of its events.
    #[serde(default, deserialize_with = "flag")]
    detach: bool,
}

/// Starts a VM and waits until it is ready.
#[utoipa::path(post, path = "/v1/vms/{reference}/start", params(("reference" = String, Path), StartQuery),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_start(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<StartQuery>,
) -> Response {
    let subject = reference.clone();
    let operation = app.engine.begin(Kind::VmStart, &subject, |engine, operation| {
        engine.vm_start(operation, reference, query.wait)
    });
    answer(app.engine, operation, Detach { detach: query.detach }.binding())
}

/// Stops a VM, losing nothing that its guest had written.
#[utoipa::path(post, path = "/v1/vms/{reference}/stop", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_stop(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    let subject = reference.clone();
    let operation =
        app.engine.begin(Kind::VmStop, &subject, |engine, operation| engine.vm_stop(operation, reference));
    answer(app.engine, operation, detach.binding())
}

/// Stops a VM if it runs and starts it.
#[utoipa::path(post, path = "/v1/vms/{reference}/restart", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_restart(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    let subject = reference.clone();
    let operation = app
        .engine
        .begin(Kind::VmRestart, &subject, |engine, operation| engine.vm_restart(operation, reference));
    answer(app.engine, operation, detach.binding())
}

/// How a VM is killed.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct KillQuery {
    /// The signal for its VMM, `KILL` without it. What does not end of it is killed soon after.
    #[serde(default)]
    signal: Option<String>,
    /// Answer with the operation at once instead of its events.
    #[serde(default, deserialize_with = "flag")]
    detach: bool,
}

/// Ends a VM's machine now.
#[utoipa::path(post, path = "/v1/vms/{reference}/kill", params(("reference" = String, Path), KillQuery),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_kill(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<KillQuery>,
) -> Result<Response, Fail> {
    let signal = match query.signal.as_deref() {
        None => Signal::Kill,
        Some(name) => Signal::from_name(name).ok_or_else(|| {
            Fail::invalid(format!(
                "{name:?} is no signal to send; those are {}",
                Signal::ALL.map(Signal::name).join(", ")
            ))
        })?,
    };
    let subject = reference.clone();
    let operation = app
        .engine
        .begin(Kind::VmKill, &subject, move |engine, operation| engine.vm_kill(operation, reference, signal));
    Ok(answer(app.engine, operation, Detach { detach: query.detach }.binding()))
}

/// Removes a VM with everything of it.
#[utoipa::path(post, path = "/v1/vms/{reference}/delete", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_delete(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    let subject = reference.clone();
    let operation = app
        .engine
        .begin(Kind::VmDelete, &subject, |engine, operation| engine.vm_delete(operation, reference));
    answer(app.engine, operation, detach.binding())
}

/// Gives a VM another size.
#[utoipa::path(post, path = "/v1/vms/{reference}/set", params(("reference" = String, Path), Detach),
    request_body = SetVm, responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_set(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let request: SetVm = parse(&body)?;
    let subject = reference.clone();
    let operation = app
        .engine
        .begin(Kind::VmSet, &subject, |engine, operation| engine.vm_set(operation, reference, request));
    Ok(answer(app.engine, operation, detach.binding()))
}

/// Of what image a system overlay is made new.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct ResetQuery {
    /// The image; without it the VM's own.
    #[serde(default)]
    image: Option<String>,
    /// Answer with the operation at once instead of its events.
    #[serde(default, deserialize_with = "flag")]
    detach: bool,
}

/// Makes a VM's system overlay new; its work disk stays.
#[utoipa::path(post, path = "/v1/vms/{reference}/reset", params(("reference" = String, Path), ResetQuery),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_reset(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<ResetQuery>,
) -> Response {
    let subject = reference.clone();
    let operation = app.engine.begin(Kind::VmReset, &subject, |engine, operation| {
        engine.vm_reset(operation, reference, query.image)
    });
    answer(app.engine, operation, Detach { detach: query.detach }.binding())
}

/// Runs a command in a VM: the connection becomes a stream of frames.
#[utoipa::path(post, path = "/v1/vms/{reference}/exec", params(("reference" = String, Path)),
    responses((status = 101, description = "frames of `banger-exec` both ways")))]
pub async fn vm_exec(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    request: Request,
) -> Result<Response, Fail> {
    exec::upgrade(app.engine, app.streams, reference, request).await
}

/// To which port.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct ConnectQuery {
    /// A TCP port of the guest's loopback.
    tcp: u16,
}

/// Connects to a port of a guest, also to one bound to its loopback alone: the connection becomes that stream.
#[utoipa::path(post, path = "/v1/vms/{reference}/connect", params(("reference" = String, Path), ConnectQuery),
    responses((status = 101, description = "the bytes of the connection both ways, as `banger-connect`")))]
pub async fn vm_connect(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<ConnectQuery>,
    request: Request,
) -> Result<Response, Fail> {
    let port = NonZeroU16::new(query.tcp).ok_or_else(|| Fail::invalid("there is no port 0"))?;
    connect::upgrade(app.engine, app.streams, reference, port, request).await
}

/// The sockets that listen in a guest.
#[utoipa::path(get, path = "/v1/vms/{reference}/ports", params(("reference" = String, Path)),
    responses((status = 200, body = wire::guest::Ports)))]
pub async fn vm_ports(
    State(app): State<App>,
    Segment(reference): Segment<String>,
) -> Result<Json<wire::guest::Ports>, Fail> {
    Ok(Json(app.engine.vm_ports(&reference).await?))
}

/// What a guest's agent says of itself.
#[utoipa::path(get, path = "/v1/vms/{reference}/health", params(("reference" = String, Path)),
    responses((status = 200, body = wire::guest::Health)))]
pub async fn vm_health(
    State(app): State<App>,
    Segment(reference): Segment<String>,
) -> Result<Json<wire::guest::Health>, Fail> {
    Ok(Json(app.engine.vm_health(&reference).await?))
}

/// Of which VMs.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct StatsQuery {
    /// References, separated by commas; without them all that run.
    #[serde(default)]
    vms: Option<String>,
}

/// What running VMs use, as their guests said last.
#[utoipa::path(get, path = "/v1/stats", params(StatsQuery), responses((status = 200, body = AllStats)))]
pub async fn vm_stats(
    State(app): State<App>,
    Params(query): Params<StatsQuery>,
) -> Result<Json<AllStats>, Fail> {
    let texts = query.vms.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    Ok(Json(AllStats { vms: app.engine.vm_stats(texts).await? }))
}

/// Which log, and how.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct LogsQuery {
    /// `console`, the default, `vmm` or `agent`.
    #[serde(default)]
    source: Option<String>,
    /// Only what came since then, in milliseconds since the Unix epoch, or up to a second before.
    #[serde(default)]
    since: Option<u64>,
    /// Go on as more is written, until the VM does not run any more.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
}

/// What is kept of a VM's log, the oldest first.
#[utoipa::path(get, path = "/v1/vms/{reference}/logs", params(("reference" = String, Path), LogsQuery),
    responses((status = 200, content_type = "application/octet-stream")))]
pub async fn vm_logs(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(query): Params<LogsQuery>,
) -> Result<Response, Fail> {
    let name = query.source.as_deref().unwrap_or(Source::Console.name());
    let source = Source::from_name(name).ok_or_else(|| {
        let names = Source::ALL.map(Source::name).join(", ");
        Fail::invalid(format!("{name:?} is no log; they are {names}"))
    })?;
    if source == Source::Vmm && query.since.is_some() {
        return Err(Fail::invalid("what a VMM says has no times, so there is no `since` for it"));
    }
    let log = look(&app, move |engine| engine.vm_log(&reference, source, query.since)).await?;
    let stream = futures_util::stream::try_unfold(log, move |mut log| async move {
        let read = if query.follow { log.follow().await } else { log.next().await };
        // There is no other way to tell in the middle of a body than to cut it off.
        read.map(|bytes| bytes.map(|bytes| (bytes, log)))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(stream)).into_response())
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
    let subject = reference.clone();
    let operation = app.engine.begin(Kind::WorkspacePrepare, &subject, |engine, operation| {
        engine.vm_prepare(operation, reference, request)
    });
    Ok(answer(app.engine, operation, detach.binding()))
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
    let subject = reference.clone();
    let operation = app.engine.begin(Kind::WorkspaceExport, &subject, |engine, operation| {
        engine.vm_export(operation, reference, request.base_commit)
    });
    Ok(answer(app.engine, operation, detach.binding()))
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
    let delete = app
        .engine
        .begin(Kind::ImageDelete, &subject, |engine, operation| engine.image_delete(operation, name));
    let _ = end_of(&delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes what is in the body, plain or compressed, an image: a root tar, an OCI archive or what `docker save` writes. The answer
/// begins after the body was read.
#[utoipa::path(post, path = "/v1/images/{name}/import", params(("name" = String, Path)),
    request_body(content_type = "application/x-tar"),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_import(
    State(app): State<App>,
    Segment(name): Segment<String>,
    Params(how): Params<ImportImage>,
    body: Body,
) -> Response {
    let subject = name.clone();
    let operation = app.engine.begin(Kind::ImageImport, &subject, |engine, operation| {
        let reader = SyncIoBridge::new(StreamReader::new(upload(body, operation.token().clone())));
        engine.image_import(operation, name, how, reader)
    });
    answer(app.engine, operation, Binding::Bound)
}

/// Builds an image from a recipe.
#[utoipa::path(post, path = "/v1/images/build", params(Detach), request_body = BuildImage,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_build(
    State(app): State<App>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let build: BuildImage = parse(&body)?;
    let subject = build.recipe.clone();
    let operation = app
        .engine
        .begin(Kind::ImageBuild, &subject, |engine, operation| engine.image_build(operation, build));
    Ok(answer(app.engine, operation, detach.binding()))
}

/// Pulls an image of the catalog, or from a registry.
#[utoipa::path(post, path = "/v1/images/pull", params(Detach), request_body = PullImage,
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn image_pull(
    State(app): State<App>,
    Params(detach): Params<Detach>,
    Payload(body): Payload,
) -> Result<Response, Fail> {
    let pull: PullImage = parse(&body)?;
    let subject = pull.reference.clone();
    let operation =
        app.engine.begin(Kind::ImagePull, &subject, |engine, operation| engine.image_pull(operation, pull));
    Ok(answer(app.engine, operation, detach.binding()))
}

/// What is in the cache of blobs.
#[utoipa::path(get, path = "/v1/images/cache", responses((status = 200, body = CacheContent)))]
pub async fn image_cache(State(app): State<App>) -> Result<Json<CacheContent>, Fail> {
    Ok(Json(app.engine.image_cache().await?))
}

/// Empties the cache of blobs, and says what was in it.
#[utoipa::path(post, path = "/v1/images/cache/prune", responses((status = 200, body = CacheContent)))]
pub async fn image_cache_prune(State(app): State<App>) -> Result<Json<CacheContent>, Fail> {
    let (sender, pruned) = oneshot::channel();
    let prune = app.engine.begin(Kind::ImageCachePrune, "", |engine, _| async move {
        // Nobody listens any more where the client has gone.
        let _ = sender.send(engine.image_cache_prune().await?);
        Ok(Outcome::None)
    });
    let _ = end_of(&prune).await?;
    Ok(Json(pruned.await.map_err(|_| ended())?))
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
    let delete = app
        .engine
        .begin(Kind::KernelDelete, &subject, |engine, operation| engine.kernel_delete(operation, name));
    let _ = end_of(&delete).await?;
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
    let subject = name.clone();
    let operation = app
        .engine
        .begin(Kind::KernelImport, &subject, |engine, operation| engine.kernel_import(operation, name, from));
    Ok(answer(app.engine, operation, detach.binding()))
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
    let subject = name.clone();
    let operation = app
        .engine
        .begin(Kind::KernelPull, &subject, |engine, operation| engine.kernel_pull(operation, name, pull));
    Ok(answer(app.engine, operation, detach.binding()))
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
    let refresh = app.engine.begin(Kind::CatalogRefresh, "", |engine, _| async move {
        // Nobody listens any more where the client has gone.
        let _ = sender.send(engine.catalog_refresh().await?);
        Ok(Outcome::None)
    });
    let _ = end_of(&refresh).await?;
    Ok(Json(refreshed.await.map_err(|_| ended())?))
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
