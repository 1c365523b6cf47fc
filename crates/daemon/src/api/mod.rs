//! Routes and their handlers, by what they are about. Each translates a request into one call of the engine and its result into an
//! answer.

pub mod catalog;
pub mod daemon;
pub mod image;
pub mod kernel;
pub mod operation;
pub mod snapshot;
pub mod vm;
pub mod workspace;

use std::path::Path;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    response::Response,
};
use engine::{Engine, Kind, Operation};
use serde::Deserialize;
use tokio::sync::oneshot;
use wire::control::{self, ErrorBody, Outcome};

use crate::{
    events::{Binding, answer},
    exec::Streams,
    fail::Fail,
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

impl App {
    /// Begins `work` on what is called `name` as an operation, whose events are the answer.
    fn operate<F>(
        self,
        kind: Kind,
        name: String,
        binding: Binding,
        work: impl FnOnce(Engine, Operation, String) -> F,
    ) -> Response
    where
        F: Future<Output = Result<Outcome, engine::Error>> + Send + 'static,
    {
        let operation =
            self.engine.begin(kind, &name.clone(), |engine, operation| work(engine, operation, name));
        answer(self.engine, operation, binding)
    }

    /// Does `work` as an operation and answers with what came of it alone. One that is not [bound](Binding::Bound) goes on where
    /// its client goes away.
    async fn complete<F, T>(
        self,
        kind: Kind,
        name: &str,
        binding: Binding,
        work: impl FnOnce(Engine, Operation) -> F,
    ) -> Result<T, Fail>
    where
        F: Future<Output = Result<T, engine::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let operation = self.engine.begin(kind, name, |engine, operation| {
            let work = work(engine, operation);
            async move {
                // Nobody listens any more where the client has gone.
                let _ = sender.send(work.await?);
                Ok(Outcome::None)
            }
        });
        let _bound = (binding == Binding::Bound).then(|| operation.token().clone().drop_guard());
        let mut follow = operation.follow();
        while let Some(event) = follow.next().await {
            if let control::Event::Failed { error } = event {
                return Err(Fail(error));
            }
        }
        result.await.map_err(|_| ended())
    }
}

/// All routes of the control API.
pub fn router(engine: Engine, streams: Streams, socket: &Path) -> Router {
    let app = App { engine, streams, socket: socket.display().to_string() };
    Router::new()
        .merge(daemon::routes())
        .merge(vm::routes())
        .merge(workspace::routes())
        .merge(image::routes())
        .merge(kernel::routes())
        .merge(snapshot::routes())
        .merge(catalog::routes())
        .merge(operation::routes())
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
