//! Who the user is to a registry: the files of docker and podman, and the helpers that these name.

use std::{
    collections::HashMap,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use host::proc::{Command, Program};
use model::base64;
use serde::Deserialize;

/// The longest file, and the longest answer of a helper.
const LONGEST: usize = 1 << 20;
/// How long a helper may take; it may have to ask its user for a password.
const HELPER: Duration = Duration::from_secs(60);

/// What a user shows to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that stands for both.
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

/// Why there are no credentials where there should be some.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file of them cannot be read.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// A file of them is none.
    #[error("{} is no file of credentials", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// A helper has a name that no program has.
    #[error("{} names the helper {name:?}, which no program is called", path.display())]
    HelperName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A helper failed.
    #[error("docker-credential-{name} failed: {why}")]
    Helper {
        /// The helper.
        name: String,
        /// What it said.
        why: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for the repository `path` of `host` in the first of `files` that has some.
pub(super) fn find(
    files: &[PathBuf],
    host: &str,
    path: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    for file in files.iter().filter(|file| host::fs::exists(file)) {
        let bytes = host::fs::read_limited(file, LONGEST as u64)?;
        let broken = |cause| CredentialsError::Broken { path: file.clone(), cause };
        let parsed: File = serde_json::from_slice(&bytes).map_err(broken)?;
        if let Some(found) = parsed.find(file, host, path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl File {
    fn find(&self, file: &Path, host: &str, path: &str) -> Result<Option<Credentials>, CredentialsError> {
        let names = names(host);
        let helper = self.cred_helpers.iter().find(|(key, _)| names.contains(&bare(key)));
        let helper = helper.map(|(key, name)| (&**key, name));
        let store = || self.creds_store.as_ref().map(|name| (server(host), name));
        if let Some((server, name)) = helper.or_else(store)
            && let Some(found) = ask(file, name, server)?
        {
            return Ok(Some(found));
        }
        // podman's keys may name a repository or a part of its path: the longest counts.
        let fits = |key: &str| {
            let key = bare(key);
            names.iter().any(|name| {
                key.strip_prefix(name).is_some_and(|rest| {
                    rest.is_empty()
                        || rest
                            .strip_prefix('/')
                            .is_some_and(|below| path == below || path.starts_with(&format!("{below}/")))
                })
            })
        };
        let entries = self.auths.iter().filter(|(key, _)| fits(key));
        Ok(entries.max_by_key(|(key, _)| bare(key).len()).and_then(|(_, entry)| entry.credentials()))
    }
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Credentials::Identity(token.clone()));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Some(Credentials::Password { user: user.clone(), password: password.clone() });
        }
        let decoded = String::from_utf8(base64::decode(self.auth.as_ref()?)?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Credentials::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// What files call `host`.
fn names(host: &str) -> Vec<&str> {
    if host == model::reference::HUB {
        vec![host, "index.docker.io", "registry-1.docker.io"]
    } else {
        vec![host]
    }
}

/// What helpers call `host`.
fn server(host: &str) -> &str {
    if host == model::reference::HUB { "https://index.docker.io/v1/" } else { host }
}

/// A key without the scheme and the version that docker's old ones have.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// Asks the helper `name` for the credentials of `server`; `None` where it has none.
fn ask(file: &Path, name: &str, server: &str) -> Result<Option<Credentials>, CredentialsError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(is_name) {
        return Err(CredentialsError::HelperName { path: file.to_owned(), name: name.to_owned() });
    }
    let failed = |why: String| CredentialsError::Helper { name: name.to_owned(), why };
    let (reader, mut writer) = std::io::pipe().map_err(|e| failed(e.to_string()))?;
    // Less than a pipe holds.
    writer.write_all(server.as_bytes()).map_err(|e| failed(e.to_string()))?;
    drop(writer);
    let command = Command::new(Program::CredentialHelper(name.to_owned())).arg("get");
    let output = command.stdin(std::fs::File::from(OwnedFd::from(reader))).output(LONGEST, HELPER)?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.exit.success() {
        // What helpers say where they have nothing; not having any is no failure.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let why = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
        return Err(failed(why.trim().chars().take(500).collect()));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer =
        serde_json::from_str(&said).map_err(|_| failed("its answer is no JSON".to_owned()))?;
    Ok(Some(match &*answer.username {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, host: &str, path: &str) -> Option<Credentials> {
        let file: File = serde_json::from_str(json).unwrap();
        file.find("config.json".as_ref(), host, path).unwrap()
    }

    #[test]
    fn the_longest_key_that_fits_counts() {
        let json = format!(
            r#"{{"auths": {{
                "r.io": {{"auth": "{}"}}, "r.io/org": {{"auth": "{}"}}, "r.io/org/app": {{"username": "c", "password": "x:y"}},
                "https://index.docker.io/v1/": {{"auth": "{}"}}, "t.io": {{"identitytoken": "token"}}, "e.io": {{}}
            }}}}"#,
            base64::encode(b"a:1"),
            base64::encode(b"b:2:3"),
            base64::encode(b"hub:4"),
        );
        let password = |user: &str, password: &str| {
            Some(Credentials::Password { user: user.into(), password: password.into() })
        };
        for (host, path, expected) in [
            ("r.io", "other", password("a", "1")),
            ("r.io", "org/x", password("b", "2:3")),
            ("r.io", "organs/x", password("a", "1")),
            ("r.io", "org/app", password("c", "x:y")),
            ("docker.io", "library/alpine", password("hub", "4")),
            ("t.io", "x", Some(Credentials::Identity("token".into()))),
            ("e.io", "x", None),
            ("r.io:5000", "x", None),
            ("xr.io", "x", None),
        ] {
            assert!(found(&json, host, path) == expected, "{host}/{path}");
        }
    }

    #[test]
    fn a_helper_is_only_ever_a_program_of_that_name() {
        for name in ["../x", "a/b", "", "-x", ".x", "a b", "a;b"] {
            let json = serde_json::json!({ "credsStore": name }).to_string();
            let file: File = serde_json::from_str(&json).unwrap();
            let error = file.find("c.json".as_ref(), "r.io", "x").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("c.json names the helper {name:?}, which no program is called")
            );
        }
    }
}
