//! The guest of a fake machine: an agent that answers, or does not.

use std::{convert::Infallible, rc::Rc};

use crate::liar::{self, Lie};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::end::MachineEnd;
use tokio::{io::DuplexStream, sync::watch};
use vmm::fake::Control;
use wire::{
    control::{Code, ErrorBody},
    guest::{Grown, Health, Identity, InitKind, Stats, VERSION},
};

/// How guests behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// They are ready at once and end when they are asked to.
    Good,
    /// They are booting: no answer until that changes.
    Booting,
    /// They take their first connection and never answer on it.
    DeafAtFirst,
    /// They agree to end and do not.
    Stubborn,
    /// They are this machine, by the real agent's code.
    Agent,
    /// They panic instead of answering.
    Panicking,
    /// Their agents lie about a workspace.
    Liar(Lie),
}

/// Serves one channel to the host.
pub async fn serve(mut stream: DuplexStream, control: Control, manner: watch::Receiver<Manner>) {
    let now = *manner.borrow();
    match now {
        Manner::Agent => return agent(stream).await,
        Manner::Liar(lie) => return liar::serve(stream, lie).await,
        Manner::DeafAtFirst if !control.memory().ends_with(ASKED) => {
            control.remember(&[&control.memory(), ASKED].concat());
            // Until the host gives it up.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return;
        }
        Manner::Good | Manner::Booting | Manner::DeafAtFirst | Manner::Stubborn | Manner::Panicking => {}
    }
    let service = service_fn(|request: Request<Incoming>| {
        let (control, mut manner) = (control.clone(), manner.clone());
        async move {
            let now = *manner.wait_for(|now| *now != Manner::Booting).await.expect("the world is there");
            Ok::<_, Infallible>(answer(request, &control, now).await)
        }
    });
    // Whoever looks at the other end sees why it ended.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Serves one channel by the agent's code, which wants a thread of its own.
async fn agent(stream: DuplexStream) {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (over, is_over) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let standing = agent::configure::Standing::new(&[], None);
        let guest = Rc::new(agent::serve::Guest { booted: None, standing });
        let serve = async {
            tokio::select! {
                () = agent::serve::connection(stream, guest) => {}
                _ = ended => {}
            }
        };
        agent::serve::block_on(serve).unwrap();
        let _ = over.send(());
    });
    let _ = is_over.await;
    drop(end);
}

/// What stands at the end of the memory of a guest that was asked once.
const ASKED: &[u8] = b" asked";

/// What stands in the memory of a guest before all else while it is held.
pub const HELD: &[u8] = b"held ";

/// Holds, releases or configures a guest; its memory is whether it is held, and who it was made.
async fn hold(request: Request<Incoming>, control: &Control) -> StatusCode {
    let memory = control.memory();
    let own = memory.strip_prefix(HELD).unwrap_or(&memory);
    match request.uri().path() {
        "/v1/hold" => control.remember(&[HELD, own].concat()),
        "/v1/release" => control.remember(own),
        _ => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let identity: Identity = serde_json::from_slice(&body).unwrap();
            control.remember(identity.hostname.as_bytes());
        }
    }
    StatusCode::NO_CONTENT
}

async fn answer(
    request: Request<Incoming>,
    control: &Control,
    manner: Manner,
) -> Response<BoxBody<Bytes, hyper::Error>> {
    let (status, body) = match (request.uri().path(), manner) {
        ("/v1/hold" | "/v1/release" | "/v1/configure", Manner::Good | Manner::DeafAtFirst) => {
            (hold(request, control).await, Vec::new())
        }
        (path, _) if path != "/v1/health" && control.memory().starts_with(HELD) => {
            let error = ErrorBody::new(Code::Conflict, "the guest is being saved");
            (StatusCode::CONFLICT, serde_json::to_vec(&error).unwrap())
        }
        // A stream that gives back what it gets, for as long as that lasts.
        ("/v1/exec" | "/v1/connect" | "/v1/files/read", Manner::Good) => {
            return Response::new(request.into_body().boxed());
        }
        ("/v1/files/write", Manner::Good) => (StatusCode::OK, Vec::new()),
        ("/v1/stats", Manner::Good) => (StatusCode::OK, serde_json::to_vec(&Stats::default()).unwrap()),

        (_, Manner::Panicking) => {
            control.end(MachineEnd::Panic);
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
        ("/v1/health", _) => (StatusCode::OK, serde_json::to_vec(&health()).unwrap()),
        ("/v1/grow", _) => (StatusCode::OK, serde_json::to_vec(&Grown { overlay: 0, work: 0 }).unwrap()),
        ("/v1/poweroff", Manner::Good) => {
            control.end(MachineEnd::Poweroff);
            (StatusCode::ACCEPTED, Vec::new())
        }
        ("/v1/poweroff", _) => (StatusCode::ACCEPTED, Vec::new()),
        _ => (StatusCode::NOT_FOUND, Vec::new()),
    };
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

/// What a guest of this test says of itself.
pub fn health() -> Health {
    Health {
        version: VERSION,
        agent: "test".to_owned(),
        kernel: "6.1.0-test".to_owned(),
        boot_id: "b".to_owned(),
        uptime_ms: 1,
        steps: Vec::new(),
        init: InitKind::Agent,
        init_ready: Some(true),
    }
}
