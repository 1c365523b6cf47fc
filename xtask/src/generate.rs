//! The reference pages, made from the programs themselves: `docs/src/reference/`.
//!
//! What a page says is what the program prints or what the code's own table holds; nothing is written here twice.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use model::config::{self, Fallback, Key};

use crate::{binaries, shell};

/// Where the pages are, in the repository, and those of the manual.
const PLACE: &str = "docs/src/reference";
const MANUAL: &str = "docs/man";

/// What to do with the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write them.
    Write,
    /// Fail where what is there is not what would be written.
    Compare,
}

/// Makes all pages from the programs of a debug build.
pub fn run(action: Action) -> Result<()> {
    let programs = binaries::build(binaries::Profile::Debug)?;
    let pages = [
        ("commands.md", commands(&programs.join("banger"))?),
        ("configuration.md", configuration()),
        ("exit-codes.md", exit_codes()),
        ("openapi.json", openapi(&programs.join("bangerd"))?),
    ];
    let pages = pages.map(|(name, text)| (format!("{PLACE}/{name}"), text)).into_iter();
    let manual = manual()?;
    let mut stale = Vec::new();
    for name in strangers(&manual)? {
        match action {
            Action::Write => {
                fs::remove_file(shell::root().join(&name))
                    .with_context(|| format!("cannot remove {name}"))?;
                println!("removed {name}");
            }
            Action::Compare => stale.push(name),
        }
    }
    for (name, text) in pages.chain(manual) {
        let path = shell::root().join(&name);
        if fs::read_to_string(&path).ok().as_ref() == Some(&text) {
            continue;
        }
        match action {
            Action::Write => {
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
                println!("wrote {name}");
            }
            Action::Compare => stale.push(name),
        }
    }
    if !stale.is_empty() {
        bail!("not what the programs say: {}; run `cargo xtask gen`", stale.join(", "));
    }
    Ok(())
}

/// The manual's pages: name and text of each.
fn manual() -> Result<Vec<(String, String)>> {
    let place = shell::target()?.join("man");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "-p", "cli", "--example", "man", "--"]).arg(&place);
    shell::run(&mut command)?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Where it is a row of a list, groff shows no text for a space at its end.
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        pages.push((format!("{MANUAL}/{name}"), lines.join("\n") + "\n"));
    }
    pages.sort();
    Ok(pages)
}

/// What is among the manual's pages and is none of `pages`.
fn strangers(pages: &[(String, String)]) -> Result<Vec<String>> {
    let place = shell::root().join(MANUAL);
    fs::create_dir_all(&place).with_context(|| format!("cannot create {MANUAL}"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&place).with_context(|| format!("cannot list {MANUAL}"))? {
        names.push(format!("{MANUAL}/{}", entry?.file_name().to_string_lossy()));
    }
    names.retain(|name| pages.iter().all(|(page, _)| page != name));
    names.sort();
    Ok(names)
}

const MADE: &str = "<!-- Made by `cargo xtask gen`; do not edit. -->\n";

fn exit_codes() -> String {
    let mut page = format!("{MADE}\n# Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for (code, meaning) in model::exit::TABLE {
        writeln!(page, "| {code} | {meaning} |").expect("writing to a string cannot fail");
    }
    page.push_str(
        "\nA command in a guest that signal N ended gives 128+N. Otherwise `vm run -- CMD`, `vm exec` and `vm ssh` exit with CMD's own code.\n",
    );
    page
}

/// The keys of the configuration, and what is refused.
fn configuration() -> String {
    let mut page = format!(
        "{MADE}\n# Configuration\n\n\
         `{}` in `$XDG_CONFIG_HOME/banger/`, else in `~/.config/banger/`. Every key is optional. A key that is not known, or a value\n\
         that a key cannot have, is refused with its line. The variable overrides the file.\n\n\
         `banger config show` prints each value with where it came from. A daemon that runs keeps those with which it started:\n\
         after `banger daemon stop` the next command starts one with the new ones, and machines go on running.\n\n\
         ```toml\ndefault_image = \"debian-bookworm\"\n\n[vm_defaults]\nvcpu = 2\nmemory = \"2G\"\n```\n\n\
         | key | meaning | value | without it | variable |\n| --- | --- | --- | --- | --- |\n",
        config::FILE
    );
    for Key { name, variable, kind, fallback, meaning, .. } in config::KEYS {
        let fallback = match fallback {
            Fallback::Value(value) => format!("`{value}`"),
            Fallback::Auto(words) => (*words).to_owned(),
        };
        writeln!(page, "| `{name}` | {meaning} | {} | {fallback} | `{variable}` |", kind.words())
            .expect("writing to a string cannot fail");
    }
    page.push_str(
        "\nEach `[[file_sync]]` names a file or directory of your home that every start puts into the machine's: `host` and `guest`, and `mode` where\n\
         the file's own is not wanted. See [everyday use](../everyday.md#files).\n",
    );
    writeln!(
        page,
        "\nOther variables: `BANGER_HOME`, an absolute path, moves all of banger's directories below it; `BANGER_LOG` is what the daemon\n\
         logs, as a filter of targets. A variable that begins with `{}` and means nothing is told.",
        config::PREFIX
    )
    .expect("writing to a string cannot fail");
    let later: Vec<_> = config::LATER.iter().map(|name| format!("`{name}`")).collect();
    writeln!(page, "\nPlanned, and refused by this version: {}.", later.join(", "))
        .expect("writing to a string cannot fail");
    page
}

/// The API's document, as `bangerd` prints it.
fn openapi(bangerd: &Path) -> Result<String> {
    let document = shell::output(Command::new(bangerd).arg("--openapi"))?;
    serde_json::from_slice::<serde_json::Value>(&document).context("bangerd --openapi printed no JSON")?;
    String::from_utf8(document).context("bangerd --openapi printed something that is not UTF-8")
}

/// The help of every command, as a terminal of 100 columns shows it.
fn commands(banger: &Path) -> Result<String> {
    let mut page = format!("{MADE}\n# Commands\n");
    let mut todo = vec![Vec::<String>::new()];
    while let Some(path) = todo.pop() {
        let help = help(banger, &path)?;
        let title = if path.is_empty() { "banger".to_owned() } else { format!("banger {}", path.join(" ")) };
        let level = "#".repeat((path.len() + 2).min(4));
        write!(page, "\n{level} {title}\n\n```text\n{}\n```\n", help.trim_end())
            .expect("writing to a string cannot fail");
        // Depth first, in the order in which the help lists them.
        for name in subcommands(&help).into_iter().rev() {
            let mut child = path.clone();
            child.push(name);
            todo.push(child);
        }
    }
    Ok(page)
}

fn help(banger: &Path, path: &[String]) -> Result<String> {
    let mut command = Command::new(banger);
    // None of the three is a terminal, so that nobody's window decides how wide the page is.
    command.args(path).arg("--help").env_clear().env("COLUMNS", "100").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {}", shell::words(&command)))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}\n{}",
            shell::words(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("a help text is not UTF-8")
}

/// The names below `Commands:` in a help text, without the built-in `help`.
fn subcommands(help: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = help.lines();
    for line in lines.by_ref() {
        if line == "Commands:" {
            break;
        }
    }
    for line in lines {
        if !line.starts_with("  ") && !line.is_empty() {
            break;
        }
        // A name stands at two columns; what is further to the right goes on with the line above.
        if let Some(entry) = line.strip_prefix("  ").filter(|entry| !entry.starts_with(' ')) {
            let name = entry.split_whitespace().next().unwrap_or_default();
            if !name.is_empty() && name != "help" {
                names.push(name.to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_found_in_a_help_text() {
        let help = "Makes machines\n\nUsage: banger vm COMMAND\n\nCommands:\n  run     Run a command, in a\n          new machine\n  \
                    list    List [aliases: ls]\n  help    Print this\n\nOptions:\n  -h, --help  Print help\n";
        assert_eq!(subcommands(help), ["run", "list"]);
        assert_eq!(subcommands("Usage: banger vm list\n\nOptions:\n  -q  ids only\n"), Vec::<String>::new());
    }

    #[test]
    fn every_key_of_the_configuration_has_a_row() {
        let page = configuration();
        for key in config::KEYS {
            assert!(page.contains(&format!("| `{}` | {} | ", key.name, key.meaning)));
        }
    }

    #[test]
    fn the_example_of_the_configuration_is_made_of_keys() {
        let page = configuration();
        let (_, rest) = page.split_once("```toml\n").expect("it has an example");
        let (example, _) = rest.split_once("```").expect("the example ends");
        let example: toml::Table = example.parse().expect("it is TOML");
        let known = |name: &str| config::KEYS.iter().any(|key| key.name == name);
        for (name, value) in &example {
            match value.as_table() {
                Some(table) => assert!(table.keys().all(|key| known(&format!("{name}.{key}"))), "{table}"),
                None => assert!(known(name), "{name}"),
            }
        }
    }

    #[test]
    fn every_exit_code_has_a_row() {
        let page = exit_codes();
        for (code, meaning) in model::exit::TABLE {
            assert!(page.contains(&format!("| {code} | {meaning} |")));
        }
    }
}
