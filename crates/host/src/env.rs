//! The environment of this process, read at its edge and passed on as values.

use std::ffi::OsString;

/// The variable `name`, where it is set and not empty.
#[must_use]
pub fn var(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The variable `name` where it is text.
#[must_use]
pub fn text(name: &str) -> Option<String> {
    var(name).and_then(|value| value.into_string().ok())
}

/// The names of the variables that are set and begin with `prefix`, sorted.
#[must_use]
pub fn names(prefix: &str) -> Vec<String> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<_> = set.filter(|name| name.starts_with(prefix)).collect();
    names.sort_unstable();
    names
}
