//! What can be wrong in the settings, and how that is told: with its line, a caret under it, and the key that was meant.

use std::{fmt, ops::Range};

use super::{FILE_SYNC, KEYS, LATER, PREFIX, Resolvers, VARIABLES, is_table};
use crate::{
    location::LocationError, name::NameError, size::SizeError, size::human, sizing::MAX_VCPU, sync::SyncError,
};

/// Why a value is none for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is of another type.
    Type(&'static str),
    /// It is no name.
    Name(NameError),
    /// It is no size.
    Size(SizeError),
    /// It is a size that nothing can have.
    Range {
        /// The least, in bytes.
        min: u64,
        /// The most, in bytes.
        max: u64,
    },
    /// It is none of the words that there are.
    Word(&'static [&'static str]),
    /// It is no address.
    Location(LocationError),
    /// It is no public key.
    Key,
    /// It is no absolute path.
    Path,
    /// It is no time.
    Duration,
    /// It is no number of CPUs.
    Vcpu,
    /// It is no port.
    Port,
    /// They are no resolvers.
    Resolvers,
    /// It is no rate.
    Rate,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(found) => write!(f, "it cannot be {found}"),
            Self::Name(e) => e.fmt(f),
            Self::Size(e) => e.fmt(f),
            Self::Range { min, max } if *max == 1 << 63 => write!(f, "it is at least {}", human(*min)),
            Self::Range { min, max } => write!(f, "it is from {} to {}", human(*min), human(*max)),
            Self::Word(words) => write!(f, "it is one of {}", words.join(", ")),
            Self::Location(e) => e.fmt(f),
            Self::Key => f.write_str("a public key of minisign has 56 characters and begins with RW"),
            Self::Path => f.write_str("it is an absolute path"),
            Self::Duration => f.write_str("a time is a whole number and a unit: 10s, 5m, 2h (1s to 24h)"),
            Self::Vcpu => write!(f, "it is a number from 1 to {MAX_VCPU}"),
            Self::Rate => f.write_str("it is a size for each second, like 50M, or none"),
            Self::Port => f.write_str("it is a number from 1024 to 65535"),
            Self::Resolvers => {
                let most = Resolvers::MOST;
                write!(f, "it is a list of 1 to {most} addresses, each like 192.0.2.1 or 192.0.2.1:5353")
            }
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is no such key; perhaps the other one is meant.
    Unknown(String, Option<&'static str>),
    /// It is a table, not a key.
    Table(String),
    /// The key is planned.
    Later(String),
    /// The value is not one for the key.
    Wrong(&'static str, Wrong),
    /// An entry of `[[file_sync]]`, by its number from one, is none.
    FileSync(usize, SyncError),
    /// The file as a whole is not understood, as its parser says.
    Syntax(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name, None) => write!(f, "unknown key `{name}`"),
            Self::Unknown(name, Some(nearest)) => {
                // TOML has no way back out of a table, so this is what went wrong where the name itself is right.
                let above = name.contains('.') && !nearest.contains('.') && !is_table(nearest);
                let place = if above { ", above the first [table]," } else { "" };
                write!(f, "unknown key `{name}`; is `{nearest}`{place} meant?")
            }
            Self::Table(name) => write!(f, "`{name}` is a table: write [{name}], and its keys below"),
            Self::Later(name) => write!(f, "`{name}` is not supported by this version"),
            Self::Wrong(name, why) => write!(f, "`{name}`: {why}"),
            Self::FileSync(number, why) => write!(f, "`file_sync` entry {number}: {why}"),
            Self::Syntax(why) => f.write_str(why),
        }
    }
}

/// A mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub reason: Reason,
    /// Where.
    pub at: Spot,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// In these bytes of the file.
    File(Range<usize>),
    /// In this environment variable.
    Variable(&'static str),
}

impl Mistake {
    /// The mistake with the line it is on and a caret under it, where `file` is how the file is called and `text` what is
    /// in it.
    #[must_use]
    pub fn render(&self, file: &str, text: &str) -> String {
        match &self.at {
            Spot::Variable(name) => format!("{name}: {}", self.reason),
            Spot::File(range) => {
                let (number, column) = position(text, range.start);
                let line = text.lines().nth(number - 1).unwrap_or_default();
                // One column each, so that the caret stays under what it means.
                let line = line.replace('\t', " ").replace(char::is_control, "\u{fffd}");
                let marked = text.get(range.clone()).unwrap_or_default().lines().next().unwrap_or_default();
                let margin = " ".repeat(number.to_string().len());
                format!(
                    "{file}:{number}:{column}: {}\n{margin} |\n{number} | {line}\n{margin} | {}{}",
                    self.reason,
                    " ".repeat(column - 1),
                    "^".repeat(marked.chars().count().max(1)),
                )
            }
        }
    }
}

/// The line and column of byte `at`, both counted from one.
#[must_use]
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[begin..].chars().count() + 1)
}

/// What to say of `name`, which is no key.
pub(super) fn unknown(name: String) -> Reason {
    if LATER.contains(&name.as_str()) {
        return Reason::Later(name);
    }
    if is_table(&name) {
        return Reason::Table(name);
    }
    let limit = split(&name).1.chars().count().div_ceil(3);
    let tables = KEYS.iter().filter_map(|key| key.name.split_once('.')).map(|(table, _)| table);
    let candidates = KEYS.iter().map(|key| key.name).chain(tables).chain([FILE_SYNC]);
    let nearest =
        candidates.map(|key| (difference(&name, key), key)).min_by_key(|(difference, _)| *difference);
    Reason::Unknown(name, nearest.filter(|(difference, _)| *difference <= limit).map(|(_, key)| key))
}

/// An environment variable that is called like one of banger's and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    name: String,
    /// The one that may be meant.
    nearest: Option<&'static str>,
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the variable {} means nothing to banger", self.name)?;
        self.nearest.map_or(Ok(()), |nearest| write!(f, "; is {nearest} meant?"))
    }
}

/// The environment variable `name`, where it looks like one of banger's and is none.
#[must_use]
pub fn stray(name: &str) -> Option<Stray> {
    let rest = name.strip_prefix(PREFIX)?;
    let known = || KEYS.iter().map(|key| key.variable).chain(VARIABLES.iter().copied());
    if known().any(|known| known == name) {
        return None;
    }
    let limit = rest.chars().count().div_ceil(3);
    let nearest = known().map(|known| (distance(name, known), known)).min_by_key(|(distance, _)| *distance);
    let nearest = nearest.filter(|(distance, _)| *distance <= limit).map(|(_, known)| known);
    Some(Stray { name: name.to_owned(), nearest })
}

/// The table and the key of a name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// How far a name is from a key: by its letters, with the wrong table counting as one.
fn difference(name: &str, key: &str) -> usize {
    let ((name_table, name), (key_table, key)) = (split(name), split(key));
    // Half a name, like `image` or `disk`, is one of the commonest mistakes.
    let letters =
        if name.len() >= 3 && key.contains(name) { usize::from(name != key) } else { distance(name, key) };
    letters + usize::from(name_table != key_table)
}

/// How many characters have to be changed, added or removed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_was_meant_is_found() {
        for (name, expect) in [
            ("defalt_image", Some("default_image")),
            ("image", Some("default_image")),
            ("kernel", Some("default_kernel")),
            ("qemu_binary", Some("qemu_bin")),
            ("log-level", Some("log_level")),
            ("memory", Some("vm_defaults.memory")),
            ("vm_default", Some("vm_defaults")),
            ("vm_defaults.mem", Some("vm_defaults.memory")),
            ("vm_defaults.cpus", Some("vm_defaults.vcpu")),
            ("vm_defaults.overlay", Some("vm_defaults.overlay_size")),
            ("vm_defaults.log_level", Some("log_level")),
            ("vm_defaults.x", None),
            ("colour", None),
            ("", None),
        ] {
            let expect = Reason::Unknown(name.to_owned(), expect);
            assert_eq!(unknown(name.to_owned()), expect, "{name:?}");
        }
        assert_eq!(unknown("vm_defaults".to_owned()), Reason::Table("vm_defaults".to_owned()));
        for later in LATER {
            assert_eq!(unknown((*later).to_owned()), Reason::Later((*later).to_owned()));
        }
    }

    #[test]
    fn a_variable_that_is_misspelt_is_told() {
        for key in KEYS {
            assert_eq!(stray(key.variable), None);
        }
        for (name, nearest) in [
            ("BANGER_VMMM", Some("BANGER_VMM")),
            ("BANGER_DEFAULT_IMGE", Some("BANGER_DEFAULT_IMAGE")),
            ("BANGER_VM_DEFAULT_MEMORY", Some("BANGER_VM_DEFAULTS_MEMORY")),
            ("BANGER_HOMEDIR", Some("BANGER_HOME")),
            ("BANGER_COLOUR", None),
            ("BANGER_", None),
        ] {
            assert_eq!(stray(name), Some(Stray { name: name.to_owned(), nearest }), "{name}");
        }
        for known in ["BANGER_HOME", "PATH", "BANGERS", ""] {
            assert_eq!(stray(known), None, "{known}");
        }
        let said = stray("BANGER_VMMM").map(|stray| stray.to_string());
        assert_eq!(
            said.as_deref(),
            Some("the variable BANGER_VMMM means nothing to banger; is BANGER_VMM meant?")
        );
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        let show = |reason: &str, file: &str, at: Range<usize>| {
            Mistake { reason: Reason::Syntax(reason.to_owned()), at: Spot::File(at) }.render("c.toml", file)
        };
        let file = "# ä\nvmm = \"xen\"\n";
        let at = file.find("\"xen\"").unwrap();
        let expect = "c.toml:2:7: no\n  |\n2 | vmm = \"xen\"\n  |       ^^^^^";
        assert_eq!(show("no", file, at..at + 5), expect);
        assert_eq!(show("unfinished", "x", 99..99), "c.toml:1:2: unfinished\n  |\n1 | x\n  |  ^");
        assert_eq!(show("end", "x\n", 2..2), "c.toml:2:1: end\n  |\n2 | \n  | ^");
        assert_eq!(
            show("no", "\tä\x1b[2J = 1\r\n", 3..4),
            "c.toml:1:3: no\n  |\n1 |  ä\u{fffd}[2J = 1\n  |   ^"
        );
        let lines = "\n".repeat(9) + "a = \"\"\"\nb\n\"\"\"\n";
        assert_eq!(show("no", &lines, 13..20), "c.toml:10:5: no\n   |\n10 | a = \"\"\"\n   |     ^^^");
        let variable =
            Mistake { reason: Reason::Wrong("qemu_bin", Wrong::Path), at: Spot::Variable("BANGER_QEMU_BIN") };
        assert_eq!(variable.render("c.toml", ""), "BANGER_QEMU_BIN: `qemu_bin`: it is an absolute path");
    }
}
