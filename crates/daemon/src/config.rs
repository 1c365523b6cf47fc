//! Reading `config.toml` and its overrides. What is in them means what `model::config` says.

use std::{fmt, ops::Range, path::PathBuf};

use host::{dirs::Dirs, fs};
use model::config::{self, Checked, Entry, Mistake, Reason, Spot, Table, Value, position};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The most bytes of a file that is read.
const LIMIT: u64 = 1 << 20;
/// Mistakes that are shown at once.
const SHOWN: usize = 5;

/// The settings with the files that they were read from.
#[derive(Debug)]
pub struct Loaded {
    /// The files, whether they are there or not; what a later one says counts.
    pub sources: Vec<Source>,
    /// What they and the environment say. Places are those of all files one after the other.
    pub checked: Checked,
}

/// A file of settings.
#[derive(Debug)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    text: String,
    /// Where it begins where all files stand one after the other.
    begin: usize,
}

impl Loaded {
    /// The file and the line of place `at`.
    #[must_use]
    pub fn line(&self, at: usize) -> (String, usize) {
        let source = source_of(&self.sources, at);
        (source.path.display().to_string(), position(&source.text, at - source.begin).0)
    }
}

/// The one of `sources` in which place `at` is.
fn source_of(sources: &[Source], at: usize) -> &Source {
    sources.iter().rev().find(|source| source.begin <= at).expect("the first one begins at 0")
}

/// Why there are no settings.
#[derive(Debug)]
pub enum LoadError {
    /// The file is there and cannot be read.
    Read(host::Error),
    /// There are mistakes in it or in the environment, each with its place.
    Mistakes(Vec<String>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_) => f.write_str("cannot use the configuration"),
            Self::Mistakes(all) => {
                f.write_str(&all[..all.len().min(SHOWN)].join("\n"))?;
                match all.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "\nand {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(cause) => Some(cause),
            Self::Mistakes(_) => None,
        }
    }
}

/// The settings of this user.
///
/// # Errors
/// Where the file cannot be read, or there is a mistake in it or in the environment.
pub fn load(dirs: &Dirs) -> Result<Loaded, LoadError> {
    let read = |path: PathBuf| match fs::read_limited(&path, LIMIT) {
        Err(e) if e.is_missing() => Ok((path, Vec::new())),
        other => other.map(|bytes| (path, bytes)).map_err(LoadError::Read),
    };
    check(dirs.config_files().into_iter().map(read).collect::<Result<_, _>>()?, variable)
}

/// The variable `name`, which may hold anything.
fn variable(name: &'static str) -> Option<Value> {
    let value = host::env::var(name)?;
    Some(value.into_string().map_or(Value::Other("text that is not UTF-8"), Value::Untyped))
}

/// What these files, with their bytes, and the environment say.
fn check(
    files: Vec<(PathBuf, Vec<u8>)>,
    variable: impl Fn(&'static str) -> Option<Value>,
) -> Result<Loaded, LoadError> {
    let (mut sources, mut all, mut begin) = (Vec::new(), Vec::new(), 0);
    for (path, bytes) in files {
        let name = path.display().to_string();
        let told = |mistake: Mistake, text: &str| LoadError::Mistakes(vec![mistake.render(&name, text)]);
        let text = String::from_utf8(bytes).map_err(|e| {
            let end = e.utf8_error().valid_up_to();
            let reason = Reason::Syntax("this is not UTF-8".to_owned());
            told(Mistake { reason, at: Spot::File(end..end) }, &String::from_utf8_lossy(e.as_bytes()))
        })?;
        let found = entries(&text).map_err(|mistake| told(mistake, &text))?;
        all.extend(found.into_iter().map(|entry| moved(entry, begin)));
        // What ends at the end of one does not begin the next.
        let next = begin + text.len() + 1;
        sources.push(Source { path, text, begin });
        begin = next;
    }
    match config::check(all, variable) {
        Ok(checked) => Ok(Loaded { sources, checked }),
        Err(mistakes) => {
            Err(LoadError::Mistakes(mistakes.into_iter().map(|mistake| render(mistake, &sources)).collect()))
        }
    }
}

/// `entry` where it stands behind `by` bytes of other files.
fn moved(entry: Entry, by: usize) -> Entry {
    let move_range = |range: Range<usize>| range.start + by..range.end + by;
    let value = match entry.value {
        Value::Tables(tables) => Value::Tables(
            tables
                .into_iter()
                .map(|table| Table {
                    at: move_range(table.at),
                    entries: table.entries.into_iter().map(|entry| moved(entry, by)).collect(),
                })
                .collect(),
        ),
        value @ (Value::Text(_)
        | Value::Integer(_)
        | Value::Untyped(_)
        | Value::Switch(_)
        | Value::Texts(_)
        | Value::Other(_)) => value,
    };
    let (name_at, value_at) = (move_range(entry.name_at), move_range(entry.value_at));
    Entry { name: entry.name, name_at, value, value_at }
}

/// `mistake` with its file and line.
fn render(mistake: Mistake, sources: &[Source]) -> String {
    match mistake.at {
        Spot::File(at) => {
            let source = source_of(sources, at.start);
            let at = Spot::File(at.start - source.begin..at.end - source.begin);
            Mistake { at, ..mistake }.render(&source.path.display().to_string(), &source.text)
        }
        Spot::Variable(_) => mistake.render("", ""),
    }
}

/// What `text` says, in the order in which it says it.
fn entries(text: &str) -> Result<Vec<Entry>, Mistake> {
    let table = DeTable::parse(text).map_err(|e| Mistake {
        reason: Reason::Syntax(e.message().replace('\n', ", ")),
        at: Spot::File(e.span().unwrap_or_default()),
    })?;
    let mut entries = Vec::new();
    collect("", table.get_ref(), &mut entries);
    entries.sort_by_key(|entry| entry.name_at.start);
    Ok(entries)
}

fn collect(prefix: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", segment(key.get_ref()));
        match value.get_ref() {
            // One that is not known is a mistake as a whole, where its name stands.
            DeValue::Table(inner) if config::is_table(&name) => collect(&format!("{name}."), inner, entries),
            _ => {
                entries.push(Entry { name, name_at: key.span(), value: read(value), value_at: value.span() })
            }
        }
    }
}

/// A part of a name as it can be written: one with a dot in it is not two parts.
fn segment(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

fn read(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number of this size"), Value::Integer),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(on) => Value::Switch(*on),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(all) => {
            let found = tables(all).map(Value::Tables).or_else(|| texts(all).map(Value::Texts));
            found.unwrap_or(Value::Other("a list"))
        }
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// The strings of a list that has nothing else in it.
fn texts(all: &[Spanned<DeValue<'_>>]) -> Option<Vec<String>> {
    let text = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    };
    all.iter().map(text).collect()
}

/// The tables of a list that has nothing else in it.
fn tables(all: &[Spanned<DeValue<'_>>]) -> Option<Vec<Table>> {
    let table = |value: &Spanned<DeValue<'_>>| {
        let DeValue::Table(inner) = value.get_ref() else { return None };
        let mut entries = Vec::new();
        collect("", inner, &mut entries);
        entries.sort_by_key(|entry| entry.name_at.start);
        Some(Table { at: value.span(), entries })
    };
    all.iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use model::config::{Field, Place};

    use super::*;

    fn mistakes(text: &[u8]) -> String {
        check(vec![("config.toml".into(), text.to_owned())], |_| None).unwrap_err().to_string()
    }

    #[test]
    fn each_of_two_files_has_its_lines() {
        let files = |first: &str, second: &str| {
            let file = |name: &str, text: &str| (name.into(), text.as_bytes().to_owned());
            check(vec![file("/etc/c", first), file("/own/c", second)], |_| None)
        };
        let first = "# all\nstop_timeout = '2m'\nboot_timeout = '3m'\n";
        let loaded = files(first, "\n\nstop_timeout = '5s'\n").unwrap();
        let place = |field| match loaded.checked.place(field) {
            Some(Place::File(at)) => loaded.line(*at),
            other => panic!("{other:?}"),
        };
        assert_eq!(place(Field::StopTimeout), ("/own/c".to_owned(), 3));
        assert_eq!(place(Field::BootTimeout), ("/etc/c".to_owned(), 3));
        let told = files("vmmm = 'qemu'", "[[file_sync]]\nhost = 1\n").unwrap_err().to_string();
        insta::assert_snapshot!(told, @r"
        /etc/c:1:1: unknown key `vmmm`; is `vmm` meant?
          |
        1 | vmmm = 'qemu'
          | ^^^^
        /own/c:2:8: `file_sync` entry 1: `host` is a string
          |
        2 | host = 1
          |        ^
        ");
        assert!(files("", "a = [1,").unwrap_err().to_string().starts_with("/own/c:1:8"));
    }

    #[test]
    fn every_form_of_a_file_becomes_entries() {
        // A dotted key and a table of the same name cannot stand together; that is the parser's to say.
        assert!(entries("vm_defaults.vcpu = 2\n[vm_defaults]\nmemory = \"1G\"\n").is_err());
        let text = "vmm = 'qemu'\n[vm_defaults]\nvcpu = 0x2\nmemory = \"1G\"\n\
                    [jailer]\nmode = 1\n[[file_sync]]\na = 1\n[vmm_]\n\
                    [network]\nupstream_dns = [\"a\", 'b']\n[n]\n";
        let mut found: Vec<_> = entries(text).unwrap().into_iter().map(|e| (e.name, e.value)).collect();
        let Value::Tables(tables) = &mut found[4].1 else { panic!("{found:?}") };
        let table = tables.pop().unwrap();
        assert_eq!(&text[table.at.clone()], "[[file_sync]]");
        assert_eq!((&*table.entries[0].name, &table.entries[0].value), ("a", &Value::Integer(1)));
        let expect = [
            ("vmm", Value::Text("qemu".into())),
            ("vm_defaults.vcpu", Value::Integer(2)),
            ("vm_defaults.memory", Value::Text("1G".into())),
            ("jailer", Value::Other("a table")),
            ("file_sync", Value::Tables(vec![])),
            ("vmm_", Value::Other("a table")),
            ("network.upstream_dns", Value::Texts(vec!["a".into(), "b".into()])),
            ("n", Value::Other("a table")),
        ];
        assert_eq!(found, expect.map(|(name, value)| (name.to_owned(), value)));
        let spans: Vec<_> =
            entries(text).unwrap().into_iter().map(|e| (&text[e.name_at], &text[e.value_at])).collect();
        assert_eq!(&spans[..2], [("vmm", "'qemu'"), ("vcpu", "0x2")]);
        for same in ["vm_defaults.vcpu = 2", "vm_defaults = { vcpu = 2 }", "[vm_defaults]\n\"vcpu\" = 2"] {
            let found = entries(same).unwrap();
            assert_eq!((found.len(), found[0].name.as_str()), (1, "vm_defaults.vcpu"), "{same}");
        }
        assert_eq!(entries("\"vm_defaults.vcpu\" = 2").unwrap()[0].name, "\"vm_defaults.vcpu\"");
        assert_eq!(entries("vmm = ['a', 1]").unwrap()[0].value, Value::Other("a list"));
        assert_eq!(entries("# nothing\n[vm_defaults]\n"), Ok(Vec::new()));
    }

    #[test]
    fn every_mistake_has_its_line_and_a_caret() {
        let text = "# mine\ndefalt_image = 'x'\nstop_timeout = 10\nlog_level = { a = 1 }\n\n\
                    [jailer]\nbin = '/opt/jailer'\n\n[vm_defaults]\n\tmemory = \"0G\"\nvmm = 'qemu'\n";
        insta::assert_snapshot!(mistakes(text.as_bytes()), @r#"
        config.toml:2:1: unknown key `defalt_image`; is `default_image` meant?
          |
        2 | defalt_image = 'x'
          | ^^^^^^^^^^^^
        config.toml:3:16: `stop_timeout`: a time is a whole number and a unit: 10s, 5m, 2h (1s to 24h)
          |
        3 | stop_timeout = 10
          |                ^^
        config.toml:4:13: `log_level`: it cannot be a table
          |
        4 | log_level = { a = 1 }
          |             ^^^^^^^^^
        config.toml:6:2: `jailer` is not supported by this version
          |
        6 | [jailer]
          |  ^^^^^^
        config.toml:10:11: `vm_defaults.memory`: a size must be more than zero
           |
        10 |  memory = "0G"
           |           ^^^^
        and 1 more
        "#);
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        for (text, expect) in [
            (
                &b"a = [1,\n"[..],
                "config.toml:1:8: unclosed array, expected `]`\n  |\n1 | a = [1,\n  |        ^",
            ),
            (b"vmm = 1\nvmm = 2\n", "config.toml:2:1: duplicate key\n  |\n2 | vmm = 2\n  | ^^^"),
            (b"# \xff\n", "config.toml:1:3: this is not UTF-8\n  |\n1 | # \u{fffd}\n  |   ^"),
            (
                b"vm_defaults = 1",
                "config.toml:1:1: `vm_defaults` is a table: write [vm_defaults], and its keys below\n  |\n1 | vm_defaults = 1\n  | ^^^^^^^^^^^",
            ),
        ] {
            assert_eq!(mistakes(text), expect);
        }
    }

    #[test]
    fn a_flood_of_mistakes_is_cut() {
        let text: String = (0..9).map(|number| format!("x{number} = 1\n")).collect();
        let told = mistakes(text.as_bytes());
        assert_eq!(told.lines().count(), SHOWN * 4 + 1);
        assert_eq!(told.lines().last(), Some("and 4 more"));
    }
}
