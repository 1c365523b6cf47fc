//! A full copy: what git knows of a repository, made anew for a guest in a git directory of its own.
//!
//! | goes | stays |
//! | --- | --- |
//! | every branch, tag, note and stash, and the history that they lead to | what only the log of a reference or nothing leads to |
//! | the index, with what is in conflict | what an index remembers of the host's files |
//! | what a merge, pick or revert under way is about | a rebase or bisection under way |
//! | settings that mean something elsewhere ([`model::workspace::setting_for_guest`]) | hooks, other settings, logs, other worktrees, where objects are borrowed from |
//!
//! So nothing in a guest depends on how the owner's repository keeps its objects and references, and none of it is a path or
//! credential of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    path::Path,
};

use host::tree::{Entry, Tree};
use model::workspace::setting_for_guest;

use super::{
    base::Base,
    error::WorkspaceError,
    git::{Call, Git},
    repository::{Repository, path_of},
    ship::value,
};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// Where a base has the owner's references.
const ALL: &str = "refs/banger/all";
/// What is under way, of which git writes down a commit, and what it writes down beside that.
const UNDER_WAY: ([&str; 3], [&str; 3]) =
    (["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"], ["MERGE_MSG", "MERGE_MODE", "SQUASH_MSG"]);
/// The most bytes of one of those.
const MAX_TEXT: u64 = 1 << 20;

/// Words of git that make a call of `fetch` do nothing but fetch.
pub const FETCH: [&str; 6] =
    ["fetch", "--quiet", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--update-shallow"];

/// `call` with `repository` as its remote `host`: by a name for it, because a path may look like anything else.
pub fn from_host(call: Call, repository: &Repository) -> Call {
    call.env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "remote.host.url")
        .env("GIT_CONFIG_VALUE_0", repository.top.as_os_str())
}

/// Takes all that `repository` has into `base`, beyond what is checked out.
///
/// # Errors
/// Where git does not give it.
pub fn fetch(git: &Git, base: &Base, repository: &Repository) -> Result<()> {
    let fetch = |words: &[&str]| {
        let call = Call::inside("take the history", &base.git_dir()).args(FETCH).args(words);
        from_host(call, repository)
    };
    let all = format!("+refs/*:{ALL}/*");
    git.call(fetch(&["--prune", "--", "host", &all]))?.ok()?;
    let mut more: BTreeSet<String> =
        stashes(git, repository)?.into_iter().map(|stash| stash.commit).collect();
    for (_, text) in under_way(git, repository, &UNDER_WAY.0)? {
        more.extend(text.lines().map(str::to_owned));
    }
    let wanted: Vec<String> = missing(git, base, more.iter().map(String::as_str))?
        .into_iter()
        .map(|id| format!("+{id}:refs/banger/more/{id}"))
        .collect();
    if !wanted.is_empty() {
        let call = fetch(&["--stdin", "--", "host"]);
        git.feed(call, |input| feed_lines(input, wanted.iter().map(String::as_str)))?.ok()?;
    }
    staged_objects(git, base, repository)
}

/// Takes the contents that are in the index alone.
fn staged_objects(git: &Git, base: &Base, repository: &Repository) -> Result<()> {
    let staged = index_lines(git, repository)?;
    let ids = staged.split(|byte| *byte == 0).filter_map(|line| {
        let mut words = std::str::from_utf8(line.split(|byte| *byte == b'\t').next()?).ok()?.split(' ');
        let (mode, id) = (words.next()?, words.next()?);
        // What a submodule has is not in here, and what is only intended has nothing.
        (mode != "160000").then_some(id)
    });
    let missing = missing(git, base, ids.collect::<BTreeSet<_>>().into_iter())?;
    if missing.is_empty() {
        return Ok(());
    }
    let pack = base.checkout("staged.pack");
    let call =
        Call::new("pack what is staged", &repository.top).args(["pack-objects", "--quiet", "--stdout"]);
    let packed = git.feed(call.stdout(host::fs::create_new(&pack)?), |input| {
        feed_lines(input, missing.iter().map(String::as_str))
    })?;
    packed.ok()?;
    let mut content = host::fs::open(&pack)?;
    let call = Call::inside("take what is staged", &base.git_dir()).args(["index-pack", "--stdin"]);
    let taken =
        git.feed(call, |input| std::io::copy(&mut content, input).map(drop).map_err(WorkspaceError::Unread))?;
    taken.ok()?;
    Ok(host::fs::remove(&pack)?)
}

/// Those of `ids` that `base` does not have.
fn missing<'a>(git: &Git, base: &Base, ids: impl Iterator<Item = &'a str>) -> Result<Vec<String>> {
    let call = Call::inside("read the base", &base.git_dir());
    let asked =
        git.feed(call.args(["cat-file", "--batch-check=%(objectname)"]), |input| feed_lines(input, ids))?;
    let text = String::from_utf8_lossy(&asked.ok()?).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(" missing")).map(str::to_owned).collect())
}

/// The index of `repository`, in lines as `update-index --index-info` reads them.
///
/// # Errors
/// Where git does not tell.
pub fn index_lines(git: &Git, repository: &Repository) -> Result<Vec<u8>> {
    git.call(Call::new("read the index", &repository.top).args(["ls-files", "-z", "--stage"]))?.ok()
}

/// Writes what the guest's git directory has of texts, where `branch` is what it is on; what comes of it is on top of the
/// checkout of a mere commit.
///
/// # Errors
/// Where it cannot be told or written.
pub fn write_texts(git: &Git, base: &Base, repository: &Repository, branch: Option<&str>) -> Result<()> {
    let mut packed: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let call = Call::inside("list the branches", &base.git_dir());
    let list = git.call(call.args(["for-each-ref", "--format=%(objectname) %(refname)", ALL]))?.ok()?;
    for line in list.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (id, name) = line.split_at(at);
        if let Some(name) = name.strip_prefix(b" ").and_then(|name| name.strip_prefix(ALL.as_bytes())) {
            let name = [b"refs", name].concat();
            packed.insert(name, String::from_utf8_lossy(id).into_owned());
        }
    }
    // Of a reference that stands for another one the guest has the same.
    let call = Call::new("list the branches", &repository.top);
    let list = git.call(call.args(["for-each-ref", "--format=%(refname) %(symref)"]))?.ok()?;
    for line in list.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b' ') else { continue };
        let (name, target) = (&line[..at], &line[at + 1..]);
        let fits = model::workspace::check_tree_path(name).is_ok() && packed.contains_key(target);
        if fits && packed.remove(name).is_some() {
            write(base, name, &[b"ref: ", target, b"\n"].concat())?;
        }
    }
    if let Some(branch) = branch {
        packed.insert(format!("refs/heads/{branch}").into_bytes(), repository.head.clone());
    }
    let mut text = b"# pack-refs with: sorted \n".to_vec();
    for (name, id) in packed {
        text.extend([id.as_bytes(), b" ", &name, b"\n"].concat());
    }
    write(base, b"packed-refs", &text)?;

    let mut log = String::new();
    let mut old = "0".repeat(repository.head.len());
    for stash in stashes(git, repository)?.into_iter().rev() {
        log.push_str(&format!("{old} {}\n", stash.line));
        old = stash.commit;
    }
    if !log.is_empty() {
        write(base, b"logs/refs/stash", log.as_bytes())?;
    }
    let [commits, words] = [UNDER_WAY.0, UNDER_WAY.1].map(|names| under_way(git, repository, &names));
    for (name, text) in commits?.into_iter().chain(words?) {
        write(base, name.as_bytes(), text.as_bytes())?;
    }
    Ok(())
}

fn write(base: &Base, name: &[u8], text: &[u8]) -> Result<()> {
    let place = base.checkout("").join(path_of(name));
    host::fs::private_dir(place.parent().unwrap_or(Path::new("")))?;
    Ok(host::fs::write_atomic(&place, text)?)
}

/// One stash.
struct Stash {
    commit: String,
    /// What the log says of it after what was before.
    line: String,
}

/// The stashes of `repository`, the newest first.
fn stashes(git: &Git, repository: &Repository) -> Result<Vec<Stash>> {
    let format = "--format=%H%x00%gn%x00%ge%x00%gd%x00%gs";
    // No setting makes it run something, or say more.
    let plain = ["--no-show-signature", "--no-patch", "--no-notes", "--no-color", "--date=raw"];
    let words = ["log", "--walk-reflogs", format].into_iter().chain(plain).chain(["refs/stash", "--"]);
    let done = git.call(Call::new("list the stashes", &repository.top).args(words))?;
    if done.code() != Some(0) {
        // There are none, or only the last without a log, which is a reference like any other.
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok(text.lines().filter_map(stash_of).collect())
}

/// What a line of id, name, address, `stash@{seconds zone}` and message says.
fn stash_of(line: &str) -> Option<Stash> {
    let [commit, name, email, when, message] = line.split('\0').collect::<Vec<_>>().try_into().ok()?;
    let when = when.split_once("@{")?.1.strip_suffix('}')?;
    Some(Stash { commit: commit.to_owned(), line: format!("{commit} {name} <{email}> {when}\t{message}") })
}

/// Those of `names` that `repository` has in its git directory, read through no link.
fn under_way(
    git: &Git,
    repository: &Repository,
    names: &[&'static str],
) -> Result<Vec<(&'static str, String)>> {
    let call = Call::new("read the repository", &repository.top);
    let mut dir = git.call(call.args(["rev-parse", "--absolute-git-dir"]))?.ok()?;
    dir.pop();
    let tree = Tree::open(&path_of(&dir))?;
    let mut found = Vec::new();
    for name in names {
        let Some(Entry::File { file, size, .. }) = tree.entry(Path::new(name))? else { continue };
        let mut text = String::new();
        let is_text = file.take(MAX_TEXT).read_to_string(&mut text).is_ok() && size <= MAX_TEXT;
        let is_id =
            |line: &str| line.len() == repository.head.len() && line.bytes().all(|b| b.is_ascii_hexdigit());
        if is_text && (!name.ends_with("_HEAD") || text.lines().all(is_id)) {
            found.push((*name, text));
        }
    }
    Ok(found)
}

/// The settings of `repository` that its full copy has.
///
/// # Errors
/// Where git does not tell.
pub fn settings(git: &Git, repository: &Repository) -> Result<String> {
    let words = ["config", "--local", "--no-includes", "--list", "-z"];
    let list = git.call(Call::new("read the settings", &repository.top).args(words))?.ok()?;
    let mut text = String::new();
    for setting in list.split(|byte| *byte == 0) {
        let Ok(setting) = std::str::from_utf8(setting) else { continue };
        let Some((key, said)) = setting.split_once('\n') else { continue };
        let Some(said) = setting_for_guest(key, said) else { continue };
        let (section, rest) = key.split_once('.').unwrap_or((key, ""));
        let (head, name) = match rest.rsplit_once('.') {
            Some((subsection, name)) => (format!("{section} {}", value(subsection)), name),
            None => (section.to_owned(), rest),
        };
        text.push_str(&format!("[{head}]\n\t{name} = {}\n", value(&said)));
    }
    Ok(text)
}

fn feed_lines<'a>(input: &mut dyn Write, lines: impl Iterator<Item = &'a str>) -> Result<()> {
    for line in lines {
        writeln!(input, "{line}").map_err(WorkspaceError::Unread)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log() {
        let stash = stash_of("abc\0A B\0a@b\0stash@{1700000000 +0100}\0On main: two words").unwrap();
        assert_eq!(stash.line, "abc A B <a@b> 1700000000 +0100\tOn main: two words");
        assert!(stash_of("abc").is_none());
    }
}
