//! Workspaces: a repository of the owner in a VM, and the work there back as a patch.
//!
//! | module | knows |
//! | --- | --- |
//! | `repository` | what of the owner's repository would be shipped |
//! | `members` | its submodules |
//! | `full` | what a full copy has beyond the latest history |
//! | `ship` | the one tar that carries it, and the git directory in it |
//! | `base` | what was shipped, kept beside the VM |
//! | `kept` | whether a guest still has what was shipped before |
//! | `take` | a guest's tree as it is now, as a tree of git |
//! | `import` | files into a repository of ours, through no filter |
//! | `export` | a guest's changes as a patch, or as a branch here |
//! | `land` | the commits of that branch |
//! | `quarantine` | objects and a reference into the owner's repository |
//! | `git` | running git |
//!
//! # Locking
//! One workspace operation at a time works on a VM, under a turn of its own ([`crate::vm::Cell::workspace`]). It looks at the VM
//! once and holds nothing that a `stop` or `delete` would wait for; when the VM ends it ends too.

mod base;
mod error;
mod export;
mod full;
pub(crate) mod git;
mod import;
mod kept;
mod land;
mod members;
mod quarantine;
mod repository;
mod ship;
mod take;

use std::{
    collections::HashMap,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub(crate) use base::Base;
pub use error::WorkspaceError;
pub use export::Part;
use http_body_util::channel::Channel;
use model::{
    VmId, VmName,
    workspace::{DEFAULT_DEPTH, DEFAULT_GUEST_PATH, GuestPath},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::{
    Word,
    control::{self, Event, Outcome, PrepareWorkspace, Prepared, WorkspaceMode, WorkspacePlan},
    guest::User,
    tree::Access,
};

use self::{
    base::History,
    git::{Call, Git},
    kept::Kept,
    repository::{Files, Repository, Untracked},
    ship::{Checkout, Shipment},
};
use crate::{
    Engine, Error, Operation, Result, blocking,
    turn::Turn,
    vm::{Live, Using},
};

/// How long the break of a channel may come before the news of its machine's end.
const NEWS: Duration = Duration::from_secs(2);

/// How much of a transfer is through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Through {
    /// Files, the one under way not among them.
    files: u64,
    /// Their bytes, those of the one under way too.
    bytes: u64,
}

/// One workspace operation in a running VM.
struct Visit {
    id: VmId,
    name: VmName,
    live: Arc<Live>,
    git: Git,
    _turn: Turn,
    _using: Using,
    /// What runs for it ends with it.
    _end: DropGuard,
}

/// A directory of an operation. Each thread that writes there holds it too: it goes when the last is through, which may be
/// after an operation that broke off.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = host::fs::remove_all(&self.0) {
            tracing::warn!(error = crate::chain(&error), "a directory of an operation stays");
        }
    }
}

/// What is asked for, checked.
struct Wish {
    path: PathBuf,
    /// Where nothing else is said it is in the home of its user.
    guest_path: Option<GuestPath>,
    user: Option<String>,
    branch: Option<String>,
    from: Option<String>,
    untracked: Untracked,
    history: History,
    mode: WorkspaceMode,
    over: Over,
    access: Access,
}

/// What may be overwritten in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// What was shipped and not changed.
    Unchanged,
    /// Anything.
    Anything,
}

impl TryFrom<PrepareWorkspace> for Wish {
    type Error = WorkspaceError;

    fn try_from(request: PrepareWorkspace) -> Result<Self, WorkspaceError> {
        match (&request.branch, request.depth) {
            (None, _) if request.from.is_some() => return Err(WorkspaceError::FromAlone),
            (_, Some(0)) => return Err(WorkspaceError::Depth("a depth of 0 has no commit")),
            (_, Some(_)) if request.full_history => {
                return Err(WorkspaceError::Depth("a depth is not the full history"));
            }
            (_, Some(_)) if request.mode == WorkspaceMode::FullCopy => {
                return Err(WorkspaceError::DepthFullCopy);
            }
            (Some(_) | None, _) => {}
        }
        let path = PathBuf::from(OsString::from_vec(request.path.into_bytes()));
        if !path.is_absolute() {
            return Err(WorkspaceError::NoRepository(path));
        }
        let guest_path = request.guest_path.map(guest_path).transpose()?;
        Ok(Self {
            path,
            guest_path,
            user: request.user,
            branch: request.branch,
            from: request.from,
            untracked: if request.include_untracked { Untracked::Included } else { Untracked::Left },
            history: match (request.mode, request.full_history, request.depth) {
                (WorkspaceMode::FullCopy, ..) => History::Everything,
                (WorkspaceMode::Checkout, true, _) => History::Full,
                (WorkspaceMode::Checkout, false, depth) => History::Depth(depth.unwrap_or(DEFAULT_DEPTH)),
            },
            mode: request.mode,
            access: if request.readonly { Access::ReadOnly } else { Access::Writable },
            over: if request.force { Over::Anything } else { Over::Unchanged },
        })
    }
}

/// A place in a guest, and whom what is there belongs to; without a user root.
struct Place {
    path: GuestPath,
    owner: Option<User>,
    over: Over,
}

fn guest_path(text: String) -> Result<GuestPath, WorkspaceError> {
    GuestPath::try_from(text.as_str()).map_err(|cause| WorkspaceError::GuestPath { path: text, cause })
}

impl Wish {
    /// Where it goes in `guest`, which knows its users.
    async fn place(&self, guest: &crate::guest::Guest) -> Result<Place, WorkspaceError> {
        let owner = match &self.user {
            Some(user) => {
                let found = guest.user(user).await;
                Some(found.map_err(|cause| WorkspaceError::Guest { action: "find the user", cause })?)
            }
            None => None,
        };
        let path = match (&self.guest_path, &owner) {
            (Some(path), _) => path.clone(),
            (None, Some(owner)) => guest_path(format!("{}/repo", owner.home.trim_end_matches('/')))?,
            (None, None) => guest_path(DEFAULT_GUEST_PATH.to_owned())?,
        };
        Ok(Place { path, owner, over: self.over })
    }

    /// Where it would go, as far as that is known without a guest.
    fn place_text(&self) -> String {
        match (&self.guest_path, &self.user) {
            (Some(path), _) => path.to_string(),
            (None, Some(user)) => format!("~{user}/repo"),
            (None, None) => DEFAULT_GUEST_PATH.to_owned(),
        }
    }

    /// The repository and what the guest's checkout is on.
    fn look(&self, git: &Git) -> Result<(Repository, Checkout), WorkspaceError> {
        let mut repository = Repository::open(git, &self.path, self.mode)?;
        if let Some(name) = &self.branch {
            let call = Call::new("check the branch's name", Path::new("/"));
            let checked =
                git.call(call.args(["check-ref-format".to_owned(), format!("refs/heads/{name}")]))?;
            if checked.code() != Some(0) || name.starts_with('-') {
                return Err(WorkspaceError::Branch(name.clone()));
            }
            // Where all branches go it would be in the place of one.
            let is_other = self.mode == WorkspaceMode::FullCopy && repository.branch.as_ref() != Some(name);
            if is_other && repository.commit(git, &format!("refs/heads/{name}"))?.is_some() {
                return Err(WorkspaceError::BranchTaken(name.clone()));
            }
        }
        if let Some(from) = &self.from {
            let none = || WorkspaceError::From { from: from.clone(), top: repository.top.clone() };
            let commit = repository.commit(git, from)?.ok_or_else(none)?;
            if commit != repository.head {
                if self.mode == WorkspaceMode::FullCopy {
                    return Err(WorkspaceError::FromFullCopy(from.clone()));
                }
                if self.untracked == Untracked::Included {
                    return Err(WorkspaceError::FromUntracked(from.clone()));
                }
                repository.head = commit;
                repository.files = Files::Committed;
            }
        }
        let branch = self.branch.clone().or_else(|| repository.branch.clone());
        Ok((repository, Checkout { branch }))
    }
}

impl Engine {
    /// What would be shipped; nothing is.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn workspace_plan(&self, request: PrepareWorkspace) -> Result<WorkspacePlan> {
        let wish = Wish::try_from(request)?;
        let token = CancellationToken::new();
        let _end = token.clone().drop_guard();
        blocking(move || {
            let git = Git::new(token);
            let (repository, checkout) = wish.look(&git)?;
            let plan = repository.plan(&git, wish.untracked)?;
            Ok(WorkspacePlan {
                path: word(&repository.top),
                guest_path: wish.place_text(),
                head: repository.head,
                branch: checkout.branch,
                files: plan.files.into_keys().map(Word::from).collect(),
                bytes: plan.bytes,
                skipped: plan.skipped,
                mode: repository.mode,
                submodules: repository.members.into_iter().map(|member| Word::from(member.path)).collect(),
            })
        })
        .await
    }

    /// Ships a repository into the VM that `text` refers to.
    ///
    /// # Errors
    /// Why it was not. What had arrived stays in the guest, and counts as nothing that was shipped.
    pub async fn vm_prepare(
        self,
        operation: Operation,
        text: String,
        request: PrepareWorkspace,
    ) -> Result<Outcome> {
        let mut wish = Wish::try_from(request.clone())?;
        let visit = self.visit(&operation, &text).await?;
        if wish.user.is_none() {
            wish.user = self.reread(visit.id)?.user;
        }
        let words = PrepareWorkspace { force: false, user: wish.user.clone(), ..request };
        let wish = Arc::new(wish);
        let work = async {
            let place = wish.place(&visit.live.guest).await?;
            self.prepare(&operation, &visit, wish, place, words).await
        };
        visit.unless_ended(&operation, work).await.map(Outcome::Prepared)
    }

    async fn prepare(
        &self,
        operation: &Operation,
        visit: &Visit,
        wish: Arc<Wish>,
        place: Place,
        words: PrepareWorkspace,
    ) -> Result<Prepared> {
        operation.stage("reading the repository");
        let (asked, git) = (wish.clone(), visit.git.clone());
        let (repository, checkout, plan) = blocking(move || {
            let (repository, checkout) = asked.look(&git)?;
            let plan = repository.plan(&git, asked.untracked)?;
            Ok((Arc::new(repository), checkout, plan))
        })
        .await?;
        if repository.files == Files::Committed {
            let message = format!(
                "the files of commit {:.12} go along; what is not committed in {} stays there",
                repository.head,
                repository.top.display()
            );
            operation.emit(Event::Warning { message });
        }
        let scratch = self.scratch(operation)?;
        let kept = self.clear(operation, visit, &place, &repository, &plan, &scratch).await?;

        let base = Base::at(scratch.0.join("base"));
        let (git, history) = (visit.git.clone(), wish.history);
        let (sender, body) = Channel::new(4);
        let (total, files, skipped) = (plan.bytes, plan.files.len() as u64, plan.skipped);
        let mut workspace = store::Workspace {
            guest_path: place.path.clone(),
            host_path: repository.top.clone(),
            head: repository.head.clone(),
            tree: String::new(),
            prepared_ms: host::clock::now_ms(),
        };
        let progress = self.progress(operation, "shipping", Some(Through { files, bytes: total }));
        let (made, held) = (base.clone(), scratch.clone());
        let pack = blocking(move || {
            host::fs::create_dir(&held.0.join("base"))?;
            made.begin(&git, &repository, history, kept.as_ref().map(|kept| &kept.base))?;
            let source = match repository.files {
                Files::Working => repository.top.clone(),
                Files::Committed => made.check_out(&git, &repository.head, &held.0)?,
            };
            let shipment = Shipment {
                repository: &repository,
                source: &source,
                plan: &plan,
                base: &made,
                checkout: &checkout,
                kept: kept.as_ref(),
            };
            let shipped = ship::ship(&git, &shipment, sender, progress)?;
            Ok((shipped, kept.map(|kept| kept.stamps).unwrap_or_default()))
        });
        operation.stage("shipping");
        let write = visit.live.guest.tree_write(&place.path, place.owner.as_ref(), body);
        let (packed, written) = tokio::join!(pack, write);
        let written = written.map_err(|cause| WorkspaceError::Guest { action: "take the files", cause });
        let ((shipped, mut stamps), new) = match (packed, written) {
            // The guest knows better why.
            (Err(Error::Workspace(WorkspaceError::GuestGone)), Err(error)) => return Err(error.into()),
            (Err(error), _) => return Err(error),
            (Ok(_), Err(error)) => return Err(error.into()),
            (Ok(packed), Ok(new)) => (packed, new),
        };
        stamps.extend(new.into_iter().map(|stamped| (stamped.path.into_bytes(), stamped.stamp)));
        if wish.access == Access::ReadOnly {
            let set = visit.live.guest.tree_access(&place.path, wish.access).await;
            set.map_err(|cause| WorkspaceError::Guest { action: "make it read-only", cause })?;
        }
        workspace.tree = shipped.tree;
        operation.checkpoint()?;
        let kept_at = self.paths().workspace(visit.id);
        let prepared = Prepared {
            guest_path: workspace.guest_path.to_string(),
            path: word(&workspace.host_path),
            head: workspace.head.clone(),
            tree: workspace.tree.clone(),
            files,
            bytes: total,
            sent: shipped.sent,
            sent_bytes: shipped.sent_bytes,
            skipped,
        };
        let (store, id) = (self.store().clone(), visit.id);
        let keep = blocking(move || {
            let scratch = scratch;
            base.write_stamps(stamps)?;
            base.write_words(&words)?;
            host::fs::remove_all(&kept_at)?;
            host::fs::rename(&scratch.0.join("base"), &kept_at)?;
            Ok(store.workspace_put(id, workspace)?)
        });
        self.points().around("keep", keep).await?;
        Ok(prepared)
    }

    /// Makes room for what is shipped: what was shipped before and is not any more goes, where it may. Gives what stays.
    async fn clear(
        &self,
        operation: &Operation,
        visit: &Visit,
        wanted: &Place,
        repository: &Arc<Repository>,
        plan: &repository::Plan,
        scratch: &Arc<Scratch>,
    ) -> Result<Option<Kept>> {
        let path = &wanted.path;
        let (vm, place) = (visit.name.to_string(), path.to_string());
        let before = self.store().workspace_get(visit.id)?.filter(|before| before.guest_path == *path);
        let was_read_only = before.is_some() && Base::at(self.paths().workspace(visit.id)).is_read_only();
        let guest = &visit.live.guest;
        let listed = match take::list(guest, path).await {
            Ok(listed) => listed,
            Err(error) if is_not_there(&error) => return Ok(None),
            // Names that would not be taken back are no reason not to overwrite them.
            Err(WorkspaceError::Path { .. }) if wanted.over == Over::Anything => Default::default(),
            Err(error) => return Err(error.into()),
        };
        let mut gone: Vec<Vec<u8>> = Vec::new();
        let before_was_here = before.is_some();
        let kept = match (before, wanted.over) {
            (None, Over::Unchanged) if listed.is_empty() => return Ok(None),
            (None, Over::Unchanged) => return Err(WorkspaceError::NotEmpty { vm, path: place }.into()),
            (None, Over::Anything) => None,
            (Some(_), Over::Anything) => {
                let base = Base::at(self.paths().workspace(visit.id));
                gone.extend(blocking(move || Ok(base.files()?)).await?.into_keys());
                None
            }
            (Some(before), Over::Unchanged) => {
                operation.stage("comparing with what was shipped");
                let base = Base::at(self.paths().workspace(visit.id));
                let found = kept::look(&visit.git, guest, path, base, before.tree, &listed, scratch).await?;
                let Some(kept) = found else {
                    return Err(WorkspaceError::Changed { vm, path: place }.into());
                };
                let ignored = listed.keys().filter(|path| !kept.files.contains_key(*path));
                if let Some(path) = kept::in_the_way(ignored, plan).next() {
                    return Err(WorkspaceError::InTheWay { vm, path: repository::path_of(path) }.into());
                }
                gone.extend(kept.files.keys().cloned());
                Some(kept)
            }
        };
        gone.retain(|path| !plan.files.contains_key(path));
        gone.extend(kept::in_the_way(listed.keys(), plan).cloned());
        let (git, asked) = (visit.git.clone(), repository.clone());
        let base = Base::at(self.paths().workspace(visit.id));
        let shipped = before_was_here;
        let (kept, members) = blocking(move || {
            let kept = match kept {
                Some(kept) if kept.base.goes_on(&git, &asked)? => Some(kept),
                Some(_) | None => None,
            };
            Ok((kept, if shipped { base.members()? } else { Vec::new() }))
        })
        .await?;
        match kept {
            // These are not there in every checkout, but for two that are written again.
            Some(_) => {
                for (place, base) in members {
                    let texts = base.texts()?.into_iter().chain([b"shallow".to_vec()]);
                    let own = members::inside(&place, b".git");
                    gone.extend(texts.map(|name| members::inside(&own, &name)));
                }
            }
            None => {
                let own = repository.all().into_iter().map(|(place, _)| place.to_vec());
                let places = own.chain(members.into_iter().map(|(place, _)| place));
                gone.extend(places.map(|place| members::inside(&place, b".git")));
            }
        }
        if was_read_only {
            let set = guest.tree_access(path, Access::Writable).await;
            set.map_err(|cause| WorkspaceError::Guest { action: "make it writable", cause })?;
        }
        // From here on the guest has neither what was shipped before nor what will be.
        self.store().workspace_forget(visit.id)?;
        let mut lines = Vec::new();
        for path in gone {
            serde_json::to_writer(&mut lines, &Word::from(path)).expect("words");
            lines.push(b'\n');
        }
        let remove = async {
            let removed = guest.tree_remove(path, lines.into()).await;
            Ok(removed.map_err(|cause| WorkspaceError::Guest { action: "make room", cause })?)
        };
        self.points().around("make_room", remove).await?;
        Ok(kept)
    }

    /// What was shipped into the VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is no such VM, or nothing was.
    pub async fn workspace_show(&self, text: &str) -> Result<control::Workspace> {
        let id = self.resolve(text)?;
        let Some(found) = self.store().workspace_get(id)? else {
            return Err(WorkspaceError::NoWorkspace(self.reread(id)?.name.to_string()).into());
        };
        let base = Base::at(self.paths().workspace(id));
        let token = CancellationToken::new();
        let _end = token.clone().drop_guard();
        blocking(move || {
            let git = Git::new(token);
            let again = base.words();
            // Where the files of a commit were shipped, those that lie there are nothing to compare with.
            let from = again.as_ref().and_then(|words| words.from.clone()).filter(|_| base.is_committed());
            let text = from.as_deref().unwrap_or("HEAD");
            let untracked = match &again {
                Some(words) if words.include_untracked => Untracked::Included,
                Some(_) | None => Untracked::Left,
            };
            // Asked beside every command in the workspace, so it is the quick way that mostly answers.
            let quick = || {
                untracked == Untracked::Left
                    && Repository::is_untouched(&git, &found.host_path, &base).unwrap_or(false)
            };
            let runtime = tokio::runtime::Handle::current();
            let (moved, quick) = std::thread::scope(|scope| {
                let quick = scope.spawn(|| {
                    // A thread of its own is outside of the runtime, by which git is watched.
                    let _inside = runtime.enter();
                    quick()
                });
                let moved = Repository::has_moved(&git, &found.host_path, text, &found.head);
                (moved, quick.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            });
            let differs = || {
                let mode = again.as_ref().map(|words| words.mode).unwrap_or_default();
                let repository = Repository::open(&git, &found.host_path, mode)?;
                repository.differs(&git, untracked, &base)
            };
            Ok(control::Workspace {
                guest_path: found.guest_path.to_string(),
                path: word(&found.host_path),
                head: found.head,
                prepared_ms: found.prepared_ms,
                moved,
                // What cannot be told any more is nothing to warn of.
                changed: from.is_none() && !quick && differs().unwrap_or(false),
                again,
            })
        })
        .await
    }

    /// Makes a workspace that was shipped read-only so again, after its guest was started.
    pub(crate) async fn protect(&self, operation: &Operation, id: VmId, guest: &crate::guest::Guest) {
        let protected = async {
            let Some(found) = self.store().workspace_get(id)? else { return Ok(()) };
            if !Base::at(self.paths().workspace(id)).is_read_only() {
                return Ok(());
            }
            let set = guest.tree_access(&found.guest_path, Access::ReadOnly).await;
            set.map_err(|cause| {
                Error::from(WorkspaceError::Guest { action: "make the workspace read-only", cause })
            })
        };
        if let Err(error) = protected.await {
            operation.emit(Event::Warning { message: crate::chain(&error) });
        }
    }

    /// Where the workspaces of VMs are in their guests.
    pub(crate) fn workspaces(&self) -> Result<HashMap<VmId, GuestPath>> {
        Ok(self.store().workspace_list()?.into_iter().collect())
    }

    /// Waits for the turn of the workspace of the VM that `text` refers to, and looks whether it runs.
    async fn visit(&self, operation: &Operation, text: &str) -> Result<Visit> {
        let id = self.resolve(text)?;
        let cell = self.cell(id);
        let turn = operation.cancellable(async { Ok(cell.workspace.take().await) }).await?;
        let name = self.reread(id)?.name;
        let live = self.live(id).ok_or_else(|| Error::NotRunning(name.clone()))?;
        let token = operation.token().child_token();
        let (git, end) = (Git::new(token.clone()), token.drop_guard());
        Ok(Visit { id, name, _using: Using::new(live.clone()), live, git, _turn: turn, _end: end })
    }

    /// Tells those who follow `operation` how much of stage `name` is through.
    fn progress(
        &self,
        operation: &Operation,
        name: &'static str,
        total: Option<Through>,
    ) -> impl FnMut(Through) -> Result<(), WorkspaceError> + Send + use<> {
        let (operation, points) = (operation.clone(), self.points().clone());
        move |done| {
            let tell = |done, total, unit: &str| {
                operation.emit(Event::Progress { name: name.to_owned(), done, total, unit: unit.to_owned() });
            };
            // In this order, since the bytes draw what is known of the files.
            tell(done.files, total.map(|total| total.files), "files");
            tell(done.bytes, total.map(|total| total.bytes), "bytes");
            Ok(points.pass(name)?)
        }
    }

    fn scratch(&self, operation: &Operation) -> Result<Arc<Scratch>> {
        let path = self.paths().staging().join(format!("workspace-{}", operation.id()));
        host::fs::create_dir(&path)?;
        Ok(Arc::new(Scratch(path)))
    }
}

impl Visit {
    /// Does `work` unless the VM ends or the operation is cancelled.
    async fn unless_ended<T>(
        &self,
        operation: &Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let ended = |reason| Error::VmEnded { name: self.name.clone(), reason };
        tokio::select! {
            biased;
            () = operation.token().cancelled() => Err(Error::Cancelled),
            reason = self.live.ended() => Err(ended(reason)),
            result = work => match result {
                // The channel breaks before its reason is known.
                Err(error @ Error::Workspace(WorkspaceError::Guest { .. } | WorkspaceError::GuestGone | WorkspaceError::Malformed(_) | WorkspaceError::Host(_))) => {
                    let news = tokio::time::timeout(NEWS, self.live.ended()).await;
                    Err(news.map_or(error, ended))
                }
                result => result,
            },
        }
    }
}

fn word(path: &Path) -> Word {
    path.as_os_str().as_bytes().to_vec().into()
}

fn is_not_there(error: &WorkspaceError) -> bool {
    matches!(error, WorkspaceError::Guest { cause: crate::guest::GuestError::Refused(body), .. }
        if body.code == control::Code::NotFound)
}
