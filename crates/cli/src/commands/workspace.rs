//! `vm workspace prepare` and `vm workspace export`, and what `vm run PATH` needs of them.

use std::{
    io::Write,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use hyper::Method;
use model::size::human;
use wire::{
    Word,
    control::{
        Change, ChangeKind, Changes, Code, ExportWorkspace, Exported, Outcome, PrepareWorkspace, Prepared,
        Workspace, WorkspaceMode, WorkspacePlan,
    },
};

use super::Context;
use crate::{
    args::{ExportArgs, PrepareArgs, Shipping, WorkspaceCommand},
    client::{json, path},
    error::Error,
    progress::Progress,
    signals::Signals,
    talk::{Printer, Talk, print},
    text::visible,
};

/// `vm workspace`.
///
/// # Errors
/// Why it was not done.
pub async fn run(context: &Context, command: WorkspaceCommand) -> Result<(), Error> {
    match command {
        WorkspaceCommand::Prepare(args) => prepare(context, args).await,
        WorkspaceCommand::Export(args) => export(context, args).await,
    }
}

async fn prepare(context: &Context, args: PrepareArgs) -> Result<(), Error> {
    let dry_run = args.shipping.dry_run;
    let request = PrepareWorkspace { force: args.force, ..request(&args.path, args.shipping, args.user)? };
    if dry_run {
        return show(context, &request).await;
    }
    let mut signals = Signals::ending()?;
    let shipped = ship(context, &mut signals, &args.reference, &request).await?;
    print(&format!("{}\n", visible(&shipped.guest_path)))
}

/// What to ask for to ship the repository at `place`, as `user`'s in the machine.
///
/// # Errors
/// Where this process has no current directory.
pub fn request(place: &Path, shipping: Shipping, user: Option<String>) -> Result<PrepareWorkspace, Error> {
    let place = std::path::absolute(place).map_err(|e| host::Error::path("find", place, e))?;
    Ok(PrepareWorkspace {
        path: Word::from(place.into_os_string().into_vec()),
        guest_path: shipping.guest_path.map(|path| path.to_string()),
        user,
        branch: shipping.branch,
        from: shipping.from,
        include_untracked: shipping.include_untracked,
        depth: shipping.depth,
        full_history: shipping.full_history,
        force: false,
        readonly: shipping.readonly,
        mode: shipping.mode.unwrap_or_default().into(),
    })
}

/// What would be shipped.
///
/// # Errors
/// Why it cannot be.
pub async fn plan(context: &Context, request: &PrepareWorkspace) -> Result<WorkspacePlan, Error> {
    context.client.consult(&path(&["workspace", "plan"]), json(request)).await
}

/// Lists what would be shipped.
///
/// # Errors
/// Why it cannot be.
pub async fn show(context: &Context, request: &PrepareWorkspace) -> Result<(), Error> {
    let plan = plan(context, request).await?;
    let files: String = plan.files.iter().map(|file| format!("{}\n", shown(file))).collect();
    print(&files)?;
    let on =
        plan.branch.as_deref().map(|branch| format!(" on branch {}", visible(branch))).unwrap_or_default();
    let how = match (plan.mode, plan.submodules.len()) {
        (WorkspaceMode::Checkout, _) => "mode checkout".to_owned(),
        (WorkspaceMode::FullCopy, 0) => "mode full-copy".to_owned(),
        (WorkspaceMode::FullCopy, 1) => "mode full-copy with 1 submodule".to_owned(),
        (WorkspaceMode::FullCopy, more) => format!("mode full-copy with {more} submodules"),
    };
    context.talk.say(&format!(
        "{} files, {}, would go to {}{on}, {how}",
        plan.files.len(),
        human(plan.bytes),
        visible(&plan.guest_path)
    ));
    tell_skipped(&context.talk, plan.skipped);
    Ok(())
}

/// Ships what `request` asks for into machine `vm`.
///
/// # Errors
/// Why it was not.
pub async fn ship(
    context: &Context,
    signals: &mut Signals,
    vm: &str,
    request: &PrepareWorkspace,
) -> Result<Prepared, Error> {
    let ship = async {
        let target = path(&["vms", vm, "workspace", "prepare"]);
        let mut events = context.client.operate(Method::POST, &target, json(request)).await?;
        match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Prepared(prepared) => Ok(prepared),
            Outcome::None
            | Outcome::Vm(_)
            | Outcome::Image(_)
            | Outcome::Kernel(_)
            | Outcome::Snapshot(_)
            | Outcome::Exported(_) => {
                Err(Error::Protocol("a workspace was shipped, but which is not said".to_owned()))
            }
        }
    };
    let shipped = signals.unless(ship).await?;
    tell_skipped(&context.talk, shipped.skipped);
    Ok(shipped)
}

/// Ships the workspace of machine `vm` again, where its repository was changed since.
///
/// # Errors
/// Why it was not, such as work in the machine.
pub async fn refresh(context: &Context, signals: &mut Signals, vm: &str) -> Result<(), Error> {
    let found = context.client.get(&path(&["vms", vm, "workspace"])).await;
    let found: Workspace = match found {
        // Nothing was shipped, so there is nothing to ship again.
        Err(Error::Daemon(error)) if error.code == Code::NotFound => return Ok(()),
        found => found?,
    };
    match found.again {
        Some(request) if found.moved || found.changed => ship(context, signals, vm, &request).await.map(drop),
        Some(_) | None => Ok(()),
    }
}

fn tell_skipped(talk: &Talk, skipped: u64) {
    match skipped {
        0 => {}
        1 => talk.say("1 untracked file stays here; --include-untracked ships it too"),
        more => talk.say(&format!("{more} untracked files stay here; --include-untracked ships them too")),
    }
}

async fn export(context: &Context, args: ExportArgs) -> Result<(), Error> {
    // Before the work, not after it.
    let file = args.output.as_deref().map(Target::at).transpose()?;
    let mut signals = Signals::ending()?;
    let work = async {
        let target = path(&["vms", &args.reference, "workspace", "export"]);
        let request = ExportWorkspace {
            base_commit: args.base_commit.clone(),
            to_branch: args.to_branch.clone(),
            force: args.force,
        };
        let mut events = context.client.operate(Method::POST, &target, json(&request)).await?;
        let exported = match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Exported(exported) => exported,
            Outcome::None
            | Outcome::Vm(_)
            | Outcome::Image(_)
            | Outcome::Kernel(_)
            | Outcome::Snapshot(_)
            | Outcome::Prepared(_) => {
                return Err(Error::Protocol("a patch was made, but which is not said".to_owned()));
            }
        };
        if exported.files == 0 {
            context.talk.say("nothing was changed");
        }
        if args.to_branch.is_some() {
            let Some(branch) = exported.branch else { return Ok(()) };
            context.talk.say(&format!(
                "{} files in the new branch {}",
                exported.files,
                visible(&branch.name)
            ));
            return print(&format!("{}\n", visible(&branch.commit)));
        }
        let part = |what| path(&["vms", &args.reference, "workspace", "exports", &exported.id, what]);
        if args.list {
            let changes: Changes = context.client.get(&part("changes")).await?;
            let lines: String = changes.changes.iter().map(line).collect();
            return print(&lines);
        }
        match file {
            Some(file) => file.write(context, &part("patch"), &exported).await,
            None => Printer::new().print_all(context.client.stream(&part("patch")).await?).await,
        }
    };
    signals.unless(work).await
}

/// A file to be written whole or not at all.
#[derive(Debug)]
struct Target {
    file: PathBuf,
    staged: PathBuf,
}

impl Target {
    /// The file at `path`, which is new or a plain one: what is a link there may have come from anywhere.
    fn at(path: &Path) -> Result<Self, Error> {
        if std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
            let message = format!("{} is there and is no plain file", visible(&path.to_string_lossy()));
            return Err(Error::usage(message));
        }
        let Some(name) = path.file_name() else {
            return Err(Error::usage("--output needs the name of a file"));
        };
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(format!(".{}", std::process::id()));
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { file: directory.join(name), staged: directory.join(staged) })
    }

    async fn write(&self, context: &Context, from: &str, exported: &Exported) -> Result<(), Error> {
        let mut stream = context.client.stream(from).await?;
        let mut file = host::fs::create_new(&self.staged)?;
        let mut written = 0;
        let put = async {
            while let Some(bytes) = stream.next().await? {
                file.write_all(&bytes).map_err(|e| host::Error::path("write", &self.staged, e))?;
                written += bytes.len() as u64;
            }
            if written != exported.bytes {
                return Err(Error::Cut("a patch was read", None));
            }
            Ok(host::fs::rename(&self.staged, &self.file)?)
        };
        put.await
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Where it was given up half-way; one that was written is not there under this name any more.
        let _ = host::fs::remove(&self.staged);
    }
}

fn line(change: &Change) -> String {
    let kind = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Modified => "modified",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Kind => "retyped",
    };
    match &change.from {
        Some(from) => format!("{kind:8}  {} -> {}\n", shown(from), shown(&change.path)),
        None => format!("{kind:8}  {}\n", shown(&change.path)),
    }
}

/// A name that a guest may have chosen.
fn shown(path: &Word) -> String {
    visible(&String::from_utf8_lossy(path.as_bytes())).into_owned()
}
