//! `banger operation`.

use hyper::Method;
use wire::control::{Operation, OperationState, Operations};

use super::Context;
use crate::{
    args::{OperationCommand, Output},
    client::path,
    error::Error,
    talk::{print, print_json},
    text::{age, fields, table, timestamp},
};

/// `banger operation`.
///
/// # Errors
/// Where the daemon cannot be asked or there is no such operation.
pub async fn run(context: &Context, command: OperationCommand) -> Result<(), Error> {
    match command {
        OperationCommand::List(format) => {
            let operations: Operations = context.client.get(&path(&["operations"])).await?;
            match format.output {
                Output::Json => print_json(&operations),
                Output::Text => {
                    let now = host::clock::now_ms();
                    let rows: Vec<_> = operations.operations.iter().map(|op| row(op, now)).collect();
                    print(&table(["ID", "WHAT", "STATE", "BEGUN"], &rows))
                }
            }
        }
        OperationCommand::Show { id, format } => {
            let operation: Operation = context.client.get(&path(&["operations", &id])).await?;
            match format.output {
                Output::Json => print_json(&operation),
                Output::Text => print(&describe(&operation)),
            }
        }
        OperationCommand::Cancel { id } => {
            context.client.send(Method::POST, &path(&["operations", &id, "cancel"])).await
        }
    }
}

fn row(operation: &Operation, now: u64) -> [String; 4] {
    [
        operation.id.clone(),
        operation.what.clone(),
        state(operation.state).to_owned(),
        age(now, operation.begun_ms),
    ]
}

fn describe(operation: &Operation) -> String {
    let mut rows = vec![
        ("id", operation.id.clone()),
        ("what", operation.what.clone()),
        ("state", state(operation.state).to_owned()),
        ("begun", timestamp(operation.begun_ms)),
    ];
    rows.extend(operation.ended_ms.map(|ms| ("ended", timestamp(ms))));
    if let Some(error) = &operation.error {
        rows.push(("error", error.message.clone()));
        rows.extend(error.causes.iter().map(|cause| ("cause", cause.clone())));
        rows.extend(error.hint.iter().map(|hint| ("hint", hint.clone())));
    }
    fields(&rows)
}

/// The word for a state.
pub(super) fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Done => "done",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}
