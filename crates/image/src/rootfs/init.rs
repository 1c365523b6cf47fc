//! Finds out which init an image has, and whether it can be left to run the guest.

use super::merge::Merge;
use crate::ext4;

/// The longest `/etc/inittab` that is looked at.
const LONGEST_TABLE: u64 = 64 << 10;

/// What becomes PID 1 of a guest that is told nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitKind {
    /// systemd.
    Systemd,
    /// sysvinit, or an init that reads the same table, whose sysinit programs exist.
    Sysvinit,
    /// openrc, or another init whose table starts it.
    Openrc,
    /// The agent: the image has no init, or one that is not set up. An image for containers often has busybox' init and a
    /// table that starts what is not there.
    Agent,
}

/// The init of the image in `merge`.
pub(super) fn detect(merge: &mut Merge) -> Result<InitKind, ext4::Error> {
    let Some(init) = merge.resolve(b"/sbin/init")?.filter(|node| merge.is_program(*node)) else {
        return Ok(InitKind::Agent);
    };
    match merge.tree().name(init) {
        b"systemd" => return Ok(InitKind::Systemd),
        b"openrc-init" => return Ok(InitKind::Openrc),
        _ => {}
    }
    let table = merge.content(b"/etc/inittab", LONGEST_TABLE)?.unwrap_or_default();
    let mut kind = InitKind::Agent;
    for program in sysinit_programs(&table) {
        match merge.resolve(program)? {
            None => return Ok(InitKind::Agent),
            Some(_) if program.ends_with(b"/openrc") => kind = InitKind::Openrc,
            Some(_) if kind == InitKind::Agent => kind = InitKind::Sysvinit,
            Some(_) => {}
        }
    }
    Ok(kind)
}

/// The programs of the lines `id:runlevels:sysinit:program arguments`.
fn sysinit_programs(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.trim_ascii();
        let mut fields = line.splitn(4, |byte| *byte == b':');
        let action = fields.nth(2).filter(|_| !line.starts_with(b"#"))?;
        let process = fields.next().filter(|_| action == b"sysinit")?;
        process.trim_ascii().split(u8::is_ascii_whitespace).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let check = |table: &str, expected: &[&str]| {
            let found: Vec<_> =
                sysinit_programs(table.as_bytes()).map(|p| p.escape_ascii().to_string()).collect();
            assert_eq!(found, expected, "{table}");
        };
        check("", &[]);
        check("# si::sysinit:/etc/init.d/rcS\nid:2:initdefault:\n", &[]);
        check(
            "id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\nl0:0:wait:/etc/init.d/rc 0\n",
            &["/etc/init.d/rcS"],
        );
        check(
            "::sysinit:/sbin/openrc sysinit\n  ::sysinit: /sbin/openrc boot",
            &["/sbin/openrc", "/sbin/openrc"],
        );
        check("sysinit:\n:::\n::sysinit:\n", &[""]);
    }
}
