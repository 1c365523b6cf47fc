//! What a guest still has of what was shipped before, told before any of it is overwritten.
//!
//! A workspace is unchanged where each file is what was shipped, by its stamp or else by its digest, nothing is new but what
//! is ignored, and its git directory knows no commit, branch or tag beyond those that were shipped.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use image::identity::sha256;
use model::workspace::GuestPath;
use wire::tree::{Entry, Kind, Known, Picked, Wanted};

use super::{
    Scratch,
    base::{Base, Files, Stamps},
    error::WorkspaceError,
    git::Git,
    is_not_there, members, repository, take,
};
use crate::guest::Guest;

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// What a guest has, exactly as it was shipped.
#[derive(Debug)]
pub struct Kept {
    /// What was made of it here.
    pub base: Base,
    /// The id of its tree.
    pub tree: String,
    /// Its files.
    pub files: Files,
    /// What they were like when that was seen.
    pub stamps: Stamps,
    /// The packs of its git directories, by their paths.
    pub packs: HashSet<Vec<u8>>,
}

/// What the tree `tree` of `base` in `guest` at `path` is now, where `listed` lies there; `None` where it was changed.
///
/// # Errors
/// Where the guest does not tell.
pub async fn look(
    git: &Git,
    guest: &Guest,
    path: &GuestPath,
    base: Base,
    tree: String,
    listed: &BTreeMap<Vec<u8>, Entry>,
    scratch: &Arc<Scratch>,
) -> Result<Option<Kept>> {
    let (files, mut stamps) = (base.files()?, base.stamps()?);
    let is_there = |(path, known): (&Vec<u8>, &Known)| {
        listed.get(path).is_some_and(|entry| known.may_be(entry.kind, entry.size))
    };
    if !files.iter().all(is_there) {
        return Ok(None);
    }
    let new = listed.iter().filter(|(path, entry)| entry.kind != Kind::Other && !files.contains_key(*path));
    let new: Vec<Vec<u8>> = new.map(|(path, _)| path.clone()).collect();
    let ignored = take::ignored(git, guest, path, &base, listed, new.clone(), scratch).await?;
    let ignored = repository::paths(&ignored);
    if !new.iter().all(|path| ignored.contains(path.as_slice())) {
        return Ok(None);
    }
    let doubtful: Vec<Wanted> = files
        .iter()
        .filter(|(path, _)| !take::is_stamped(&stamps, path, &listed[*path]))
        .map(|(path, known)| Wanted { path: path.clone().into(), known: Some(known.clone()) })
        .collect();
    if !all_same(guest, path, &doubtful).await? {
        return Ok(None);
    }
    for wanted in doubtful {
        // It was listed before it was read.
        match &listed[wanted.path.as_bytes()] {
            Entry { stamp: Some(stamp), fresh: false, .. } => {
                stamps.insert(wanted.path.into_bytes(), stamp.clone())
            }
            _ => stamps.remove(wanted.path.as_bytes()),
        };
    }
    let mut packs = HashSet::new();
    for (place, base) in base.members()? {
        let Some(found) = git_directory(guest, path, &place, &base).await? else { return Ok(None) };
        packs.extend(found);
    }
    Ok(Some(Kept { base, tree, files, stamps, packs }))
}

/// Whether all of `wanted` are what is known of them.
async fn all_same(guest: &Guest, path: &GuestPath, wanted: &[Wanted]) -> Result<bool> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let (mut pieces, count) = (take::pick(guest, path, wanted).await?, wanted.len());
    take::working(move || {
        for _ in 0..count {
            if pieces.next()? != Picked::Same {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

/// The packs of `base` that the guest's git directory at `place` has; `None` where somebody committed there, went to another
/// branch, or made one.
async fn git_directory(
    guest: &Guest,
    path: &GuestPath,
    place: &[u8],
    base: &Base,
) -> Result<Option<HashSet<Vec<u8>>>> {
    let own = members::inside(place, b".git");
    let listed = match take::list_below(guest, path, &own).await {
        Ok(listed) => listed,
        // It is gone, and is made anew with all that is in it.
        Err(error) if is_not_there(&error) => return Ok(Some(HashSet::new())),
        Err(WorkspaceError::Path { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The log of HEAD is never shipped. What is known of other repositories is nothing of the guest's.
    let is_work = |path: &[u8]| {
        matches!(path, b"HEAD" | b"packed-refs" | b"logs/HEAD" | b"logs/refs/stash")
            || (path.starts_with(b"refs/") && !path.starts_with(b"refs/remotes/"))
    };
    let shipped: BTreeSet<_> = base.texts()?.into_iter().filter(|name| is_work(name)).collect();
    let there = listed.keys().filter(|path| is_work(path));
    if !there.eq(&shipped) {
        return Ok(None);
    }
    let mut references = Vec::new();
    for name in shipped {
        let from = base.checkout("").join(repository::path_of(&name));
        let mut file = host::fs::open(&from)?;
        let sha256 = sha256(&mut file).map_err(|e| host::Error::path("read", &from, e))?;
        let known = Some(Known { kind: Kind::File, sha256, size: Some(host::fs::size(&from)?) });
        references.push(Wanted { path: members::inside(&own, &name).into(), known });
    }
    if !all_same(guest, path, &references).await? {
        return Ok(None);
    }
    let mut packs = HashSet::new();
    for pack in base.packs()? {
        let name = format!("objects/pack/{}", crate::paths::name_of(&pack)).into_bytes();
        // Its name is its content's digest; one that was damaged there is seen by git there.
        let size = host::fs::size(&pack)?;
        if listed.get(&name).is_some_and(|entry| entry.kind == Kind::File && entry.size == size) {
            packs.insert(members::inside(&own, &name));
        }
    }
    Ok(Some(packs))
}

/// Those of `names`, which lie in a guest, in whose place `plan` has a directory, or a file where they need one.
pub fn in_the_way<'a>(
    names: impl Iterator<Item = &'a Vec<u8>>,
    plan: &repository::Plan,
) -> impl Iterator<Item = &'a Vec<u8>> {
    names.filter(|name| {
        let mut below = (*name).clone();
        below.push(b'/');
        let holds =
            plan.files.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below));
        let mut slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        holds || slashes.any(|(at, _)| plan.files.contains_key(&name[..at]))
    })
}
