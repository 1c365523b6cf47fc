//! What style asks of every file and a machine can see: headers, lengths, forbidden marks, one test program per crate,
//! no forgotten test file, no unused dependency.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::layers;

/// The longest a source file may be; what follows `#[cfg(test)]` does not count.
const LINES: usize = 800;

/// What is wrong with `files` (relative names) of the repository at `root`.
pub fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text =
            fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        problems.extend(check_source(file, &text));
    }
    problems.extend(check_test_programs(root, files)?);
    problems.extend(check_dependencies(root, files)?);
    Ok(problems)
}

fn check_source(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |what: String| problems.push(format!("{}: {what}", file.display()));
    if !text.starts_with("//! ") {
        problem("must begin with a header, `//! what this is for`".into());
    }
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > LINES {
        problem(format!("is {lines} lines long; split it by what it knows (more than {LINES})"));
    }
    let forbidden = [
        (concat!("#[", "ignore"), "a test either runs or says what it misses (need::...)"),
        (concat!("should", "_panic"), "assert on the error"),
        (concat!("#[", "allow("), "use #[expect(.., reason = \"..\")]"),
    ];
    let sleeps = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];
    let in_tests = file.components().any(|part| part.as_os_str() == "tests");
    for (number, line) in text.lines().enumerate() {
        for (mark, instead) in forbidden {
            if line.contains(mark) {
                problem(format!("line {}: no `{mark}`: {instead}", number + 1));
            }
        }
        if in_tests && sleeps.iter().any(|sleep| line.contains(sleep)) {
            problem(format!("line {}: no sleep in a test: wait for a state with a deadline", number + 1));
        }
    }
    problems
}

/// One test program per crate, `tests/it/main.rs`, which names every file beside it.
fn check_test_programs(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
        let ["crates", name, "tests", rest @ ..] = parts.as_slice() else { continue };
        match rest {
            ["it", "main.rs"] => {}
            ["it", module] if module.ends_with(".rs") => {
                let main = root.join("crates").join(name).join("tests/it/main.rs");
                let text = fs::read_to_string(&main).unwrap_or_default();
                let module = module.trim_end_matches(".rs");
                if !text.lines().any(|line| line.trim() == format!("mod {module};")) {
                    problems.push(format!("{}: tests/it/main.rs does not name it", file.display()));
                }
            }
            [program] if program.ends_with(".rs") => {
                problems.push(format!("{}: a second test program; put it into tests/it/", file.display()));
            }
            [program, "main.rs"] => {
                problems.push(format!(
                    "{}: a second test program; put `{program}` into tests/it/",
                    file.display()
                ));
            }
            _ => {}
        }
    }
    Ok(problems)
}

/// Every dependency's name appears in a source file of its crate, and every one of the workspace in a manifest.
fn check_dependencies(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut named = BTreeSet::new();
    for manifest in files.iter().filter(|file| file.file_name().is_some_and(|name| name == "Cargo.toml")) {
        let folder = manifest.parent().unwrap_or(Path::new(""));
        if folder.as_os_str().is_empty() {
            continue;
        }
        let table: Table =
            read(&root.join(manifest))?.parse().with_context(|| manifest.display().to_string())?;
        let mut source = String::new();
        for file in files.iter().filter(|file| file.starts_with(folder)) {
            if file.extension().is_some_and(|extension| extension == "rs") {
                source.push_str(&read(&root.join(file))?);
            }
        }
        for (name, renamed) in keys(&table) {
            named.insert(renamed);
            let features = table.get("features").map(Value::to_string).unwrap_or_default();
            if !mentions(&source, &name.replace('-', "_")) && !features.contains(&format!("\"{name}/")) {
                problems.push(format!("{}: {name} is not used", manifest.display()));
            }
        }
    }
    let workspace: Table = read(&root.join("Cargo.toml"))?.parse().context("Cargo.toml")?;
    let shared =
        workspace.get("workspace").and_then(|table| table.get("dependencies")).and_then(Value::as_table);
    for name in shared.into_iter().flat_map(Table::keys) {
        let ours = layers::LAYERS.iter().any(|layer| layer.name == name);
        if !ours && !named.contains(name) {
            problems.push(format!("Cargo.toml: no crate uses the workspace's {name}"));
        }
    }
    Ok(problems)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The dependencies of every kind: as the code calls them, and as the workspace does.
fn keys(manifest: &Table) -> Vec<(String, String)> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(platforms.filter_map(Value::as_table));
    let mut keys = Vec::new();
    for table in tables {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                keys.push((key.clone(), package.to_owned()));
            }
        }
    }
    keys
}

/// Whether `word` stands in `text` as a word of its own.
fn mentions(text: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(letter) && !after.is_some_and(letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let files = crate::shell::files().unwrap();
        assert_eq!(check(&crate::shell::root(), &files).unwrap(), Vec::<String>::new());
    }

    #[track_caller]
    fn source(file: &str, text: &str, expect: &[&str]) {
        assert_eq!(check_source(Path::new(file), text), expect);
    }

    #[test]
    fn untidy_sources_are_found() {
        source("a.rs", "//! A file.\nfn a() {}\n", &[]);
        source("a.rs", "fn a() {}\n", &["a.rs: must begin with a header, `//! what this is for`"]);
        let long = format!("//! A file.\n{}", "fn a() {}\n".repeat(800));
        source("a.rs", &long, &["a.rs: is 801 lines long; split it by what it knows (more than 800)"]);
        let tested = format!("//! A file.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(800));
        source("a.rs", &tested, &[]);
        let sleep = concat!("//! A file.\nfn a() { std::thread::", "sleep(x) }\n");
        source("crates/x/src/a.rs", sleep, &[]);
        source(
            "crates/x/tests/it/a.rs",
            sleep,
            &["crates/x/tests/it/a.rs: line 2: no sleep in a test: wait for a state with a deadline"],
        );
        let panics = concat!("//! A file.\n#[should", "_panic]\n");
        source("a.rs", panics, &[concat!("a.rs: line 2: no `should", "_panic`: assert on the error")]);
    }

    #[test]
    fn a_word_is_not_a_part_of_another() {
        assert!(mentions("use tar::Archive;", "tar"));
        assert!(!mentions("use start::target;", "tar"));
    }

    /// A small repository in a directory of its own, gone at the end.
    struct Repository(PathBuf);

    impl Repository {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("banger-tidy-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Repository {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn forgotten_tests_and_second_test_programs_are_found() {
        let main = "crates/x/tests/it/main.rs";
        let repository = Repository::new("tests", &[(main, "//! Tests.\nmod known;\n")]);
        let names =
            [main, "crates/x/tests/it/known.rs", "crates/x/tests/it/lost.rs", "crates/x/tests/more.rs"];
        let files: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        assert_eq!(
            check_test_programs(&repository.0, &files).unwrap(),
            [
                "crates/x/tests/it/lost.rs: tests/it/main.rs does not name it",
                "crates/x/tests/more.rs: a second test program; put it into tests/it/"
            ]
        );
    }

    #[test]
    fn unused_dependencies_are_found() {
        let files = [
            ("Cargo.toml", "[workspace.dependencies]\nbytes = \"1\"\nhttp = \"1\"\n"),
            (
                "crates/x/Cargo.toml",
                "[dependencies]\nbytes.workspace = true\nserde-json = \"1\"\ntar = \"1\"\n",
            ),
            ("crates/x/src/lib.rs", "//! A crate.\nuse bytes::Bytes;\nuse serde_json as json;\n"),
        ];
        let repository = Repository::new("unused", &files);
        let files: Vec<PathBuf> = files.iter().map(|(name, _)| PathBuf::from(name)).collect();
        assert_eq!(
            check_dependencies(&repository.0, &files).unwrap(),
            ["crates/x/Cargo.toml: tar is not used", "Cargo.toml: no crate uses the workspace's http"]
        );
    }
}
