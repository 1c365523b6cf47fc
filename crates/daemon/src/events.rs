//! An operation as the answer to the request that began it: one line an event.
//!
//! Whoever goes away before the end cancels it. A stream that owns a VM stays open after the end, and the VM goes with it.

use axum::{
    Json,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::{Engine, Kind, Operation};
use futures_util::stream;
use wire::control::{EVENTS, Event, Outcome};

/// What the client's going away means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It cancels the operation.
    Bound,
    /// It cancels the operation, or deletes the VM that came of it.
    Owner,
    /// Nothing: the answer is the operation itself.
    Detached,
}

impl Binding {
    /// That of a request that says `detach`, or not.
    pub fn of(detach: bool) -> Self {
        if detach { Self::Detached } else { Self::Bound }
    }
}

/// The answer to the request that began `operation`.
pub fn answer(engine: Engine, operation: Operation, binding: Binding) -> Response {
    if binding == Binding::Detached {
        return (StatusCode::ACCEPTED, Json(operation.show())).into_response();
    }
    let bond = Bond { engine, operation: operation.clone(), owned: None, owner: binding == Binding::Owner };
    let events = stream::unfold((operation.follow(), bond), |(mut follow, mut bond)| async move {
        let event = match follow.next().await {
            Some(event) => event,
            // Nothing more will come; the client holds the stream open for as long as it wants its VM.
            None if bond.owned.is_some() => std::future::pending().await,
            None => return None,
        };
        bond.saw(&event);
        let mut line = serde_json::to_vec(&event).expect("events have string keys");
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (follow, bond)))
    });
    ([(header::CONTENT_TYPE, EVENTS)], Body::from_stream(events)).into_response()
}

/// What ends with the stream.
struct Bond {
    engine: Engine,
    operation: Operation,
    owner: bool,
    /// The VM that goes with the stream.
    owned: Option<String>,
}

impl Bond {
    fn saw(&mut self, event: &Event) {
        if let Event::Done { result: Outcome::Vm(vm) } = event
            && self.owner
        {
            self.owned = Some(vm.id.clone());
        }
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        // Of one that has ended nothing is cancelled.
        self.operation.cancel();
        let (engine, operation, owner, owned) =
            (self.engine.clone(), self.operation.clone(), self.owner, self.owned.take());
        if !owner {
            return;
        }
        tokio::spawn(async move {
            // The client may have gone between the creation's end and its last line.
            let id = match owned {
                Some(id) => Some(id),
                None => created(&operation).await,
            };
            let Some(id) = id else { return };
            if engine.vm_show(&id).is_ok() {
                let subject = id.clone();
                engine.begin(Kind::VmDelete, &subject, |engine, operation| engine.vm_delete(operation, id));
            }
        });
    }
}

/// The VM that came of a creation, once it has ended.
async fn created(operation: &Operation) -> Option<String> {
    let mut follow = operation.follow();
    let mut made = None;
    while let Some(event) = follow.next().await {
        if let Event::Done { result: Outcome::Vm(vm) } = event {
            made = Some(vm.id);
        }
    }
    made
}
