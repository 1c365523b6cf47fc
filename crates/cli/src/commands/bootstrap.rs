//! The tools that a shipped repository pins: `mise install` in its machine, where that has mise.
//!
//! What is installed comes from the network. Without it a repository that speaks to mise is refused before anything is made, and
//! one whose files are first of all somebody else's goes without. What cannot be installed is told and is no failure of the run.

use model::workspace::TOOL_FILES;
use wire::{
    Word,
    control::{Vm, WorkspacePlan},
    exec::Spec,
};

use super::{Context, settings};
use crate::{
    args::Output,
    error::Error,
    exec::{self, Streams},
    signals::Signals,
    text::visible,
};

/// So many of them mean mise and nothing else.
const OWN: usize = 3;
/// Where its log is in the home of who works there.
const LOG: &str = ".cache/banger/mise.log";
/// What a shell ends with where there is no such program.
const MISSING: u8 = 127;

/// When the tools are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When this is through.
    Now,
    /// Some time later: somebody may begin to work without them.
    Later,
}

/// Makes `spec`, a command in the workspace at `place`, run with the tools that this pins, where the guest has mise. These are not
/// installed for it, nothing is said of them, and it ends as it does without: what mise runs it replaces itself by.
pub fn with_tools(spec: &mut Spec, place: &str) {
    // The shell tells a program that is not there as 127, which mise does not.
    spec.through = ["mise", "exec", "--", "sh", "-c", "exec \"$@\"", "sh"].map(Word::from).to_vec();
    let quiet = [
        ("MISE_TRUSTED_CONFIG_PATHS", place),
        ("MISE_EXEC_AUTO_INSTALL", "false"),
        ("MISE_NOT_FOUND_AUTO_INSTALL", "false"),
        ("MISE_QUIET", "1"),
    ];
    let quiet = quiet.map(|(name, value)| (Word::from(name), Word::from(value)));
    spec.env.splice(0..0, quiet);
}

/// The file of `plan` that pins tools, if one does.
#[must_use]
pub fn pinned(plan: &WorkspacePlan) -> Option<&'static str> {
    TOOL_FILES.into_iter().find(|file| plan.files.iter().any(|path| path.as_bytes() == file.as_bytes()))
}

/// Whether a machine reaches the world of which nothing is said.
///
/// # Errors
/// Where the settings cannot be read.
pub fn nat_by_default() -> Result<bool, Error> {
    let json = settings::ask(Output::Json)?;
    let settings: serde_json::Value =
        serde_json::from_str(&json).map_err(|e| Error::Protocol(format!("the settings are no JSON: {e}")))?;
    Ok(settings["settings"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|setting| setting["key"] == "vm_defaults.nat" && setting["value"] == "true"))
}

/// What becomes of the tools that `file` pins in a machine that reaches nobody.
///
/// # Errors
/// Where that is not what its owner can want.
pub fn without_network(context: &Context, file: &str) -> Result<(), Error> {
    if TOOL_FILES[..OWN].contains(&file) {
        return Err(Error::Usage {
            message: format!("{file} pins tools, and a machine without a network cannot install them"),
            hint: Some("--nat lets it reach the world, --no-bootstrap leaves them out"),
        });
    }
    context.talk.say(&format!("the tools that {file} pins are not installed: that needs --nat"));
    Ok(())
}

/// Installs the tools that `file` pins in the workspace at a place that is a user's, else root's. What does not work is told: the machine can be used without.
pub async fn install(
    context: &Context,
    signals: &mut Signals,
    vm: &Vm,
    (place, user): (&str, Option<&str>),
    file: &'static str,
    when: When,
) {
    let run = match when {
        When::Now => "exec mise install >\"$log\" 2>&1",
        When::Later => "mise install >\"$log\" 2>&1 </dev/null &",
    };
    let script = format!(
        "command -v mise >/dev/null 2>&1 || exit {MISSING}; log=$HOME/{LOG}; mkdir -p \"${{log%/*}}\"; {run}"
    );
    let argv = ["sh", "-c", &script].map(Word::from).to_vec();
    // Nobody is there to be asked, and what is in a machine of its own may be trusted with that.
    let env = [("MISE_YES", "1"), ("MISE_TRUSTED_CONFIG_PATHS", place)];
    let env = env.map(|(name, value)| (name.into(), value.into())).to_vec();
    let name = visible(&vm.name);
    let (log, look) = match user.map(visible) {
        Some(user) => {
            (format!("~{user}/{LOG}"), format!("banger vm exec {name} --user {user} -- sh -c 'cat ~/{LOG}'"))
        }
        None => (format!("/root/{LOG}"), format!("banger vm exec {name} -- cat /root/{LOG}")),
    };
    let user = user.map(str::to_owned);
    let spec = Spec { argv, env, cwd: Some(place.into()), user, ..Spec::default() };
    if when == When::Now {
        context.talk.say(&format!("installing the tools that {file} pins"));
    }
    let line = match (exec::run(context, signals, &vm.id, spec, Streams::Silent).await, when) {
        (Ok(0), When::Now) => return,
        (Ok(0), When::Later) => {
            format!("the tools that {file} pins are being installed; the log in the machine is {log}")
        }
        (Ok(MISSING), _) if TOOL_FILES[..OWN].contains(&file) => {
            format!("warning: the tools that {file} pins are not installed: {name} has no mise")
        }
        (Ok(MISSING), _) => return,
        (Ok(code), _) => format!("warning: mise install ended with {code}: {look}"),
        (Err(error), _) => format!("warning: the tools that {file} pins are not installed: {error}"),
    };
    context.talk.say(&line);
}
