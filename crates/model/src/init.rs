//! Which init an image has, and whether a guest can be left to it.
//!
//! An image for containers often has busybox' init, and a table that starts what is not there: such a guest would do nothing
//! but complain, so it gets the agent instead.

/// Where images have their init.
pub const PROGRAM: &str = "/sbin/init";
/// What sysvinit and busybox do.
pub const TABLE: &str = "/etc/inittab";
/// The most of the table that is looked at, in bytes.
pub const LONGEST_TABLE: u64 = 64 << 10;

/// An init that starts an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Init {
    /// systemd.
    Systemd,
    /// sysvinit, or another that reads the same table.
    Sysvinit,
    /// openrc, or another init whose table starts it.
    Openrc,
}

impl Init {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Systemd, Self::Sysvinit, Self::Openrc];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Sysvinit => "sysvinit",
            Self::Openrc => "openrc",
        }
    }

    /// The init that the program with this file name, all links followed, is by its name alone.
    #[must_use]
    pub fn of_program(name: &[u8]) -> Option<Self> {
        match name {
            b"systemd" => Some(Self::Systemd),
            b"openrc-init" => Some(Self::Openrc),
            _ => None,
        }
    }

    /// The init that reads [`TABLE`] with this content, where all that the table starts first `exists`.
    ///
    /// # Errors
    /// Those of `exists`.
    pub fn of_table<E>(
        table: &[u8],
        mut exists: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<Option<Self>, E> {
        let mut found = None;
        for program in first_programs(table) {
            if !program.starts_with(b"/") || !exists(program)? {
                return Ok(None);
            }
            let name = program.rsplit(|byte| *byte == b'/').next();
            if matches!(name, Some(b"openrc" | b"rc")) {
                found = Some(Self::Openrc);
            }
            found = found.or(Some(Self::Sysvinit));
        }
        Ok(found)
    }
}

/// The programs of the lines `id:runlevels:sysinit:program arguments`.
fn first_programs(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.trim_ascii();
        let mut fields = line.splitn(4, |byte| *byte == b':');
        let action = fields.nth(2).filter(|_| !line.starts_with(b"#"))?;
        let process = fields.next().filter(|_| action == b"sysinit")?.trim_ascii();
        // busybox: a hyphen before the program makes it a login shell.
        let process = process.strip_prefix(b"-").unwrap_or(process);
        process.split(u8::is_ascii_whitespace).next()
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn tables() {
        let check = |table: &str, expected: &[&str]| {
            let found: Vec<_> =
                first_programs(table.as_bytes()).map(|p| p.escape_ascii().to_string()).collect();
            assert_eq!(found, expected, "{table}");
        };
        check("", &[]);
        check("# si::sysinit:/etc/init.d/rcS\nid:2:initdefault:\n", &[]);
        check(
            "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\nl0:0:wait:/etc/init.d/rc 0\n",
            &["/etc/init.d/rcS"],
        );
        check(
            "::sysinit:/sbin/openrc sysinit\n  ::sysinit: -/sbin/openrc boot",
            &["/sbin/openrc", "/sbin/openrc"],
        );
        check("sysinit:\n:::\n::sysinit:\n", &[""]);
    }

    #[test]
    fn an_init_whose_first_programs_are_not_there_starts_nothing() {
        let of = |table: &str, there: &[&str]| {
            let exists = |program: &[u8]| Ok::<_, Infallible>(there.iter().any(|p| p.as_bytes() == program));
            Init::of_table(table.as_bytes(), exists).unwrap()
        };
        let openrc = "::sysinit:/sbin/openrc sysinit\n::sysinit:/bin/mount -a\n";
        assert_eq!(of(openrc, &["/sbin/openrc", "/bin/mount"]), Some(Init::Openrc));
        assert_eq!(of(openrc, &["/sbin/openrc"]), None);
        assert_eq!(of("si::sysinit:/etc/init.d/rcS", &["/etc/init.d/rcS"]), Some(Init::Sysvinit));
        assert_eq!(of("::sysinit:\n", &[""]), None);
        assert_eq!(of("tty1::respawn:/sbin/getty", &["/sbin/getty"]), None);
    }

    #[test]
    fn names() {
        assert_eq!(Init::of_program(b"systemd"), Some(Init::Systemd));
        assert_eq!(Init::of_program(b"busybox"), None);
        assert_eq!(Init::ALL.map(Init::name), ["systemd", "sysvinit", "openrc"]);
    }
}
