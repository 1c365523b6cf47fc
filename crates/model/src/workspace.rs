//! Workspaces: where a repository may land in a guest, and what of a guest's tree may come back.
//!
//! A guest's names are data of somebody hostile. What passes here is a path that git takes, on any file system that the
//! owner may apply a patch on, and that stays in its tree.

mod settings;

use std::fmt;

pub use settings::{origin_for_guest, setting_for_guest};

/// Where a workspace is in the guest when nothing else is said.
pub const DEFAULT_GUEST_PATH: &str = "/root/repo";
/// How much history travels when nothing else is said, in commits.
pub const DEFAULT_DEPTH: u32 = 10;

/// The most names of a guest's tree that are looked at, the ignored ones included.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// The most bytes of their listing.
pub const MAX_LISTING: u64 = 256 << 20;
/// The most files of an export.
pub const MAX_CHANGED: u64 = 100_000;
/// The most bytes of their contents.
pub const MAX_CHANGED_BYTES: u64 = 2 << 30;
/// The most bytes of one `.gitignore`, and the most such files.
pub const MAX_IGNORE: (u64, u64) = (1 << 20, 10_000);
/// The most bytes of a path, and of one of its names.
pub const MAX_PATH: (usize, usize) = (4095, 255);

/// A directory of the guest that a workspace may be in: absolute, clean, and nothing that the system lives by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath(String);

/// Why a path cannot be a workspace's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestPathError {
    /// It does not begin with `/`.
    Relative,
    /// It has `.`, `..`, an empty name, or a slash at its end.
    Unclean,
    /// It has a control character, or is too long.
    Unfit,
    /// It is the root, or a directory that the system lives by.
    System,
}

impl fmt::Display for GuestPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relative => "a path in the guest begins with a slash",
            Self::Unclean => "a path in the guest has no `.`, no `..` and no empty name",
            Self::Unfit => "it has a control character or is too long",
            Self::System => "the system lives there",
        })
    }
}

impl std::error::Error for GuestPathError {}

/// Nothing at or below these.
const SYSTEM: &[&str] = &[
    "bin",
    "boot",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "lost+found",
    "proc",
    "run",
    "sbin",
    "sys",
];
/// Something below these, but not they themselves.
const SHARED: &[&str] = &["home", "media", "mnt", "opt", "root", "srv", "tmp", "var"];

impl TryFrom<&str> for GuestPath {
    type Error = GuestPathError;

    fn try_from(text: &str) -> Result<Self, GuestPathError> {
        let relative = text.strip_prefix('/').ok_or(GuestPathError::Relative)?;
        if text.len() > MAX_PATH.0 || text.chars().any(char::is_control) {
            return Err(GuestPathError::Unfit);
        }
        let names: Vec<&str> = relative.split('/').collect();
        if names == [""] {
            return Err(GuestPathError::System);
        }
        if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            return Err(GuestPathError::Unclean);
        }
        if names.iter().any(|name| name.len() > MAX_PATH.1) {
            return Err(GuestPathError::Unfit);
        }
        let system = match names.as_slice() {
            ["usr", "src", _, ..] | ["usr", "local", "src", _, ..] => false,
            ["usr", ..] => true,
            [top] => SYSTEM.contains(top) || SHARED.contains(top),
            [top, ..] => SYSTEM.contains(top),
            [] => true,
        };
        if system { Err(GuestPathError::System) } else { Ok(Self(text.to_owned())) }
    }
}

impl GuestPath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Files at a repository's top by which mise knows what tools it wants; the first three mean mise and nothing else.
pub const TOOL_FILES: [&str; 7] = [
    "mise.toml",
    ".mise.toml",
    ".tool-versions",
    "go.mod",
    ".node-version",
    ".python-version",
    "rust-toolchain.toml",
];

/// Why a name of a guest's tree is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreePathError {
    /// It leads out of the tree, or is no clean relative path.
    Leads,
    /// It is too long.
    Long,
    /// It is git's own directory, in some spelling of some file system.
    Git,
    /// It has a NUL byte, as no file has.
    Unfit,
}

impl fmt::Display for TreePathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leads => "it leads out of the tree",
            Self::Long => "it is too long",
            Self::Git => "it is git's own directory in some spelling",
            Self::Unfit => "it has a NUL byte",
        })
    }
}

impl std::error::Error for TreePathError {}

/// Whether `path` may be that of a file in a tree.
///
/// # Errors
/// Why not.
pub fn check_tree_path(path: &[u8]) -> Result<(), TreePathError> {
    if path.contains(&0) {
        return Err(TreePathError::Unfit);
    }
    if path.len() > MAX_PATH.0 {
        return Err(TreePathError::Long);
    }
    for name in path.split(|byte| *byte == b'/') {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(TreePathError::Leads);
        }
        if name.len() > MAX_PATH.1 {
            return Err(TreePathError::Long);
        }
        // Elsewhere a backslash parts names too.
        if name.split(|byte| *byte == b'\\').any(is_dot_git) {
            return Err(TreePathError::Git);
        }
    }
    Ok(())
}

/// Whether some file system takes `name` for `.git`: in any case; with spaces, dots or a stream at its end, or as a short
/// name, on NTFS; with characters that HFS+ does not see.
fn is_dot_git(name: &[u8]) -> bool {
    let seen: Vec<u8> = match std::str::from_utf8(name) {
        Ok(text) => {
            text.chars().filter(|c| !unseen(*c)).collect::<String>().to_ascii_lowercase().into_bytes()
        }
        Err(_) => name.to_ascii_lowercase(),
    };
    let before_stream = seen.split(|byte| *byte == b':').next().unwrap_or_default();
    let end = before_stream.iter().rposition(|byte| !matches!(byte, b' ' | b'.')).map_or(0, |at| at + 1);
    let bare = &before_stream[..end];
    if bare == b".git" {
        return true;
    }
    let short = bare.strip_prefix(b"git~").or_else(|| bare.strip_prefix(b"gi7eba~"));
    short.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

/// Names of files and directories that some program runs, or takes what to run from, without being asked to: hooks, shells,
/// editors, development containers, build services, package managers, assistants.
const RUNNING: &[&str] = &[
    ".circleci",
    ".claude",
    ".cursor",
    ".devcontainer",
    ".devcontainer.json",
    ".dir-locals.el",
    ".drone.yml",
    ".envrc",
    ".exrc",
    ".gitlab-ci.yml",
    ".githooks",
    ".husky",
    ".idea",
    ".lefthook.yml",
    ".mcp.json",
    ".nvimrc",
    ".pre-commit-config.yaml",
    ".travis.yml",
    ".vimrc",
    ".vscode",
    ".woodpecker",
    ".woodpecker.yml",
    "azure-pipelines.yml",
    "jenkinsfile",
    "lefthook.yml",
];

/// Whether a file at `path` of a tree may run on its owner's host, or at a service, without being asked for.
#[must_use]
pub fn runs_by_itself(path: &[u8]) -> bool {
    let path = path.to_ascii_lowercase();
    let mut names = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        let next = names.peek().copied().unwrap_or_default();
        let known = RUNNING.iter().any(|known| known.as_bytes() == name)
            || name.ends_with(b".code-workspace")
            || (name == b".github" && matches!(next, b"workflows" | b"actions"))
            || (name == b".cargo" && next.starts_with(b"config"));
        if known {
            return true;
        }
    }
    false
}

/// Characters that HFS+ leaves out when it compares names.
fn unseen(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

/// Whether a symbolic link at `path` to `target` leads to something in the same tree, by the words alone and whatever other such
/// links the tree has. So it goes up only at its beginning, where it is in directories for sure: another name may be a link,
/// and what is above what that leads to is not known.
#[must_use]
pub fn link_stays(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) || target.len() > MAX_PATH.0 {
        return false;
    }
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut is_beginning = true;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 || !is_beginning => return false,
            b".." => depth -= 1,
            _ if name.split(|byte| *byte == b'\\').any(is_dot_git) => return false,
            _ => is_beginning = false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_lies_where_the_system_does_not() {
        for good in
            ["/root/repo", "/work", "/home/user/a b", "/srv/x", "/usr/src/app", "/var/tmp/x", "/data/.x"]
        {
            assert_eq!(GuestPath::try_from(good).map(|path| path.to_string()), Ok(good.to_owned()));
        }
        use GuestPathError::{Relative, System, Unclean, Unfit};
        for (bad, why) in [
            ("", Relative),
            ("repo", Relative),
            ("~/repo", Relative),
            ("/", System),
            ("/root", System),
            ("/etc", System),
            ("/etc/repo", System),
            ("/usr/bin/repo", System),
            ("/usr/src", System),
            ("/proc/self/root/x", System),
            ("/root/../etc", Unclean),
            ("/root//repo", Unclean),
            ("/root/repo/", Unclean),
            ("/root/./repo", Unclean),
            ("/root/a\nb", Unfit),
        ] {
            assert_eq!(GuestPath::try_from(bad), Err(why), "{bad}");
        }
        assert_eq!(GuestPath::try_from(format!("/root/{}", "x".repeat(256)).as_str()), Err(Unfit));
    }

    #[test]
    fn names_of_a_tree_stay_in_it_and_out_of_git() {
        for good in [
            &b"a"[..],
            b"a/b.c",
            b".gitignore",
            b".github/x",
            b"x.git/y",
            b"git~/x",
            b"..a",
            b"\xff",
            b"a b\n",
        ] {
            assert_eq!(check_tree_path(good), Ok(()), "{}", String::from_utf8_lossy(good));
        }
        for leads in [&b""[..], b"/a", b"a//b", b"a/", b"../a", b"a/../b", b"./a", b"a/."] {
            assert_eq!(
                check_tree_path(leads),
                Err(TreePathError::Leads),
                "{}",
                String::from_utf8_lossy(leads)
            );
        }
        for git in [
            ".git",
            ".git/config",
            "a/.git/hooks/x",
            ".GIT/config",
            ".Git",
            ".git ",
            ".git. .",
            ".git::$INDEX_ALLOCATION/config",
            "git~1",
            "GIT~1/config",
            "gi7eba~1",
            ".g\u{200c}it/config",
            "a\\.git\\config",
            ".git\\config",
        ] {
            assert_eq!(check_tree_path(git.as_bytes()), Err(TreePathError::Git), "{git}");
        }
        assert_eq!(check_tree_path(b"a\0b"), Err(TreePathError::Unfit));
        assert_eq!(check_tree_path(&[b'x'; 256]), Err(TreePathError::Long));
        assert_eq!(check_tree_path("x/".repeat(3000).as_bytes()), Err(TreePathError::Long));
    }

    #[test]
    fn what_may_run_by_itself() {
        for (path, expect) in [
            (".envrc", true),
            ("sub/.ENVRC", true),
            (".vscode/tasks.json", true),
            (".github/workflows/ci.yml", true),
            (".github/CODEOWNERS", false),
            (".cargo/config.toml", true),
            (".husky/pre-commit", true),
            ("x.code-workspace", true),
            ("Jenkinsfile", true),
            ("src/envrc", false),
            ("hooks.rs", false),
        ] {
            assert_eq!(runs_by_itself(path.as_bytes()), expect, "{path}");
        }
    }

    #[test]
    fn links_stay_in_their_tree() {
        for (path, target, stays) in [
            ("a", "b", true),
            ("a/b", "../c", true),
            ("a/b", "../../c", false),
            ("a", "..", false),
            ("a", "/etc/passwd", false),
            ("a/b/c", "../../x/../../y", false),
            ("a/b/c", "../.././x/y", true),
            // Where `x` is a link to `.`, this would lead out.
            ("a", "x/../y", false),
            ("a/b/c", "../../x/../y", false),
            ("a", ".git/config", false),
            ("a", "", false),
        ] {
            assert_eq!(link_stays(path.as_bytes(), target.as_bytes()), stays, "{path} -> {target}");
        }
    }
}
