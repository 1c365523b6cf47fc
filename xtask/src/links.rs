//! What the repository's documents refer to: each link leads to a file, every page and decision is in its list, and each
//! test that is said to keep a promise is there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders whose Markdown files must all be linked from the list beside them.
const LISTS: [(&str, &str); 2] =
    [("docs/src", "docs/src/SUMMARY.md"), ("docs/design", "docs/design/README.md")];

/// Documents that name tests, as `crate::name_of_the_test`.
const PROMISES: [&str; 2] = ["SPECIFICATION.md", "THREATS.md"];

/// What is wrong with the links in `files` (relative names) of the repository at `root`.
pub fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let pages: Vec<&PathBuf> =
        files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect();
    let mut linked: Vec<(PathBuf, PathBuf)> = Vec::new();
    for page in &pages {
        let text =
            fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {}", page.display()))?;
        for target in targets(&text) {
            let to = page.parent().unwrap_or(Path::new("")).join(target);
            match root.join(&to).canonicalize() {
                Ok(found) => linked.push(((*page).clone(), found)),
                Err(_) => problems.push(format!("{}: links to {target}, which is not there", page.display())),
            }
        }
    }
    for (folder, list) in LISTS {
        for page in pages.iter().filter(|page| page.starts_with(folder) && page.as_path() != Path::new(list))
        {
            let page_path = root.join(page).canonicalize().with_context(|| page.display().to_string())?;
            if !linked.iter().any(|(from, to)| from == Path::new(list) && *to == page_path) {
                problems.push(format!("{}: {list} does not list it", page.display()));
            }
        }
    }
    problems.extend(check_promises(root, files)?);
    Ok(problems)
}

fn check_promises(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let read = |file: &Path| {
        fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))
    };
    let mut problems = Vec::new();
    for page in PROMISES.map(Path::new).into_iter().filter(|page| files.iter().any(|file| file == page)) {
        for (name, test) in tests_named(&read(page)?) {
            let folder = Path::new("crates").join(&name);
            let mut found = false;
            for file in files.iter().filter(|file| file.starts_with(&folder)) {
                found |= file.extension().is_some_and(|it| it == "rs")
                    && read(file)?.contains(&format!("fn {test}("));
            }
            if !found {
                problems
                    .push(format!("{}: names the test {name}::{test}, which is not there", page.display()));
            }
        }
    }
    Ok(problems)
}

/// The tests that a text names, each with its crate.
fn tests_named(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|name| name.split_once("::"));
    names.map(|(name, test)| (name.to_owned(), test.to_owned())).collect()
}

/// The files that a Markdown text links to, as written, without what leads elsewhere.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.starts_with("    ") {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split_once(')').map_or("", |(target, _)| target);
            let target = target.split_once('#').map_or(target, |(file, _)| file);
            if !target.is_empty() && !target.contains("://") {
                found.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_links_lead_somewhere() {
        let files = crate::shell::files().unwrap();
        assert_eq!(check(&crate::shell::root(), &files).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_a_text_links_to() {
        let text = "[a](b.md) and [c](d/e.md#f), [g](https://example.org) [h](#here)\n\n    [code](no.md)\n```\n[x](no.md)\n```\n";
        assert_eq!(targets(text), ["b.md", "d/e.md"]);
    }

    #[test]
    fn dead_links_and_unlisted_pages_are_found() {
        let root = std::env::temp_dir().join(format!("banger-links-{}", std::process::id()));
        let files = [
            ("README.md", "[gone](gone.md)\n"),
            ("THREATS.md", "| a | `x::it_holds`, `x::it_is_gone` |\n"),
            ("crates/x/src/lib.rs", "fn it_holds() {}\n"),
            ("docs/src/SUMMARY.md", "[one](one.md)\n"),
            ("docs/src/one.md", "one, see [two](two.md)\n"),
            ("docs/src/two.md", "two\n"),
        ];
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let names: Vec<PathBuf> = files.iter().map(|(name, _)| PathBuf::from(name)).collect();
        let problems = check(&root, &names).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            problems,
            [
                "README.md: links to gone.md, which is not there",
                "docs/src/two.md: docs/src/SUMMARY.md does not list it",
                "THREATS.md: names the test x::it_is_gone, which is not there"
            ]
        );
    }
}
