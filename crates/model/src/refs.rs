//! How a REF that a user typed finds one VM: an exact id, else an exact name, else a prefix of exactly one.

use crate::{VmId, VmName};

/// Why a REF names no single VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefError {
    /// Nothing has this id, name or prefix.
    Unknown,
    /// More than one VM begins so; the candidates in the order given.
    Ambiguous(Vec<(VmId, VmName)>),
}

/// The VM that `text` refers to among `all`.
///
/// # Errors
/// [`RefError`] when it is none or more than one.
pub fn resolve(all: &[(VmId, VmName)], text: &str) -> Result<VmId, RefError> {
    if text.is_empty() {
        return Err(RefError::Unknown);
    }
    let exact = all
        .iter()
        .find(|(id, _)| id.to_string() == text)
        .or_else(|| all.iter().find(|(_, name)| name.as_str() == text));
    if let Some((id, _)) = exact {
        return Ok(*id);
    }
    let begins =
        |(id, name): &&(VmId, VmName)| id.to_string().starts_with(text) || name.as_str().starts_with(text);
    let found: Vec<_> = all.iter().filter(begins).cloned().collect();
    match found.as_slice() {
        [] => Err(RefError::Unknown),
        [(id, _)] => Ok(*id),
        _ => Err(RefError::Ambiguous(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_beats_name_beats_prefix() {
        let vm = |id: &str, name: &str| (VmId::try_from(id).unwrap(), VmName::try_from(name).unwrap());
        // The second VM's name is the first one's id, the third one's name begins with the fourth one's.
        let all = [
            vm("aaaaaaaaaaaa", "one"),
            vm("bbbbbbbbbbbb", "aaaaaaaaaaaa"),
            vm("cccccccccccc", "beta-sandbox"),
            vm("dddddddddddd", "beta"),
        ];
        let ok = |text: &str| resolve(&all, text).unwrap().to_string();
        assert_eq!(ok("aaaaaaaaaaaa"), "aaaaaaaaaaaa");
        assert_eq!(ok("beta"), "dddddddddddd");
        assert_eq!(ok("beta-"), "cccccccccccc");
        assert_eq!(ok("cc"), "cccccccccccc");
        assert_eq!(resolve(&all, "be"), Err(RefError::Ambiguous(vec![all[2].clone(), all[3].clone()])));
        assert_eq!(resolve(&all, "zz"), Err(RefError::Unknown));
        assert_eq!(resolve(&all, ""), Err(RefError::Unknown));
    }
}
