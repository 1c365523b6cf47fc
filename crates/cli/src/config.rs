//! Reading `config.toml`. What is in it means what `model::config` says.

use std::path::PathBuf;

use host::{dirs::Dirs, fs};
use model::config::{self, Config, Entry, FILE, Mistake, Reason, Spot, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::error::Error;

/// The most bytes of a file that is read.
const LIMIT: u64 = 1 << 20;

/// The settings with the file that they were read from.
#[derive(Debug)]
pub struct Loaded {
    /// The file, whether it is there or not.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// What it and the environment say.
    pub config: Config,
}

/// The settings of this user.
///
/// # Errors
/// Where the file cannot be read, or there is a mistake in it or in the environment.
pub fn load(dirs: &Dirs) -> Result<Loaded, Error> {
    let path = dirs.config.join(FILE);
    let bytes = match fs::read_limited(&path, LIMIT) {
        Err(e) if e.is_missing() => Vec::new(),
        other => other?,
    };
    let name = path.display().to_string();
    let told = |mistakes: Vec<Mistake>, text: &str| {
        Error::Config(mistakes.iter().map(|mistake| mistake.render(&name, text)).collect())
    };
    let text = String::from_utf8(bytes).map_err(|e| {
        let text = String::from_utf8_lossy(e.as_bytes());
        let at = Spot::File(e.utf8_error().valid_up_to()..e.utf8_error().valid_up_to());
        told(vec![Mistake { reason: Reason::Syntax("this is not UTF-8".to_owned()), at }], &text)
    })?;
    let entries = entries(&text).map_err(|mistake| told(vec![mistake], &text))?;
    let config = config::check(entries, host::env::text).map_err(|mistakes| told(mistakes, &text))?;
    Ok(Loaded { path, text, config })
}

/// What `text` says, table by table.
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
        let name = format!("{prefix}{}", key.get_ref());
        if let (DeValue::Table(inner), false) = (value.get_ref(), prefix.contains('.')) {
            collect(&format!("{name}."), inner, entries);
            // An empty table says nothing, but one that does not exist is a mistake all the same.
            if !inner.is_empty() || config::KEYS.iter().any(|key| key.name.starts_with(&format!("{name}."))) {
                continue;
            }
        }
        entries.push(Entry { name, name_at: key.span(), value: read(value), value_at: value.span() });
    }
}

fn read(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number of this size"), Value::Integer),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(_) => Value::Other("a boolean"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(_) => Value::Other("a list"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_file_becomes_entries() {
        let text = "vmm = 'qemu'\nvm_defaults.vcpu = 0x2\n[vm_defaults]\nmemory = \"1G\"\n";
        // A dotted key and a table of the same name cannot stand together; that is the parser's to say.
        assert!(entries(text).is_err());
        let text =
            "vmm = 'qemu'\n[vm_defaults]\nvcpu = 0x2\nmemory = \"1G\"\n[network]\n[[file_sync]]\na = 1\n";
        let found: Vec<_> = entries(text).unwrap().into_iter().map(|e| (e.name, e.value)).collect();
        let expect = [
            ("vmm", Value::Text("qemu".into())),
            ("vm_defaults.vcpu", Value::Integer(2)),
            ("vm_defaults.memory", Value::Text("1G".into())),
            ("network", Value::Other("a table")),
            ("file_sync", Value::Other("a list")),
        ];
        assert_eq!(found, expect.map(|(name, value)| (name.to_owned(), value)));
        let spans: Vec<_> =
            entries(text).unwrap().into_iter().map(|e| (&text[e.name_at], &text[e.value_at])).collect();
        assert_eq!(&spans[..2], [("vmm", "'qemu'"), ("vcpu", "0x2")]);
    }
}
