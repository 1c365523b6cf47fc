//! Names that people give to things. A name is checked once, where it enters, and is never normalised.

use std::fmt;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// It has no characters.
    Empty,
    /// It has more than `max` bytes.
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
    /// It contains a character that is not allowed.
    Character {
        /// The first such character.
        found: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
    /// It begins or ends with a character that may only stand inside.
    Edge {
        /// The character in question.
        found: char,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty"),
            Self::TooLong { max } => write!(f, "it is longer than {max} characters"),
            Self::Character { found, allowed } => {
                write!(f, "{:?} is not allowed; use {allowed}", found)
            }
            Self::Edge { found } => write!(f, "it may not begin or end with {found:?}"),
        }
    }
}

impl std::error::Error for NameError {}

const LABEL: &str = "a-z, 0-9 and -";
const STORE: &str = "a-z, 0-9, -, . and _";

fn check(text: &str, max: usize, inner: &[char], allowed: &'static str) -> Result<(), NameError> {
    let (Some(first), Some(last)) = (text.chars().next(), text.chars().last()) else {
        return Err(NameError::Empty);
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some(found) = text.chars().find(|&c| !plain(c) && !inner.contains(&c)) {
        return Err(NameError::Character { found, allowed });
    }
    if text.len() > max {
        return Err(NameError::TooLong { max });
    }
    match [first, last].into_iter().find(|&c| !plain(c)) {
        Some(found) => Err(NameError::Edge { found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:expr, $inner:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                check(text, $max, $inner, $allowed)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A VM's name: a DNS label (RFC 1123), 1–63 of `[a-z0-9-]`, no hyphen at either end. It goes into hostnames and DNS.
    VmName, 63, &['-'], LABEL
);
name!(
    /// The name of a group of VMs; the same rule as for [`VmName`].
    GroupName, 63, &['-'], LABEL
);
name!(
    /// An image's name in the store: 1–128 of `[a-z0-9._-]`, beginning and ending with a letter or digit. It names a directory.
    ImageName, 128, &['-', '.', '_'], STORE
);
name!(
    /// A kernel's name in the store; the same rule as for [`ImageName`].
    KernelName, 128, &['-', '.', '_'], STORE
);
name!(
    /// A snapshot's name; the same rule as for [`ImageName`].
    SnapshotName, 128, &['-', '.', '_'], STORE
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_are_dns_labels() {
        for good in ["a", "dev", "a-b", "0", "beta-sandbox", &"x".repeat(63)] {
            assert_eq!(VmName::try_from(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        let character = |found| Err(NameError::Character { found, allowed: LABEL });
        for (bad, why) in [
            ("", Err(NameError::Empty)),
            ("-a", Err(NameError::Edge { found: '-' })),
            ("a-", Err(NameError::Edge { found: '-' })),
            ("Dev", character('D')),
            ("a.b", character('.')),
            ("a b", character(' ')),
            ("a/b", character('/')),
            ("é", character('é')),
            ("a\n", character('\n')),
            (&"x".repeat(64), Err(NameError::TooLong { max: 63 })),
        ] {
            assert_eq!(VmName::try_from(bad), why, "{bad:?}");
        }
    }

    #[test]
    fn store_names_cannot_leave_their_directory() {
        for good in ["debian-bookworm", "alpine_3.20", "a"] {
            assert!(ImageName::try_from(good).is_ok(), "{good:?}");
        }
        for bad in [".", "..", "../x", ".hidden", "a/b", "a.", ""] {
            assert!(ImageName::try_from(bad).is_err(), "{bad:?}");
            assert!(KernelName::try_from(bad).is_err(), "{bad:?}");
            assert!(SnapshotName::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
