//! Licences, banned packages and sources of everything that cargo would build, as deny.toml says.
//!
//! Does not look for published vulnerabilities: that needs a database that changes daily, and cargo-deny's `advisories`
//! does it with the same deny.toml.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::Table;

use crate::shell;

/// What deny.toml asks for.
struct Policy {
    licenses: Vec<String>,
    banned: Vec<(String, String)>,
    registries: Vec<String>,
}

/// What is wrong with the packages in Cargo.lock.
pub fn check() -> Result<Vec<String>> {
    let text = fs::read_to_string(shell::root().join("deny.toml")).context("cannot read deny.toml")?;
    let policy = policy(&text.parse().context("deny.toml")?)?;
    let metadata = shell::json(shell::cargo().args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    // Packages for other systems are listed too; only the resolved graph is what would be built.
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let built: Vec<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let mut problems = Vec::new();
    for package in
        packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| built.contains(&id)))
    {
        problems.extend(check_package(&policy, package)?);
    }
    Ok(problems)
}

fn policy(table: &Table) -> Result<Policy> {
    let strings = |section: &str, key: &str| -> Result<Vec<String>> {
        let list = table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
        let list = list.with_context(|| format!("deny.toml has no list {section}.{key}"))?;
        Ok(list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
    };
    let bans = table.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    let mut banned = Vec::new();
    for ban in bans.context("deny.toml has no list bans.deny")? {
        let name =
            ban.get("crate").and_then(toml::Value::as_str).context("a ban in deny.toml names no crate")?;
        let reason = ban.get("reason").and_then(toml::Value::as_str);
        banned.push((
            name.to_owned(),
            reason.with_context(|| format!("the ban of {name} has no reason"))?.to_owned(),
        ));
    }
    Ok(Policy {
        licenses: strings("licenses", "allow")?,
        banned,
        registries: strings("sources", "allow-registry")?,
    })
}

fn check_package(policy: &Policy, package: &Value) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let name = package["name"].as_str().context("a package has no name")?;
    let version = package["version"].as_str().unwrap_or_default();
    if let Some((_, reason)) = policy.banned.iter().find(|(banned, _)| banned == name) {
        problems.push(format!("{name} {version} is banned: {reason}"));
    }
    match package["license"].as_str() {
        None => problems.push(format!("{name} {version} names no licence")),
        Some(expression) => {
            // `A/B` is how `A OR B` was written before SPDX.
            let expression = expression.replace('/', " OR ");
            match satisfied(&expression, &policy.licenses) {
                Ok(true) => {}
                Ok(false) => {
                    problems.push(format!("{name} {version} is licensed {expression}, which is not allowed"))
                }
                Err(error) => problems.push(format!("{name} {version} is licensed {expression}: {error}")),
            }
        }
    }
    if let Some(source) = package["source"].as_str() {
        let known =
            source.strip_prefix("registry+").is_some_and(|url| policy.registries.iter().any(|r| r == url));
        if !known {
            problems.push(format!("{name} {version} comes from {source}, which is not allowed"));
        }
    }
    Ok(problems)
}

/// Whether the licences `allowed` satisfy an SPDX expression: `AND` binds tighter than `OR`.
fn satisfied(expression: &str, allowed: &[String]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let value = any_of(&mut words, allowed)?;
    match words.next() {
        None => Ok(value),
        Some(word) => bail!("unexpected `{word}`"),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut value = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        value |= all_of(words, allowed)?;
    }
    Ok(value)
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut value = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        value &= one(words, allowed)?;
    }
    Ok(value)
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let value = any_of(words, allowed)?;
            if words.next() != Some(")") {
                bail!("a parenthesis is not closed");
            }
            Ok(value)
        }
        None | Some(")" | "AND" | "OR" | "WITH") => bail!("a licence is missing"),
        Some(license) => {
            let mut license = license.to_owned();
            if words.next_if_eq(&"WITH").is_some() {
                license = format!("{license} WITH {}", words.next().context("an exception is missing")?);
            }
            Ok(allowed.contains(&license))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<String> {
        ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).to_vec()
    }

    #[test]
    fn licence_expressions() {
        for (expression, expect) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("MIT AND Zlib", true),
            ("GPL-3.0 AND GPL-2.0 OR MIT", true),
            ("(GPL-3.0 OR MIT) AND Zlib", true),
            ("(GPL-3.0 OR MIT) AND BSL-1.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ] {
            assert_eq!(satisfied(expression, &allowed()).unwrap(), expect, "{expression}");
        }
    }

    #[test]
    fn malformed_expressions_are_errors() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "AND", "MIT Zlib", "MIT WITH"] {
            assert!(satisfied(expression, &allowed()).is_err(), "{expression}");
        }
    }

    #[track_caller]
    fn package(json: &str, expect: &[&str]) {
        let policy = Policy {
            licenses: allowed(),
            banned: vec![("bad".into(), "because".into())],
            registries: vec!["https://example.org/index".into()],
        };
        assert_eq!(check_package(&policy, &serde_json::from_str(json).unwrap()).unwrap(), expect);
    }

    #[test]
    fn packages() {
        package(r#"{"name":"a","version":"1.0.0","license":"GPL-2.0/MIT","source":null}"#, &[]);
        package(
            r#"{"name":"a","version":"1.0.0","license":"MIT","source":"registry+https://example.org/index"}"#,
            &[],
        );
        package(
            r#"{"name":"bad","version":"1.0.0","license":null,"source":"git+https://example.org/a"}"#,
            &[
                "bad 1.0.0 is banned: because",
                "bad 1.0.0 names no licence",
                "bad 1.0.0 comes from git+https://example.org/a, which is not allowed",
            ],
        );
        package(
            r#"{"name":"a","version":"1.0.0","license":"GPL-2.0"}"#,
            &["a 1.0.0 is licensed GPL-2.0, which is not allowed"],
        );
    }

    #[test]
    fn everything_that_is_built_is_allowed() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
