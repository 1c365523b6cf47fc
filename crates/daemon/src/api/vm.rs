//! VMs: their life, what they use and say, and the streams into them.

use std::num::NonZeroU16;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path as Segment, Request, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::{Engine, Kind, Source};
use model::signal::Signal;
use serde::Deserialize;
use wire::control::{self, AllStats, CreateVm, ErrorBody, SetVm, Vms, Wait};

use super::{App, Detach, flag, look, parse};
use crate::{
    connect,
    events::Binding,
    exec,
    extract::{Params, Payload},
    fail::Fail,
    files,
};

/// Its routes.
pub fn routes() -> Router<App> {
    Router::new()
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
    Ok(app.operate(Kind::VmCreate, subject, binding, |engine, operation, _| {
        engine.vm_create(operation, request)
    }))
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
    app.operate(Kind::VmStart, reference, Binding::of(query.detach), |engine, operation, reference| {
        engine.vm_start(operation, reference, query.wait)
    })
}

/// Stops a VM, losing nothing that its guest had written.
#[utoipa::path(post, path = "/v1/vms/{reference}/stop", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_stop(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    app.operate(Kind::VmStop, reference, Binding::of(detach.detach), Engine::vm_stop)
}

/// Stops a VM if it runs and starts it.
#[utoipa::path(post, path = "/v1/vms/{reference}/restart", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_restart(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    app.operate(Kind::VmRestart, reference, Binding::of(detach.detach), Engine::vm_restart)
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
    Ok(app.operate(Kind::VmKill, reference, Binding::of(query.detach), |engine, operation, reference| {
        engine.vm_kill(operation, reference, signal)
    }))
}

/// Removes a VM with everything of it.
#[utoipa::path(post, path = "/v1/vms/{reference}/delete", params(("reference" = String, Path), Detach),
    responses((status = 200, body = control::Event, content_type = "application/x-ndjson")))]
pub async fn vm_delete(
    State(app): State<App>,
    Segment(reference): Segment<String>,
    Params(detach): Params<Detach>,
) -> Response {
    app.operate(Kind::VmDelete, reference, Binding::of(detach.detach), Engine::vm_delete)
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
    Ok(app.operate(Kind::VmSet, reference, Binding::of(detach.detach), |engine, operation, reference| {
        engine.vm_set(operation, reference, request)
    }))
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
    app.operate(Kind::VmReset, reference, Binding::of(query.detach), |engine, operation, reference| {
        engine.vm_reset(operation, reference, query.image)
    })
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
