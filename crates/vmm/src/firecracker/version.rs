//! What a Firecracker can do that not every one can: a table, by its version.
//!
//! The versions are those of its changelog. What one older than [`super::PRODUCT`]'s oldest cannot do is no row: it is not used.

/// A version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

/// Something that not every version does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ability {
    /// Goes on from a saved machine, with another tap than that one had. Before 1.16.1 one that is saved while its vsock sends may come
    /// back without (`docs/design/2026-12-01-firecracker-versions.md`).
    Restore,
    /// Gives memory that a guest has freed back to the host.
    FreePageReporting,
}

/// From which version on.
const SINCE: &[(Ability, Version)] =
    &[(Ability::Restore, Version(1, 12, 0)), (Ability::FreePageReporting, Version(1, 14, 0))];

impl Version {
    /// The one that `text` tells: `1.12.1`, `1.17.0-dev`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        let mut parts = text.splitn(3, '.').map(digits);
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// Whether it can do that.
    pub(super) fn can(self, ability: Ability) -> bool {
        SINCE.iter().any(|(what, since)| *what == ability && *since <= self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_tells_what_it_can() {
        for (text, expect) in [
            ("1.8.0", Some((Version(1, 8, 0), false, false))),
            ("1.11.9", Some((Version(1, 11, 9), false, false))),
            ("1.12.1", Some((Version(1, 12, 1), true, false))),
            ("1.14", Some((Version(1, 14, 0), true, true))),
            ("1.17.0-dev", Some((Version(1, 17, 0), true, true))),
            ("2.0.0", Some((Version(2, 0, 0), true, true))),
            ("1", None),
            ("", None),
            ("v1.2", None),
            ("99999999999.1", None),
        ] {
            let version = Version::parse(text);
            let can = |version: Version| {
                (version, version.can(Ability::Restore), version.can(Ability::FreePageReporting))
            };
            assert_eq!(version.map(can), expect, "{text:?}");
        }
    }
}
