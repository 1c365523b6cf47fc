//! Jails: each a directory, a user and a control group of its own, in which one Firecracker runs.
//!
//! ```text
//! jails/VM/slot                           whose user it is, then also which process
//! jails/VM/firecracker/VM/root/           the jail, as Firecracker's own jailer makes it; the user's alone
//!     kernel initrd image overlay work    what came along, mounted over empty files where the jail alone sees it
//!     api.sock agent.sock                 what Firecracker makes; its owner reaches it by a mount of this directory
//! ```
//! Each step is noted before it is taken, and [`Jails::unjail`] takes back whatever there is of one: after a failure, after the
//! helper was killed, and when it is asked for. The mounts are the process's and go with it. Nothing is remembered but in files, so
//! a helper that begins again knows all jails.

mod files;
mod group;
mod slot;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use host::{
    fs,
    mounts::{Access, Mount},
    proc::{Command, Devices, Mapping, Process, Program, UserMap},
};
use model::{VmId, signal::Signal};
use wire::helper::{Jail, JailFile, Jailed, Refusal};

use self::{
    files::Granted,
    group::{Group, Groups},
    slot::{Slot, Slots},
};
use crate::{
    install::Uids,
    network::{Network, NetworkError},
    places::Places,
};

/// How long a Firecracker that was killed may take to be gone: the kernel frees its memory first.
const GONE: Duration = Duration::from_secs(10);

/// Why there is no jail, or still one.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// It must not be.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Something of the host.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The file system cannot show the owner's files to the jail's user.
    #[error("the file system of {place} cannot map the users of a mount, which a jail needs")]
    NoMappedMounts {
        /// What lies there.
        place: String,
        /// What the kernel said.
        #[source]
        cause: host::Error,
    },
    /// Its user cannot have the tap.
    #[error("cannot lend the tap to the jail")]
    Tap(#[source] Box<NetworkError>),
    /// It does not end.
    #[error("process {0} of the jail does not end")]
    Endless(u32),
}

impl From<Refusal> for JailError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// All jails of an installation.
#[derive(Debug)]
pub struct Jails {
    owner: u32,
    /// Where banger's state lies, of which the files of machines are.
    state: PathBuf,
    firecracker: PathBuf,
    jailer: PathBuf,
    slots: Slots,
    groups: Option<Groups>,
    /// Those that this process itself started, which nobody else can reap.
    children: Vec<Process>,
}

/// A Firecracker in its jail, as it is handed over.
#[derive(Debug)]
pub struct Handed {
    /// Which process it is.
    pub process: Jailed,
    /// A pidfd of it, and its directory as the owner may use it.
    pub descriptors: [OwnedFd; 2],
}

impl Jails {
    /// The jails of `owner`, whose users are `uids`; without any there is none.
    #[must_use]
    pub fn new(owner: u32, uids: Option<Uids>, places: &Places) -> Self {
        Self {
            owner,
            state: places.state.clone(),
            firecracker: places.firecracker(),
            jailer: places.jailer(),
            slots: Slots::new(places.jails(), uids),
            groups: Groups::find(),
            children: Vec::new(),
        }
    }

    /// A Firecracker for `jail` runs in a jail of its own and waits to be told its machine; `given` is what it may use, and its tap
    /// is on `network`.
    ///
    /// # Errors
    /// Where something of that cannot be had; nothing of the jail is left then.
    pub fn jail(
        &mut self,
        jail: Jail,
        given: Vec<OwnedFd>,
        network: &mut Network,
    ) -> Result<Handed, JailError> {
        self.reap();
        let granted = files::check(&jail, given, self.owner, &self.state)?;
        let programs = self.programs()?;
        // Whoever asks again did not hear the answer.
        match self.find_jailed(jail.vm) {
            Err(JailError::Refused(Refusal::NotJailed)) => self.unjail(jail.vm)?,
            found => return found,
        }
        let slot = self.slots.take(jail.vm)?;
        let lent = if jail.card { network.lend_tap(jail.vm, slot.uid) } else { Ok(()) };
        let lent = lent.map_err(|error| match error {
            NetworkError::Refused(refusal) => JailError::Refused(refusal),
            error => JailError::Tap(Box::new(error)),
        });
        lent.and_then(|()| self.start(jail, &granted, &slot, &programs)).inspect_err(|_| {
            // What cannot be taken back now is when the VM's jail is asked for again, or is to go.
            let _ = self.unjail(jail.vm);
        })
    }

    /// Whether there are a Firecracker and a jailer that can be used.
    #[must_use]
    pub fn are_possible(&self) -> bool {
        self.programs().is_ok()
    }

    /// The Firecracker and the jailer, which only root can have put there.
    fn programs(&self) -> Result<[PathBuf; 2], JailError> {
        let trusted = |path: &Path| match fs::program_of_root(path) {
            Err(error) if error.is_missing() => Err(JailError::Refused(Refusal::NoJailer)),
            found => Ok(found?),
        };
        if !self.slots.are_possible() {
            return Err(Refusal::NoJailer.into());
        }
        Ok([trusted(&self.firecracker)?, trusted(&self.jailer)?])
    }

    fn start(
        &mut self,
        jail: Jail,
        granted: &[Granted],
        slot: &Slot,
        [firecracker, jailer]: &[PathBuf; 2],
    ) -> Result<Handed, JailError> {
        let (id, base) = (jail.vm.to_string(), self.slots.place(jail.vm));
        let root = root(&base, firecracker, &id);
        for made in [root.parent().and_then(Path::parent), root.parent(), Some(&*root)].into_iter().flatten()
        {
            fs::create_dir(made)?;
        }
        fs::give(&root, slot.uid)?;
        let mut mounts = Vec::new();
        for file in granted.iter() {
            let Some(name) = file.what.name() else { continue };
            let place = root.join(name);
            fs::create_new(&place)?;
            let access = if file.what.is_written() { Access::Write } else { Access::Read };
            let users = UserMap::new(
                Mapping { stored: self.owner, seen: slot.uid },
                Mapping { stored: file.group, seen: slot.uid },
            )?;
            mounts.push((mapped(file.found.as_fd(), &users, access, "the machine's files")?, place));
        }
        let stream = |what: JailFile| granted.iter().find(|file| file.what == what).map(Granted::stream);
        let uid = slot.uid.to_string();
        let mut command = Command::new(Program::Jailer(jailer.clone()))
            .args(["--id", &id, "--uid", &uid, "--gid", &uid])
            .arg("--exec-file")
            .arg(firecracker)
            .arg("--chroot-base-dir")
            .arg(&base)
            .args(["--", "--api-sock", "api.sock", "--log-path", "vmm.log", "--level", "Warning"]);
        if let Some(console) = stream(JailFile::Console).transpose()? {
            command = command.stdout(console);
        }
        if let Some(log) = stream(JailFile::Log).transpose()? {
            command = command.stderr(log);
        }
        let gated =
            command.jailed(mounts, if jail.card { Devices::Hosts } else { Devices::None })?.gated()?;
        if let Some(group) = self.group(jail.vm) {
            group.make(jail.processors, jail.memory_mib)?;
            group.add(gated.id().pid)?;
        }
        // From here on the process is found again by whoever looks for it, and it has executed nothing yet.
        self.slots.note(jail.vm, &Slot { process: Some(gated.id().clone()), ..slot.clone() })?;
        let process = gated.release()?;
        self.children.push(process.try_clone()?);
        // What the jailer does not like it says in the log, and then it ends: whoever asked sees both.
        self.hand_over(process, slot.uid, &root)
    }

    fn group(&self, vm: VmId) -> Option<Group> {
        self.groups.as_ref().map(|groups| groups.of(vm))
    }

    /// The Firecracker of `vm` that runs in a jail.
    ///
    /// # Errors
    /// Where there is none, or it cannot be handed over.
    pub fn find_jailed(&mut self, vm: VmId) -> Result<Handed, JailError> {
        let (process, uid) = self.running(vm)?;
        let base = self.slots.place(vm);
        // It has the name of the Firecracker that was there when it began.
        let directories = fs::list(&base)?.into_iter().filter(|path| fs::is_dir(path));
        let root =
            directories.map(|path| path.join(vm.to_string()).join("root")).find(|path| fs::is_dir(path));
        self.hand_over(process, uid, &root.ok_or(Refusal::NotJailed)?)
    }

    /// Sends `signal` to the Firecracker of `vm` that runs in a jail.
    ///
    /// # Errors
    /// Where there is none.
    pub fn signal(&mut self, vm: VmId, signal: Signal) -> Result<(), JailError> {
        Ok(self.running(vm)?.0.signal(signal)?)
    }

    /// What runs in the jail of `vm`, and as which user.
    fn running(&mut self, vm: VmId) -> Result<(Process, u32), JailError> {
        self.reap();
        let slot = self.slots.find(vm)?.ok_or(Refusal::NotJailed)?;
        let process = slot.process.map(|id| id.open()).transpose()?.flatten();
        Ok((process.ok_or(Refusal::NotJailed)?, slot.uid))
    }

    /// Hands over `process` and its jail at `root`, whose user is `uid`.
    fn hand_over(&self, process: Process, uid: u32, root: &Path) -> Result<Handed, JailError> {
        let root = fs::open_place(root)?;
        let users =
            UserMap::new(Mapping { stored: uid, seen: self.owner }, Mapping { stored: uid, seen: uid })?;
        let directory = mapped(root.as_fd(), &users, Access::Write, "jails")?;
        let id = process.id();
        let jailed = Jailed { pid: id.pid, start: id.start };
        Ok(Handed { process: jailed, descriptors: [process.into(), directory.into()] })
    }

    /// Neither a jail of `vm` nor anything in it is there.
    ///
    /// # Errors
    /// Where something of it stays.
    pub fn unjail(&mut self, vm: VmId) -> Result<(), JailError> {
        if let Some(process) = self.slots.find(vm)?.and_then(|slot| slot.process)
            && let Some(process) = process.open()?
        {
            process.signal(Signal::Kill)?;
            if !process.wait_exit(GONE)? {
                return Err(JailError::Endless(process.id().pid));
            }
        }
        self.reap();
        if let Some(group) = self.group(vm) {
            group.end(GONE)?;
        }
        Ok(self.slots.give_back(vm)?)
    }

    /// Whoever ended leaves nothing in the list of processes.
    fn reap(&mut self) {
        self.children.retain(|child| child.is_alive() || child.reap().is_err());
    }
}

/// Where the jailer makes the jail of `id`, below `base`.
fn root(base: &Path, firecracker: &Path, id: &str) -> PathBuf {
    base.join(firecracker.file_name().unwrap_or_default()).join(id).join("root")
}

fn mapped(file: impl AsFd, users: &UserMap, access: Access, place: &str) -> Result<Mount, JailError> {
    let mount = Mount::of(file)?;
    match mount.limit(users, access) {
        Ok(()) => Ok(mount),
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidInput => {
            Err(JailError::NoMappedMounts { place: place.to_owned(), cause })
        }
        Err(error) => Err(error.into()),
    }
}
