//! What is asked of every VMM's program before it is used: where it is, which version, and whether guests run with KVM.

use std::{
    ffi::OsStr,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use host::{
    env, fs,
    proc::{Command, ProcessId, Program, find as find_program},
};

use crate::{Accelerator, ring};

/// Also without these in PATH, as in a service's environment.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin";
/// How long a program may take to say its version.
const VERSION: Duration = Duration::from_secs(10);
/// How long the guest of a probe may run. It needs a tenth of a second.
pub(crate) const GUEST: Duration = Duration::from_secs(3);
/// The additions in memory that the guest of a probe does: a processor takes 0.03 s for them, one that is interpreted
/// an instruction at a time more than twenty.
pub(crate) const STEPS: u32 = 1 << 24;

/// How a VMM is looked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured program; else it is searched in PATH.
    pub program: Option<PathBuf>,
    /// The configured accelerator; else it is KVM where guests run with it.
    pub accelerator: Option<Accelerator>,
    /// Where the answer about KVM is kept until the host's next boot. It exists.
    pub cache_dir: PathBuf,
}

/// A VMM's program.
#[derive(Debug)]
pub(crate) struct Product {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its file.
    pub(crate) program: &'static str,
    /// How it is started.
    pub(crate) start: fn(PathBuf) -> Program,
    /// What stands before the version that it tells.
    pub(crate) before_version: &'static str,
    /// The oldest version that is known to work: major and minor.
    pub(crate) oldest: (u32, u32),
    /// The newest version that the tests have run with.
    pub(crate) newest: (u32, u32),
    /// How to get it.
    pub(crate) install: &'static str,
    /// What to do about a program that is another one.
    pub(crate) check: &'static str,
}

/// Why a VMM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// None was found.
    #[error("{program} is not installed")]
    Missing {
        /// The file that was searched.
        program: &'static str,
        /// How to get it.
        install: &'static str,
    },
    /// It cannot be executed.
    #[error("cannot ask {} for its version", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// What to look at.
        check: &'static str,
        /// What happened instead.
        #[source]
        cause: host::Error,
    },
    /// It is something else.
    #[error("{} is not {name}: it says {said:?}", program.display())]
    Foreign {
        /// The program.
        program: PathBuf,
        /// What it should be.
        name: &'static str,
        /// Its answer.
        said: String,
        /// What to look at.
        check: &'static str,
    },
    /// It is too old.
    #[error("{} is {name} {version}; {}.{} or newer is needed", program.display(), oldest.0, oldest.1)]
    TooOld {
        /// The program.
        program: PathBuf,
        /// What it is.
        name: &'static str,
        /// Its version.
        version: String,
        /// The oldest that is known to work: major and minor.
        oldest: (u32, u32),
        /// How to get another one.
        install: &'static str,
    },
    /// It needs KVM, which runs no guests.
    #[error("{name} needs KVM, which cannot be used: {why}")]
    NoKvm {
        /// The VMM.
        name: &'static str,
        /// What is wrong with KVM.
        why: String,
    },
}

impl ProbeError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { install, .. } | Self::TooOld { install, .. } => install,
            Self::Execute { check, .. } | Self::Foreign { check, .. } => check,
            Self::NoKvm { .. } => {
                "--vmm qemu runs it in software; `banger doctor` says what there is to do about KVM"
            }
        }
    }
}

impl Product {
    /// The program that is used where none is configured. It is not looked at.
    pub(crate) fn installed(&self) -> Option<PathBuf> {
        let path = env::var("PATH").unwrap_or_default();
        find_program(self.program, &path).or_else(|| find_program(self.program, OsStr::new(USUAL)))
    }

    /// The program that `settings` leads to, and its version.
    pub(crate) fn find(&self, settings: &Settings) -> Result<(PathBuf, String), ProbeError> {
        let missing = ProbeError::Missing { program: self.program, install: self.install };
        let program = settings.program.clone().or_else(|| self.installed()).ok_or(missing)?;
        let version = self.version(&program)?;
        Ok((program, version))
    }

    fn version(&self, program: &Path) -> Result<String, ProbeError> {
        let command = Command::new((self.start)(program.to_owned())).arg("--version");
        let output = command.output(4096, VERSION).map_err(|cause| ProbeError::Execute {
            program: program.to_owned(),
            check: self.check,
            cause,
        })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Some((version, number)) = self.parse_version(&said).filter(|_| output.exit.success()) else {
            let said = ring::lines_of(said.as_bytes(), usize::MAX).into_iter().next().unwrap_or_default();
            let (program, name, check) = (program.to_owned(), self.name, self.check);
            return Err(ProbeError::Foreign { program, name, said, check });
        };
        if number < self.oldest {
            let (program, name) = (program.to_owned(), self.name);
            let (oldest, install) = (self.oldest, self.install);
            return Err(ProbeError::TooOld { program, name, version, oldest, install });
        }
        Ok(version)
    }

    /// The newest version that the tests have run with, where `version` is newer.
    pub(crate) fn untested(&self, version: &str) -> Option<(u32, u32)> {
        let (_, number) = self.parse_version(&format!("{}{version}", self.before_version))?;
        (number > self.newest).then_some(self.newest)
    }

    /// The version that `text` tells, whole and as major and minor.
    fn parse_version(&self, text: &str) -> Option<(String, (u32, u32))> {
        let version = text.strip_prefix(self.before_version)?.split_whitespace().next()?;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        Some((version.to_owned(), (numbers.next()??, numbers.next()??)))
    }
}

/// Why guests do not run with KVM, `None` where they do. `run_guest` finds out; its answer for the same boot of the host, `version`
/// and `program` is remembered in `file`.
pub(crate) fn why_not_kvm(
    (program, version): (&Path, &str),
    file: &Path,
    run_guest: impl FnOnce() -> Option<String>,
) -> Option<String> {
    if let Err(error) = fs::open_rw("/dev/kvm".as_ref()) {
        // Quick to tell and quick to change, so never remembered.
        return Some(match error.kind() {
            ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
            ErrorKind::PermissionDenied => {
                "this user may not open /dev/kvm (members of the group kvm may)".to_owned()
            }
            kind => format!("/dev/kvm cannot be opened: {kind}"),
        });
    }
    let boot = ProcessId::own().map(|id| id.boot).unwrap_or_default();
    let question = format!("{boot} {version} {} {STEPS}\n", program.display());
    if let Some(answer) = fs::read_text(file).ok().as_deref().and_then(|text| text.strip_prefix(&question)) {
        return (answer != "usable").then(|| answer.to_owned());
    }
    let answer = run_guest();
    // Without the cache the next one asks again.
    let _ = fs::write_atomic(file, (question + answer.as_deref().unwrap_or("usable")).as_bytes());
    answer
}

/// Runs `command`, a VMM with the guest of a probe; why it did not come to its `good` end.
pub(crate) fn run_guest(command: Command, good: host::proc::Exit) -> Option<String> {
    match command.output(16 << 10, GUEST) {
        Ok(output) if output.exit == good => None,
        Ok(output) => {
            let said = ring::lines_of(&[output.stderr, output.stdout].concat(), 1).concat();
            Some(format!("a test guest did not run ({}): {said}", output.exit))
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            Some(format!("a test guest did not end within {GUEST:?}"))
        }
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{firecracker, qemu};

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n";
        for (product, text, expect) in [
            (&qemu::PRODUCT, debian, Some(("7.2.22", (7, 2)))),
            (&qemu::PRODUCT, "QEMU emulator version 10.0.2\n", Some(("10.0.2", (10, 0)))),
            (&qemu::PRODUCT, "", None),
            (&qemu::PRODUCT, "QEMU emulator version ", None),
            (&qemu::PRODUCT, "QEMU emulator version x.y", None),
            (&qemu::PRODUCT, "Firecracker v1.12.1", None),
            (
                &firecracker::PRODUCT,
                "Firecracker v1.12.1\n\n2025-07-04 exit_code=0\n",
                Some(("1.12.1", (1, 12))),
            ),
            (&firecracker::PRODUCT, "Firecracker v1.17.0-dev\n", Some(("1.17.0-dev", (1, 17)))),
            (&firecracker::PRODUCT, "jailer v1.12.1", None),
        ] {
            let expect = expect.map(|(version, number)| (version.to_owned(), number));
            assert_eq!(product.parse_version(text), expect, "{text:?}");
        }
    }

    #[test]
    fn newer_ones_than_were_tested_are_known() {
        for (product, version, expect) in [
            (&qemu::PRODUCT, "7.2.22", None),
            (&qemu::PRODUCT, "10.0.2", Some((7, 2))),
            (&firecracker::PRODUCT, "1.8.0", None),
            (&firecracker::PRODUCT, "1.12.1", None),
            (&firecracker::PRODUCT, "1.17.0-dev", Some((1, 12))),
        ] {
            assert_eq!(product.untested(version), expect, "{version}");
        }
    }
}
