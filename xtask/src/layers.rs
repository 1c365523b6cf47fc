//! Which crate may use which, as a table, and the check that every manifest keeps to it.
//!
//! The rows are those of ARCHITECTURE.md. The same goes for packages from outside that belong in one place, such as
//! the database driver. Only normal and build dependencies count: a test may use what it likes, below its own layer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// One crate and its place.
pub struct Layer {
    /// The crate, which is also the name of its folder.
    pub name: &'static str,
    /// The number of its layer; a crate uses only lower ones.
    pub level: u8,
    /// The crates of ours that it may use.
    pub may_use: &'static [&'static str],
    /// Where it may be used.
    pub role: Role,
}

/// Where a crate may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// By the crates of higher layers whose row names it.
    Library,
    /// Nowhere: it is a program.
    Program,
    /// In tests.
    Development,
}

const fn row(name: &'static str, level: u8, role: Role, may_use: &'static [&'static str]) -> Layer {
    Layer { name, level, may_use, role }
}

/// Every crate below `crates/`.
pub const LAYERS: &[Layer] = &[
    row("model", 0, Role::Library, &[]),
    row("wire", 1, Role::Library, &["model"]),
    row("host", 1, Role::Library, &["model"]),
    row("store", 2, Role::Library, &["model", "host"]),
    row("image", 2, Role::Library, &["model", "host"]),
    row("vmm", 2, Role::Library, &["model", "host", "wire"]),
    row("helper", 2, Role::Program, &["model", "wire", "host"]),
    row("agent", 2, Role::Program, &["model", "wire", "host"]),
    row("engine", 3, Role::Library, &["model", "wire", "host", "store", "image", "vmm"]),
    row("daemon", 4, Role::Program, &["model", "wire", "host", "store", "engine"]),
    row("cli", 4, Role::Program, &["model", "wire", "host"]),
    row("testkit", 4, Role::Development, &["model", "wire", "host", "store", "image", "vmm", "engine"]),
    row("hostile", 4, Role::Development, &["model", "wire", "host", "image", "vmm"]),
];

/// A package from outside, and the only crates that may use it.
pub const RESERVED: &[(&str, &[&str])] = &[
    ("anyhow", &["xtask"]),
    ("axum", &["daemon"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("comfy-table", &["cli"]),
    ("hyper-rustls", &["engine"]),
    ("indicatif", &["cli"]),
    ("minisign-verify", &["image"]),
    ("ring", &["engine"]),
    ("rusqlite", &["store"]),
    ("tar", &["image", "cli", "agent", "testkit"]),
    ("tokio", &["agent", "vmm", "image", "engine", "daemon", "cli", "testkit"]),
    ("tokio-util", &["agent", "vmm", "image", "engine", "daemon", "cli", "testkit"]),
    ("toml", &["daemon", "helper", "xtask"]),
    ("rustix", &["host", "helper", "agent", "vmm", "image", "testkit", "hostile", "engine", "cli", "daemon"]),
];

/// Packages that a crate must do without, with the reason.
pub const DENIED: &[(&str, &str, &str)] = &[
    ("model", "serde", "the model's types are never what crosses a process"),
    ("model", "rustix", "the model does no I/O"),
    ("helper", "tokio", "what is root is small and does one thing after the other"),
    ("helper", "rusqlite", "what is root has no database"),
    ("helper", "hyper-rustls", "what is root speaks with nobody else"),
];

/// What is wrong with the manifests of the repository at `root`.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut folders = Vec::new();
    for entry in fs::read_dir(root.join("crates")).context("cannot list crates/")? {
        let folder = entry?.file_name().to_string_lossy().into_owned();
        let path = root.join("crates").join(&folder).join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        problems
            .extend(check_manifest(&folder, &text.parse().with_context(|| format!("{}", path.display()))?));
        folders.push(folder);
    }
    let path = root.join("xtask/Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    problems.extend(reserved("xtask", &text.parse().with_context(|| format!("{}", path.display()))?));
    for layer in LAYERS {
        if !folders.iter().any(|folder| folder == layer.name) {
            problems.push(format!("{}: has a row in the table of layers but no folder", layer.name));
        }
    }
    Ok(problems)
}

fn check_manifest(folder: &str, manifest: &Table) -> Vec<String> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == folder) else {
        return vec![format!("{folder}: has no row in the table of layers (xtask/src/layers.rs)")];
    };
    let mut problems = reserved(folder, manifest);
    if package(manifest, "name").and_then(Value::as_str) != Some(folder) {
        problems.push(format!("{folder}: the folder and the crate have different names"));
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if package(manifest, key).and_then(|value| value.get("workspace")) != Some(&Value::Boolean(true)) {
            problems.push(format!("{folder}: package.{key} must be the workspace's"));
        }
    }
    if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
        problems.push(format!("{folder}: must take the workspace's lints"));
    }
    for name in dependencies(manifest) {
        let Some(used) = LAYERS.iter().find(|layer| layer.name == name) else { continue };
        if used.role != Role::Library {
            problems.push(format!("{folder}: {name} must not be a normal dependency of anything"));
        } else if !layer.may_use.contains(&name.as_str()) || used.level >= layer.level {
            problems.push(format!("{folder}: may not use {name}"));
        }
    }
    problems
}

fn reserved(folder: &str, manifest: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for name in dependencies(manifest) {
        if let Some((_, places)) = RESERVED.iter().find(|(package, _)| *package == name)
            && !places.contains(&folder)
        {
            problems.push(format!("{folder}: {name} may be used only by {}", places.join(", ")));
        }
        for (_, _, reason) in DENIED.iter().filter(|(place, package, _)| *place == folder && *package == name)
        {
            problems.push(format!("{folder}: must not use {name}: {reason}"));
        }
    }
    problems
}

fn package<'a>(manifest: &'a Table, key: &str) -> Option<&'a Value> {
    manifest.get("package")?.get(key)
}

/// The names of the normal and build dependencies, those for one platform included.
pub fn dependencies(manifest: &Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(platforms.filter_map(Value::as_table));
    let mut names = Vec::new();
    for table in tables {
        for section in ["dependencies", "build-dependencies"] {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let renamed = value.get("package").and_then(Value::as_str);
                names.push(renamed.unwrap_or(key).to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[package]\nname = \"NAME\"\nversion.workspace = true\nedition.workspace = true\n\
                        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
                        [lints]\nworkspace = true\n";

    fn problems(name: &str, rest: &str) -> Vec<String> {
        let text = format!("{}{rest}", HEAD.replace("NAME", name));
        check_manifest(name, &text.parse().unwrap())
    }

    #[test]
    fn every_manifest_keeps_to_its_layer() {
        assert_eq!(check(&crate::shell::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_row_names_only_lower_layers() {
        for layer in LAYERS {
            for used in layer.may_use {
                let used = LAYERS.iter().find(|layer| layer.name == *used).unwrap();
                assert!(used.level < layer.level, "{} uses {}", layer.name, used.name);
                assert_eq!(used.role, Role::Library, "{} uses {}", layer.name, used.name);
            }
        }
    }

    #[test]
    fn the_page_on_architecture_has_the_same_table() {
        let page = fs::read_to_string(crate::shell::root().join("ARCHITECTURE.md")).unwrap();
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, level, name, uses, _, _] = cells.as_slice() else { return None };
            let level: u8 = level.parse().ok()?;
            let uses = uses.split(", ").map(|name| name.trim_matches('`').to_owned());
            Some((level, name.trim_matches('`').to_owned(), uses.filter(|name| !name.is_empty()).collect()))
        });
        let table = LAYERS.iter().map(|layer| {
            (
                layer.level,
                layer.name.to_owned(),
                layer.may_use.iter().map(|name| (*name).to_owned()).collect(),
            )
        });
        assert_eq!(rows.collect::<Vec<(u8, String, Vec<String>)>>(), table.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_allowed_passes() {
        assert_eq!(problems("wire", "[dependencies]\nmodel.workspace = true\n"), Vec::<String>::new());
        assert_eq!(problems("cli", "[dev-dependencies]\ntestkit.workspace = true\n"), Vec::<String>::new());
    }

    #[test]
    fn a_dependency_upwards_is_found() {
        assert_eq!(problems("model", "[dependencies]\nhost.workspace = true\n"), ["model: may not use host"]);
        assert_eq!(
            problems("wire", "[build-dependencies]\nhost.workspace = true\n"),
            ["wire: may not use host"]
        );
        assert_eq!(
            problems(
                "cli",
                "[target.'cfg(unix)'.dependencies]\nother = { package = \"engine\", path = \"x\" }\n"
            ),
            ["cli: may not use engine"]
        );
        assert_eq!(
            problems("engine", "[dependencies]\ntestkit.workspace = true\nagent.workspace = true\n"),
            [
                "engine: agent must not be a normal dependency of anything",
                "engine: testkit must not be a normal dependency of anything"
            ]
        );
    }

    #[test]
    fn a_package_outside_its_place_is_found() {
        assert_eq!(
            problems("engine", "[dependencies]\nrusqlite.workspace = true\n"),
            ["engine: rusqlite may be used only by store"]
        );
        assert_eq!(
            problems("model", "[dependencies]\nserde.workspace = true\n"),
            ["model: must not use serde: the model's types are never what crosses a process"]
        );
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(problems("extra", ""), ["extra: has no row in the table of layers (xtask/src/layers.rs)"]);
    }

    #[test]
    fn a_manifest_of_its_own_mind_is_found() {
        let manifest = "[package]\nname = \"wires\"\nversion = \"2.0.0\"\n".parse().unwrap();
        assert_eq!(
            check_manifest("wire", &manifest),
            [
                "wire: the folder and the crate have different names",
                "wire: package.version must be the workspace's",
                "wire: package.edition must be the workspace's",
                "wire: package.rust-version must be the workspace's",
                "wire: package.license must be the workspace's",
                "wire: package.publish must be the workspace's",
                "wire: must take the workspace's lints"
            ]
        );
    }
}
