//! What a guest is told of the settings of a repository: those that mean something there, without paths and secrets of the host.

/// What a guest is told of where a repository came from: no path of the host, and no password.
#[must_use]
pub fn origin_for_guest(url: &str) -> Option<String> {
    if url.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return None;
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        if scheme.eq_ignore_ascii_case("file")
            || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        {
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = match authority.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((name, _)) => format!("{name}@{host}"),
                // A token is a user without a password.
                None if scheme.starts_with("http") => host.to_owned(),
                None => authority.to_owned(),
            },
            None => authority.to_owned(),
        };
        return Some(format!("{scheme}://{authority}/{path}"));
    }
    // `host:path`, as ssh has it; anything else is a path, or a program to be run.
    let (host, path) = url.split_once(':')?;
    (!host.is_empty() && !host.contains('/') && !path.starts_with(':')).then(|| url.to_owned())
}

/// What a guest's full copy of a repository has for the setting `key` of its configuration, where that is `value`; `None` where it
/// gets none. What is not listed here stays: programs, paths and credentials are of the host.
#[must_use]
pub fn setting_for_guest(key: &str, value: &str) -> Option<String> {
    let (section, rest) = key.split_once('.')?;
    let (subsection, name) = match rest.rsplit_once('.') {
        Some((subsection, name)) => (Some(subsection), name),
        None => (None, rest),
    };
    if value.chars().chain(key.chars()).any(char::is_control) {
        return None;
    }
    let is_name = !value.is_empty() && !value.contains(['/', ':']);
    let goes = match (section, subsection, name) {
        ("core", None, "autocrlf" | "eol")
        | ("user", None, "name" | "email")
        | ("pull", None, "ff" | "rebase")
        | ("push", None, "default")
        | ("merge", None, "ff")
        | ("remote", Some(_), "fetch" | "tagopt")
        | ("branch", Some(_), "merge" | "rebase")
        | ("submodule", Some(_), "active" | "branch" | "ignore") => true,
        // A path or an address may stand for a remote.
        ("branch", Some(_), "remote") => is_name,
        ("submodule", Some(_), "update") => matches!(value, "checkout" | "rebase" | "merge" | "none"),
        ("remote", Some(_), "url" | "pushurl") | ("submodule", Some(_), "url") => {
            return origin_for_guest(value);
        }
        _ => false,
    };
    goes.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_no_path_of_the_host_and_no_secret() {
        for (url, expect) in [
            ("https://github.com/a/b.git", Some("https://github.com/a/b.git")),
            ("https://me:secret@example.org/b", Some("https://me@example.org/b")),
            ("https://ghp_token@example.org/b", Some("https://example.org/b")),
            ("ssh://git@example.org:22/b", Some("ssh://git@example.org:22/b")),
            ("git@example.org:a/b", Some("git@example.org:a/b")),
            ("/srv/git/b", None),
            ("../b", None),
            ("./a:b", None),
            ("file:///srv/b", None),
            ("FILE:///srv/b", None),
            ("ext::sh -c x", None),
            ("a\nb:c", None),
            ("b", None),
        ] {
            assert_eq!(origin_for_guest(url).as_deref(), expect, "{url}");
        }
    }

    #[test]
    fn settings_that_mean_something_elsewhere_go() {
        for (key, value, expect) in [
            ("core.autocrlf", "input", Some("input")),
            ("remote.origin.url", "https://me:secret@example.org/b", Some("https://me@example.org/b")),
            ("remote.a.b.url", "git@example.org:a/b", Some("git@example.org:a/b")),
            ("remote.backup.url", "/srv/git/b", None),
            (
                "remote.origin.fetch",
                "+refs/heads/*:refs/remotes/origin/*",
                Some("+refs/heads/*:refs/remotes/origin/*"),
            ),
            ("remote.origin.proxy", "http://me:secret@proxy", None),
            ("remote.origin.uploadpack", "/home/me/bin/x", None),
            ("branch.main.remote", "origin", Some("origin")),
            ("branch.main.remote", "/srv/git/b", None),
            ("branch.main.merge", "refs/heads/main", Some("refs/heads/main")),
            ("submodule.lib.url", "https://example.org/lib", Some("https://example.org/lib")),
            ("submodule.lib.url", "/home/me/lib", None),
            ("submodule.lib.update", "checkout", Some("checkout")),
            ("submodule.lib.update", "!touch /tmp/x", None),
            ("user.email", "a@b", Some("a@b")),
            ("user.signingkey", "1234", None),
            ("core.hookspath", "/home/me/hooks", None),
            ("core.fsmonitor", "x", None),
            ("core.worktree", "/home/me/x", None),
            ("http.extraheader", "Authorization: Basic x", None),
            ("http.https://example.org.extraheader", "Authorization: Basic x", None),
            ("credential.helper", "store", None),
            ("include.path", "/home/me/.gitconfig", None),
            ("url.git@example.org:.insteadof", "x", None),
            ("filter.lfs.process", "git-lfs", None),
            ("alias.x", "!x", None),
            ("user.name", "a\nb", None),
            ("core", "x", None),
        ] {
            assert_eq!(setting_for_guest(key, value).as_deref(), expect, "{key}={value}");
        }
    }
}
