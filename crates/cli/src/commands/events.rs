//! `banger events`.

use wire::control::{Happened, Happening};

use super::{Context, operations, show};
use crate::{
    args::Output,
    error::Error,
    talk::{Reader, print_bytes},
    text::{timestamp, visible},
};

/// `banger events`: prints what happens until the daemon or the reader goes.
///
/// # Errors
/// Where the daemon cannot be asked.
pub async fn run(context: &Context, output: Output) -> Result<(), Error> {
    let mut events = context.client.listen().await?;
    while let Some(happening) = events.next().await? {
        let line = match output {
            Output::Json => serde_json::to_string(&happening).expect("what happens has string keys"),
            Output::Text => words(&happening),
        };
        if print_bytes(format!("{line}\n").as_bytes())? == Reader::Gone {
            break;
        }
    }
    Ok(())
}

fn words(happening: &Happening) -> String {
    let because = |reason: &Option<String>| match reason.as_deref().and_then(|text| text.lines().next()) {
        Some(reason) => format!(": {}", visible(reason)),
        None => String::new(),
    };
    let what = match &happening.what {
        Happened::Vm { name, state, reason, .. } => {
            format!("vm {} is {}{}", visible(name), show::state(*state), because(reason))
        }
        Happened::VmRemoved { name, .. } => format!("vm {} is gone", visible(name)),
        Happened::Begun { op_id, operation } => format!("operation {op_id} begins: {}", visible(operation)),
        Happened::Ended { op_id, operation, state, error } => {
            let state = operations::state(*state);
            format!("operation {op_id} is {state}: {}{}", visible(operation), because(error))
        }
        Happened::Missed { count } => format!("{count} events were missed"),
        Happened::Unknown => "something that this version does not know".to_owned(),
    };
    format!("{} {what}", timestamp(happening.at_ms))
}
