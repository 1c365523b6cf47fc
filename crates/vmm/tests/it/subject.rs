//! A backend under test with all that its machines need, cleaned up and checked at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use host::proc::{ProcessId, Signal};
use model::{
    VmId, boot,
    boot::DiskRole,
    config::Limits,
    end::MachineEnd,
    network::{Card, Link, Mac},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
    time::timeout,
};
use vmm::{
    Accelerator, Backend, Channel, Disk, End, Machine, MachinePlan, Nic, Place, Settings,
    fake::{Control, Fake},
    firecracker::Firecracker,
    qemu::Qemu,
    ring,
};
use wire::session::Secret;

use crate::guest::{Guest, example};

/// What any wait of the suite may take on a busy machine: 90 s, or what `BANGER_TEST_DEADLINE` says in seconds, because a KVM may run
/// guests slowly.
pub fn deadline() -> Duration {
    let said = std::env::var("BANGER_TEST_DEADLINE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(said.unwrap_or(90))
}

/// Waits for `future`, at most for [`deadline`].
#[track_caller]
pub fn within<T>(what: &'static str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move { timeout(deadline(), future).await.unwrap_or_else(|_| panic!("{what} took too long at {caller}")) }
}

/// One backend and a directory.
pub struct Subject {
    pub backend: Box<dyn Backend>,
    guest: Option<&'static Guest>,
    directory: PathBuf,
    machines: AtomicU32,
}

impl Subject {
    pub fn new(name: &str, backend: Box<dyn Backend>, guest: Option<&'static Guest>) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        Self { backend, guest, directory, machines: AtomicU32::new(0) }
    }

    /// The fake with a guest that serves what the real one serves.
    pub fn fake(name: &str) -> Self {
        let guest = |stream, control| Box::pin(serve(stream, control)) as vmm::Future<'static, ()>;
        Self::new(&format!("fake-{name}"), Box::new(Fake::new(guest)), None)
    }

    /// QEMU in software, where it and a kernel are there.
    pub fn qemu(name: &str) -> Option<Self> {
        testkit::need::qemu()?;
        let guest = Guest::get()?;
        Some(Self::new(&format!("qemu-{name}"), Box::new(find(Some(Accelerator::Tcg))), Some(guest)))
    }

    /// QEMU with KVM, where its guests run with it.
    pub fn qemu_kvm(name: &str) -> Option<Self> {
        testkit::need::qemu()?;
        let qemu = find(None);
        if let Some(why) = &qemu.report().why_not_kvm {
            return testkit::need::missing("kvm", &format!("no usable KVM: {why}"));
        }
        Some(Self::new(&format!("kvm-{name}"), Box::new(qemu), Some(Guest::get()?)))
    }

    /// The Firecracker backend with a program that stands in for Firecracker.
    #[expect(clippy::unnecessary_wraps, reason = "as all subjects that a real guest is needed for")]
    pub fn stand_in(name: &str) -> Option<Self> {
        let program = example("stand_in_firecracker");
        Some(Self::new(&format!("stand-in-{name}"), Box::new(firecracker(program, Accelerator::Kvm)), None))
    }

    /// Firecracker itself, where it is there and KVM runs its guests; or, with `BANGER_TEST_FIRECRACKER` and
    /// `BANGER_TEST_FIRECRACKER_KERNEL`, that program with that kernel (an ELF file that needs no modules) on whatever KVM there is.
    pub fn firecracker(name: &str) -> Option<Self> {
        let name = format!("firecracker-{name}");
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        if let (Some(program), Some(kernel)) =
            (variable("BANGER_TEST_FIRECRACKER"), variable("BANGER_TEST_FIRECRACKER_KERNEL"))
        {
            let guest = Guest::get()?.with_kernel(kernel);
            let backend = Box::new(firecracker(program, Accelerator::Kvm));
            return Some(Self::new(&name, backend, Some(Box::leak(Box::new(guest)))));
        }
        let cache_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        match Firecracker::find(&Settings { program: None, accelerator: None, cache_dir }) {
            Ok(backend) => Some(Self::new(&name, Box::new(backend), Some(Guest::get()?))),
            Err(error) => testkit::need::missing("firecracker", &format!("no usable Firecracker: {error}")),
        }
    }

    /// A machine to be.
    pub fn plan(&self) -> MachinePlan {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        let run_dir = self.directory.join(format!("run-{number}"));
        let log_dir = self.directory.join(format!("log-{number}"));
        fs::create_dir(&run_dir).unwrap();
        fs::create_dir(&log_dir).unwrap();
        let secret = Secret::new(host::rand::bytes());
        for disk in ["image", "work"] {
            fs::File::create(run_dir.join(disk)).unwrap().set_len(1 << 20).unwrap();
        }
        if let Some(guest) = self.guest {
            let kernel = match self.backend.machine() {
                boot::Machine::Pc => &guest.kernel,
                boot::Machine::Firecracker => &guest.elf,
            };
            std::os::unix::fs::symlink(kernel, run_dir.join("kernel")).unwrap();
            guest.payload(self.backend.machine(), &secret, &run_dir.join("initrd"));
        } else {
            for file in ["kernel", "initrd"] {
                fs::write(run_dir.join(file), "of no guest").unwrap();
            }
        }
        MachinePlan {
            place: Place { run_dir, log_dir },
            name: format!("conformance-{number}"),
            kernel: "kernel".to_owned(),
            initrd: "initrd".to_owned(),
            command_line: boot::command_line(self.backend.machine()) + &extra_arguments(),
            vcpus: 1,
            memory: 256 << 20,
            disks: vec![
                Disk { file: "image".to_owned(), role: DiskRole::Image },
                Disk { file: "work".to_owned(), role: DiskRole::Work },
            ],
            nic: None,
            limits: Limits::default(),
            secret,
            saved: None,
        }
    }

    /// One with a card, which is in namespaces of its own; `None` where there are none to be had.
    pub fn plan_with_card(&self) -> Option<MachinePlan> {
        testkit::need::namespaces()?;
        let number = self.machines.load(Ordering::Relaxed);
        let vm = VmId::from_bytes([2, 0, 0, 0, 0, number as u8]);
        let card = Card::in_namespace(Mac::of(vm));
        Some(MachinePlan { nic: Some(Nic { vm, card, link: Link::Namespace }), ..self.plan() })
    }

    /// A machine to be that goes on from where one of `plan` was saved, on copies of its disks as they are now.
    pub fn clone_of(&self, plan: &MachinePlan, saved: &vmm::Saved) -> MachinePlan {
        let clone = self.plan();
        for disk in &clone.disks {
            fs::copy(plan.place.run_dir.join(&disk.file), clone.place.run_dir.join(&disk.file)).unwrap();
        }
        MachinePlan { saved: Some(saved.clone()), secret: plan.secret.clone(), ..clone }
    }

    /// A new directory beside those of machines.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A machine that runs.
    pub async fn start(&self, plan: &MachinePlan) -> Arc<dyn Machine> {
        let spawned = self.backend.spawn(plan.clone()).await.unwrap();
        within("the release", spawned.release()).await.unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        for number in 0..self.machines.load(Ordering::Relaxed) {
            let left = processes_in(&self.directory.join(format!("run-{number}")));
            if std::thread::panicking() {
                let log_dir = self.directory.join(format!("log-{number}"));
                let console = ring::read(&log_dir).unwrap_or_default();
                eprintln!("console of machine {number}:\n{}", String::from_utf8_lossy(&console));
                for process in left.into_iter().filter_map(|pid| ProcessId::of(pid).ok()?.open().ok()?) {
                    let _ = process.signal(Signal::Kill);
                }
            } else {
                assert_eq!(left, Vec::<u32>::new(), "a process was left behind");
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn firecracker(program: PathBuf, accelerator: Accelerator) -> Firecracker {
    let cache_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let settings = Settings { program: Some(program), accelerator: Some(accelerator), cache_dir };
    Firecracker::find(&settings).unwrap()
}

/// What `BANGER_TEST_KERNEL_ARGUMENTS` has guests told beyond what all are: some KVMs need it.
fn extra_arguments() -> String {
    std::env::var("BANGER_TEST_KERNEL_ARGUMENTS").map(|words| format!(" {words}")).unwrap_or_default()
}

fn find(accelerator: Option<Accelerator>) -> Qemu {
    let cache_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    Qemu::find(&Settings { program: None, accelerator, cache_dir }).unwrap()
}

/// The processes that run in `directory`.
pub fn processes_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory)).collect()
}

/// The taps that process `pid` has open, by name (`drivers/net/tun.c` of Linux).
pub fn taps_of(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let texts = open.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let name =
        |text: String| text.lines().find_map(|line| Some(line.strip_prefix("iff:")?.trim().to_owned()));
    texts.filter_map(name).collect()
}

/// A session that begins with `line`.
pub async fn session(machine: &dyn Machine, line: &str) -> Channel {
    let mut channel = within("a session", machine.connect_agent()).await.unwrap();
    channel.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    channel.flush().await.unwrap();
    channel
}

/// Says `line` in a session of its own; gives the line that answers.
pub async fn ask(machine: &dyn Machine, line: &str) -> String {
    let mut stream = BufReader::new(session(machine, line).await);
    let mut answer = String::new();
    within("the answer", stream.read_line(&mut answer)).await.unwrap();
    answer.trim_end().to_owned()
}

/// Has the guest end its machine, and waits for that.
pub async fn end_by(machine: &dyn Machine, line: &str) -> End {
    let _channel = session(machine, line).await;
    within("the end", machine.ended()).await
}

/// Kills what is left of a machine.
pub async fn kill(machine: &dyn Machine) {
    within("the kill", machine.kill()).await.unwrap();
    assert!(machine.id().open().unwrap().is_none());
    assert!(!is_zombie(machine.id()));
}

fn is_zombie(id: &ProcessId) -> bool {
    Path::new(&format!("/proc/{}", id.pid)).exists() && ProcessId::of(id.pid).is_ok_and(|found| found == *id)
}

/// The console as text.
pub fn console(plan: &MachinePlan) -> String {
    String::from_utf8_lossy(&ring::read(&plan.place.log_dir).unwrap()).into_owned()
}

/// The fake's guest: the same commands as `examples/conformance_guest.rs`.
async fn serve(stream: DuplexStream, control: Control) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    match line.trim() {
        "echo" => {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
        "card" => {
            let address = control.mac().map(|mac| mac.to_string()).unwrap_or_default();
            let _ = stream.write_all(format!("{address}\n").as_bytes()).await;
        }
        "recall" => {
            let _ = stream.write_all(&control.memory()).await;
            let _ = stream.write_all(b"\n").await;
        }
        line if line.starts_with("remember ") => {
            control.remember(&line.as_bytes()["remember ".len()..]);
            let _ = stream.write_all(b"said\n").await;
        }
        "poweroff" => control.end(MachineEnd::Poweroff),
        "reboot" => control.end(MachineEnd::Reset),
        "panic" => {
            control.say("Kernel panic - not syncing: Attempted to kill init!\n").unwrap();
            control.end(MachineEnd::Panic);
        }
        line => {
            let count = line.strip_prefix("say ").and_then(|n| n.parse().ok()).unwrap_or(0);
            for number in 0..count {
                control.say(&format!("guest: line {number}\n")).unwrap();
            }
            let _ = stream.write_all(b"said\n").await;
        }
    }
}
