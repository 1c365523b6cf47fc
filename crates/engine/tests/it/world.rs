//! A world of its own: a private home with an engine whose machines are fake, which can be killed and opened again.

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use engine::{
    Clock, Engine, Kind, Operation, Seams,
    bridge::Bridge,
    config::Config,
    registry::{Patience, Proxies, Settings},
};
use host::{dirs::Dirs, proc::Program};
use model::{
    config::{DNS_PORT, NetworkMode},
    end::MachineEnd,
    network::BRIDGE_SUBNET,
};
use testkit::{bridge::BridgeHost, home::wait_until, kernel_forge, tree};
use tokio::{runtime::Runtime, sync::watch};
use vmm::{
    Future,
    fake::{Control, Fake},
};
use wire::{
    control::{ErrorBody, Event, ImportImage, Outcome, PullImage},
    helper::Ask,
};

use crate::{
    fault::Controller,
    guest::{self, Manner},
    scene::{self, Scene},
    verb::{self, Verb},
};

/// What any wait of these tests may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The world. Everything that runs in it ends with it.
pub struct World {
    home: PathBuf,
    fake: Fake,
    /// Of all guests that there ever were, the newest last.
    controls: Arc<Mutex<Vec<Control>>>,
    pub manner: watch::Sender<Manner>,
    pub faults: Arc<Controller>,
    /// What the next daemon goes by.
    pub config: Config,
    /// What time it is.
    pub clock: Clock,
    /// How long the next daemon lets a guest stand still, where that is not what it is by itself.
    pub guest_patience: Option<Duration>,
    /// The bridge that root installed.
    pub bridge: Option<Bridge>,
    /// The host with the helper of that bridge; this world's engine runs on it.
    host: Option<Arc<Mutex<BridgeHost>>>,
    daemon: Option<Daemon>,
    small: Option<Small>,
}

/// A place for a home that is not in memory, or little of it; it ends with the value.
pub struct Small {
    home: PathBuf,
    is_mounted: bool,
}

impl Small {
    /// In memory, with some room beside what a world has to begin with; none without the right to mount one.
    #[expect(clippy::disallowed_methods, reason = "tests mount what they test on")]
    pub fn mount() -> Option<Self> {
        let home = fresh("small");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=4m", "banger-test"]).arg(&home).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { home, is_mounted: true });
        }
        host::fs::remove_all(&home).unwrap();
        None
    }

    /// A directory of an ordinary file system.
    pub fn on_disk() -> Self {
        Self { home: fresh_in(&std::env::temp_dir(), "disk"), is_mounted: false }
    }
}

impl Drop for Small {
    #[expect(clippy::disallowed_methods, reason = "tests mount what they test on")]
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: an empty directory is all that stays, should anything still be open.
            let _ = Command::new("umount").arg("-l").arg(&self.home).status();
        }
        let _ = host::fs::remove_all(&self.home);
    }
}

/// One life of the engine.
struct Daemon {
    runtime: Runtime,
    engine: Engine,
}

/// A home with the kernel `debian-cloud` and the image `tiny`, from which all others are filled.
static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| {
    let home = fresh("template");
    remove_what_ended_tests_left(home.parent().expect("it lies somewhere"));
    host::fs::create_dir(&home.join("kernel")).unwrap();
    host::fs::write_atomic(&home.join("kernel/vmlinuz"), &kernel_forge::vmlinux()).unwrap();
    host::fs::write_atomic(&home.join("kernel/config"), kernel_forge::CONFIG.as_bytes()).unwrap();
    host::fs::write_atomic(&home.join(verb::KERNEL), &kernel_forge::vmlinux_with_config()).unwrap();
    host::fs::write_atomic(&home.join("agent"), b"agent").unwrap();
    // Stands for what takes a minute: it gives the tar that lies beside it.
    host::fs::write_atomic(&home.join("builder"), b"#!/bin/sh\nexec cat \"$0.tar\"\n").unwrap();
    host::fs::write_atomic(&home.join("builder.tar"), &verb::tar()).unwrap();
    std::fs::set_permissions(home.join("builder"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut world = World::at(home.clone());
    world.open();
    world.run(&Verb::ImportKernel("debian-cloud")).unwrap();
    world.run(&Verb::ImportImage("tiny")).unwrap();
    // A file that somebody else made.
    let tiny = world.engine().image_show("tiny").unwrap().rootfs;
    std::fs::copy(tiny, home.join(verb::ROOTFS)).unwrap();
    // Fills the caches.
    world.run(&Verb::Create("first")).unwrap();
    world.run(&Verb::Delete("first")).unwrap();
    world.close();
    std::mem::forget(world);
    home
});

/// What the directories of these tests are called, before the process.
const PREFIX: &str = "banger-engine-";

/// What worlds go by where nothing else is said.
pub fn default_config() -> Config {
    Config {
        stop_timeout: Duration::from_millis(500),
        // Whatever is installed on the host of these tests.
        network_mode: NetworkMode::User,
        // Tests run beside each other; this is any port.
        dns_port: 0,
        ..Config::default()
    }
}

fn fresh(name: &str) -> PathBuf {
    // In memory where that can be: thousands of worlds would wait for a disk most of the time.
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    fresh_in(&place, name)
}

fn fresh_in(place: &Path, name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let home = place.join(format!("{PREFIX}{}-{number}-{name}", std::process::id()));
    host::fs::create_dir(&home).unwrap();
    home
}

/// The template stays until the next run of these tests, and all of a run that was killed.
fn remove_what_ended_tests_left(place: &Path) {
    for path in tree::list(place) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = host::fs::remove_all(&path);
        }
    }
}

impl World {
    /// A world with a kernel and the image `tiny`.
    pub fn new() -> Self {
        Self::with(default_config())
    }

    /// The same, which goes by `config`.
    pub fn with(config: Config) -> Self {
        Self::in_home(fresh("world"), None, config, None)
    }

    /// The same where `bridge` is installed.
    pub fn with_bridge(bridge: Bridge) -> Self {
        let config = Config { network_mode: NetworkMode::Auto, ..default_config() };
        Self::in_home(fresh("world"), None, config, Some(bridge))
    }

    /// The same on `host`.
    pub fn on_bridge(host: &Arc<Mutex<BridgeHost>>) -> Self {
        let mut world = Self::unopened(fresh("world"), None);
        world.config.network_mode = NetworkMode::Bridge;
        world.config.dns_port = DNS_PORT;
        world.bridge = Some(Bridge { subnet: BRIDGE_SUBNET, socket: host.lock().unwrap().socket() });
        world.host = Some(host.clone());
        *world.faults.host.lock().unwrap() = Some(host.clone());
        world.open();
        world
    }

    /// Starts the helper again where it was killed.
    pub fn begin_helper(&self) {
        if let Some(host) = &self.host {
            let mut host = host.lock().unwrap();
            if !host.runs() {
                host.begin();
            }
        }
    }

    /// The same in a place of its own.
    pub fn on(small: Small) -> Self {
        Self::in_home(small.home.clone(), Some(small), default_config(), None)
    }

    fn in_home(home: PathBuf, small: Option<Small>, config: Config, bridge: Option<Bridge>) -> Self {
        let mut world = Self::unopened(home, small);
        world.config = config;
        world.bridge = bridge;
        world.open();
        world
    }

    fn unopened(home: PathBuf, small: Option<Small>) -> Self {
        for name in ["state", "cache", "kernel"] {
            tree::link(&TEMPLATE.join(name), &home.join(name));
        }
        // The cached payloads are known by the agent's modification time.
        for name in ["agent", "builder", "builder.tar"] {
            if small.is_some() {
                std::fs::copy(TEMPLATE.join(name), home.join(name)).unwrap();
            } else {
                std::fs::hard_link(TEMPLATE.join(name), home.join(name)).unwrap();
            }
        }
        // Tests change it.
        for name in [verb::ROOTFS, verb::KERNEL] {
            std::fs::copy(TEMPLATE.join(name), home.join(name)).unwrap();
        }
        let mut world = Self::at(home);
        world.small = small;
        world
    }

    fn at(home: PathBuf) -> Self {
        let manner = watch::Sender::new(Manner::Good);
        let manners = manner.subscribe();
        let controls = Arc::<Mutex<Vec<Control>>>::default();
        let known = controls.clone();
        let fake = Fake::new(move |stream, control| -> Future<'static, ()> {
            known.lock().unwrap().push(control.clone());
            Box::pin(guest::serve(stream, control, manners.clone()))
        });
        let (faults, config) = (Arc::default(), default_config());
        let clock = Clock::default();
        Self {
            home,
            fake,
            controls,
            manner,
            faults,
            config,
            clock,
            guest_patience: None,
            bridge: None,
            host: None,
            daemon: None,
            small: None,
        }
    }

    fn dirs(&self) -> Dirs {
        let [state, cache, runtime, config] =
            ["state", "cache", "run", "config"].map(|name| self.home.join(name));
        Dirs { state, cache, runtime, config }
    }

    /// Starts a daemon, which must not be killed meanwhile.
    pub fn open(&mut self) {
        assert!(self.try_open(), "a daemon starts");
    }

    /// Starts a daemon; `false` where that was killed in doing so.
    pub fn try_open(&mut self) -> bool {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if let Some(host) = &self.host {
            let namespace = host.lock().unwrap().host.clone();
            runtime.on_thread_start(move || namespace.enter());
        }
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let mut opened = None;
        // The lock may be held for a moment by what other tests fork, until that closes what it inherited.
        wait_until(SOON, "no other daemon has it", || {
            let patience = Patience {
                connect: Duration::from_secs(5),
                stall: Duration::from_millis(1500),
                attempts: 3,
                pause: Duration::from_millis(5),
            };
            let credentials = vec![self.home.join("auth.json")];
            let seams = Seams {
                backend: Some(Arc::new(self.fake.clone())),
                faults: Some(self.faults.clone()),
                registries: Some(Settings { patience, credentials, proxies: Proxies::default() }),
                builder: Some(Program::Qemu(self.home.join("builder"))),
                bridge: self.bridge.clone(),
                clock: self.clock.clone(),
                guest_patience: self.guest_patience,
            };
            let opening = Engine::open(self.dirs(), self.config.clone(), self.home.join("agent"), seams);
            opened = runtime.block_on(runtime.spawn(opening)).map(Result::unwrap).transpose();
            opened.is_some()
        });
        if let Some(Ok(engine)) = opened {
            self.daemon = Some(Daemon { runtime, engine });
            return true;
        }
        assert!(self.faults.killed(), "the engine panicked");
        runtime.shutdown_timeout(SOON);
        self.wait_for_the_store();
        false
    }

    /// Tries to start a daemon that cannot; gives why.
    pub fn open_error(&self) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seams = Seams { backend: Some(Arc::new(self.fake.clone())), ..Seams::default() };
        let opening = Engine::open(self.dirs(), Config::default(), self.home.join("agent"), seams);
        engine::chain(&runtime.block_on(opening).unwrap_err())
    }

    /// Starts a daemon, which may be unable to; gives why.
    pub fn open_result(&mut self) -> Result<(), String> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let seams = Seams { backend: Some(Arc::new(self.fake.clone())), ..Seams::default() };
        let opening = Engine::open(self.dirs(), Config::default(), self.home.join("agent"), seams);
        let opened = runtime.block_on(opening).map(drop).map_err(|error| engine::chain(&error));
        runtime.shutdown_timeout(SOON);
        self.wait_for_the_store();
        opened
    }

    /// The next daemon finds another version of the VMM.
    pub fn upgrade_vmm(&mut self, version: &str) {
        self.fake = self.fake.clone().with_version(version);
    }

    /// Lets go of everything at once, as a kill does.
    pub fn close(&mut self) {
        let Daemon { runtime, engine } = self.daemon.take().expect("it runs");
        drop(engine);
        runtime.shutdown_timeout(SOON);
        self.wait_for_the_store();
    }

    /// The thread of the database ends a moment after everybody let go of it.
    fn wait_for_the_store(&self) {
        let state = self.home.join("state");
        let is_open = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .any(|path| path.starts_with(&state))
        };
        wait_until(SOON, "no file is open", || !is_open());
    }

    /// Kills the daemon and starts another.
    pub fn reopen(&mut self) {
        self.close();
        self.faults.disarm();
        self.open();
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.daemon.as_ref().expect("it runs").engine
    }

    /// Waits for `future`, at most for [`SOON`].
    #[track_caller]
    pub fn wait<T>(&self, future: impl std::future::Future<Output = T>) -> T {
        let runtime = &self.daemon.as_ref().expect("it runs").runtime;
        runtime.block_on(async { tokio::time::timeout(SOON, future).await.expect("it ends in time") })
    }

    /// Begins `verb`.
    pub fn begin(&self, verb: &Verb) -> Operation {
        let _inside = self.daemon.as_ref().expect("it runs").runtime.enter();
        let (kind, name) = (verb.kind(), format!("{verb:?}"));
        let (verb, home) = (verb.clone(), self.home.clone());
        self.engine().begin(kind, &name, |engine, operation| {
            self.faults.watch(&operation);
            async move { verb.perform(engine, operation, &home).await }
        })
    }

    /// Begins to pull an image.
    pub fn begin_pull(&self, pull: PullImage) -> Operation {
        self.begin_with(Kind::ImagePull, |engine, operation| engine.image_pull(operation, pull))
    }

    /// Begins `work`.
    pub fn begin_with<F>(&self, kind: Kind, work: impl FnOnce(Engine, Operation) -> F) -> Operation
    where
        F: std::future::Future<Output = engine::Result<Outcome>> + Send + 'static,
    {
        let _inside = self.daemon.as_ref().expect("it runs").runtime.enter();
        self.engine().begin(kind, "it", work)
    }

    /// Begins to import what `reader` gives.
    pub fn begin_import(
        &self,
        name: &str,
        how: ImportImage,
        reader: impl Read + Send + 'static,
    ) -> Operation {
        let _inside = self.daemon.as_ref().expect("it runs").runtime.enter();
        let name = name.to_owned();
        self.engine().begin(Kind::ImageImport, "it", |engine, operation| {
            engine.image_import(operation, name, how, reader)
        })
    }

    /// An operation that nothing runs yet.
    pub fn operation(&self, kind: Kind) -> Operation {
        self.engine().operations().begin(kind, "it")
    }

    /// Where it lies.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Waits for the end of `operation`.
    pub fn end(&self, operation: &Operation) -> Result<Outcome, ErrorBody> {
        let mut follow = operation.follow();
        self.wait(async {
            loop {
                match follow.next().await.expect("the last event ends it") {
                    Event::Done { result } => return Ok(result),
                    Event::Failed { error } => return Err(error),
                    _ => {}
                }
            }
        })
    }

    /// Does `verb` to its end.
    pub fn run(&self, verb: &Verb) -> Result<Outcome, ErrorBody> {
        self.end(&self.begin(verb))
    }

    /// Does all of `verbs`, which must go well.
    pub fn prepare(&self, verbs: &[Verb]) {
        for verb in verbs {
            self.run(verb).unwrap_or_else(|error| panic!("{verb:?}: {error:?}"));
        }
    }

    /// Ends the machine whose guest was started last.
    pub fn newest_guest_ends(&self, what: MachineEnd) {
        self.controls.lock().unwrap().last().expect("there is one").end(what);
    }

    /// Puts `bytes` into the memory of the guest that was started last.
    pub fn newest_guest_remembers(&self, bytes: &[u8]) {
        self.controls.lock().unwrap().last().expect("there is one").remember(bytes);
    }

    /// What the guests that run have in memory, the oldest first: who each was made.
    pub fn memories(&self) -> Vec<String> {
        let guests = self.controls.lock().unwrap();
        let running = guests.iter().filter(|guest| guest.lives());
        running.map(|guest| String::from_utf8(guest.memory()).unwrap()).collect()
    }

    /// The machines that run.
    pub fn processes(&self) -> BTreeMap<u32, PathBuf> {
        scene::processes(&self.home)
    }

    /// What there is now.
    pub fn look(&self) -> Scene {
        let mut scene = Scene::of(&self.home);
        scene.leaks.extend(self.fake.held().iter().map(|id| format!("machine {} is paused", id.pid)));
        let guests = self.controls.lock().unwrap();
        let held = guests.iter().filter(|guest| guest.lives() && guest.memory().starts_with(guest::HELD));
        scene.leaks.extend(held.map(|_| "a guest is held".to_owned()));
        if let Some(host) = &self.host {
            scene.look_at_bridge(&self.home, &host.lock().unwrap().status());
        }
        scene
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.close();
        }
        for pid in self.processes().into_keys().chain(scene::companions(&self.home)) {
            let process = host::proc::ProcessId::of(pid).and_then(|id| id.open());
            if let Ok(Some(process)) = process {
                let _ = process.signal(host::proc::Signal::Kill);
                let _ = process.wait_exit(SOON);
                let _ = process.reap();
            }
        }
        if let Some(host) = self.host.clone() {
            self.begin_helper();
            host.lock().unwrap().done(Ask::RemoveBridge);
        }
        let _ = host::fs::remove_all(&self.home);
        drop(self.small.take());
    }
}
