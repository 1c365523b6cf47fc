//! Which program becomes PID 1.

use std::{
    convert::Infallible,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use host::{Error, Result};
use model::init;
use wire::guest::{Init, InitKind};

use crate::root::Root;

/// What becomes PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What it is.
    pub kind: InitKind,
    /// The program; `None` where the agent stays.
    pub program: Option<PathBuf>,
}

impl Choice {
    fn agent() -> Self {
        Self { kind: InitKind::Agent, program: None }
    }

    fn program(kind: InitKind, path: &Path) -> Self {
        Self { kind, program: Some(path.to_owned()) }
    }
}

/// Chooses the init of the image in `root`.
///
/// By itself only an init that will really start the image.
///
/// # Errors
/// Where the one that is asked for is not there.
pub fn choose(root: &Root, wish: &Init) -> Result<Choice> {
    match wish {
        Init::Agent => Ok(Choice::agent()),
        Init::Path(path) => {
            let path = Path::new(path);
            if !root.is_program(path) {
                let cause = io::Error::new(io::ErrorKind::NotFound, "the image has no such program");
                return Err(Error::path("run init", path, cause));
            }
            Ok(Choice::program(kind(root, path).unwrap_or(InitKind::Other), path))
        }
        Init::Auto => {
            let path = Path::new(init::PROGRAM);
            let kind = Some(path).filter(|path| root.is_program(path)).and_then(|path| kind(root, path));
            Ok(kind.map_or_else(Choice::agent, |kind| Choice::program(kind, path)))
        }
    }
}

/// Which init the program at `path` is, as far as it can be told.
fn kind(root: &Root, path: &Path) -> Option<InitKind> {
    let real = root.real_path(path)?;
    let known = init::Init::of_program(real.file_name()?.as_bytes()).or_else(|| {
        let table = root.read(Path::new(init::TABLE), init::LONGEST_TABLE)?;
        let exists = |program: &[u8]| Ok(root.is_program(Path::new(OsStr::from_bytes(program))));
        init::Init::of_table(&table, exists).unwrap_or_else(|never: Infallible| match never {})
    })?;
    Some(match known {
        init::Init::Systemd => InitKind::Systemd,
        init::Init::Sysvinit => InitKind::Sysvinit,
        init::Init::Openrc => InitKind::Openrc,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A root with these programs, links and this inittab.
    struct Image(PathBuf);

    impl Image {
        fn new(name: &str, programs: &[&str], links: &[(&str, &str)], inittab: Option<&str>) -> Self {
            let dir = std::env::temp_dir().join(format!("banger-agent-init-{name}-{}", std::process::id()));
            host::fs::remove_all(&dir).unwrap();
            host::fs::private_dir(&dir).unwrap();
            let place = |path: &str| {
                let path = dir.join(path);
                host::fs::private_dir(path.parent().unwrap()).unwrap();
                path
            };
            for program in programs {
                let path = place(program);
                host::fs::write_atomic(&path, b"x").unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            for (link, target) in links {
                symlink(target, place(link)).unwrap();
            }
            if let Some(text) = inittab {
                host::fs::write_atomic(&place("etc/inittab"), text.as_bytes()).unwrap();
            }
            Self(dir)
        }

        #[track_caller]
        fn check(self, expect: InitKind) {
            let choice = choose(&Root::open(&self.0).unwrap(), &Init::Auto).unwrap();
            assert_eq!(choice.kind, expect);
            assert_eq!(choice.program.is_none(), expect == InitKind::Agent);
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            host::fs::remove_all(&self.0).unwrap();
        }
    }

    const ALPINE: &str = "# /etc/inittab\n::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\n\
                          tty1::respawn:/sbin/getty 38400 tty1\n";
    const DEBIAN: &str =
        "# comment\nid:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\n1:2345:respawn:/sbin/getty 38400 tty1\n";

    #[test]
    fn systemd_is_found_through_its_links() {
        let links = [("sbin", "usr/sbin"), ("usr/sbin/init", "/lib/systemd/systemd"), ("lib", "usr/lib")];
        Image::new("systemd", &["usr/lib/systemd/systemd"], &links, None).check(InitKind::Systemd);
    }

    #[test]
    fn a_link_out_of_the_image_is_no_init() {
        let links = [("sbin/init", "../../../../../../../../../lib/systemd/systemd")];
        Image::new("out", &[], &links, None).check(InitKind::Agent);
    }

    #[test]
    fn a_bare_busybox_is_not_run() {
        let busybox = [("sbin/init", "/bin/busybox")];
        Image::new("bare", &["bin/busybox"], &busybox, Some(ALPINE)).check(InitKind::Agent);
        Image::new("no-tab", &["bin/busybox"], &busybox, None).check(InitKind::Agent);
    }

    #[test]
    fn openrc_and_sysvinit_are_run_when_their_first_program_exists() {
        let busybox = [("sbin/init", "/bin/busybox")];
        Image::new("openrc", &["bin/busybox", "sbin/openrc"], &busybox, Some(ALPINE)).check(InitKind::Openrc);
        Image::new("sysv", &["sbin/init", "etc/init.d/rcS"], &[], Some(DEBIAN)).check(InitKind::Sysvinit);
        Image::new("sysv-bare", &["sbin/init"], &[], Some(DEBIAN)).check(InitKind::Agent);
    }

    #[test]
    fn an_image_without_anything_keeps_the_agent() {
        Image::new("scratch", &["hello"], &[], None).check(InitKind::Agent);
    }

    #[test]
    fn a_named_init_must_be_there() {
        let image = Image::new("named", &["hello"], &[("i", "/hello")], None);
        let root = Root::open(&image.0).unwrap();
        let wish = |path: &str| choose(&root, &Init::Path(path.to_owned()));
        assert_eq!(wish("/i").unwrap(), Choice::program(InitKind::Other, Path::new("/i")));
        assert_eq!(wish("/nothing").unwrap_err().to_string(), "cannot run init /nothing");
    }
}
