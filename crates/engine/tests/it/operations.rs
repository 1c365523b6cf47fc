//! Every operation, with every fault at every point: the world afterwards is one of the right ones.
//!
//! One line per operation. The number is how many points it has, so that no effect can be added without being tested; and
//! [`lines`] names the lines of each kind, so that no kind can be.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use engine::{
    Kind,
    config::Config,
    fault::{Moment, Point},
};
use image::oci::Digest;
use model::{config::SigningKey, location::Location, network::Nat};
use testkit::{
    bridge::BridgeHost,
    catalog::{Publisher, entry},
    images::Tar,
    oci::{Access, Registry, layout},
};
use wire::control::Code;

use crate::{
    catalog, end,
    fault::Fault,
    pull_hostile::goods_of,
    scene::{Disks, Scene},
    server::Server,
    shared,
    verb::{
        self,
        Verb::{self, *},
    },
    workspace_fault,
    world::{World, default_config},
};

/// An operation and the worlds that are right after it, beside the one before and the one that it makes.
struct Case {
    verb: Verb,
    /// What was done before.
    before: &'static [Verb],
    /// How many points it meets where nothing goes wrong.
    points: usize,
    /// The first effect that the line of a simpler case does not have as well; what comes before it has its faults there.
    from: Option<&'static str>,
    /// In what else its VM may be left by a failure or a crash.
    or: &'static [&'static str],
    /// The disks of its VM that it changes, and so may a failure.
    changes: &'static [&'static str],
    /// What its worlds go by.
    config: Option<Config>,
    /// What they are on.
    host: Option<Arc<Mutex<BridgeHost>>>,
}

const fn case(verb: Verb, before: &'static [Verb], points: usize, or: &'static [&'static str]) -> Case {
    Case { verb, before, points, from: None, or, changes: &[], config: None, host: None }
}

/// Where the guest ran, or may have run.
const RAN: &[&str] = &["vm a error", "vm a stopped"];

#[test]
fn create() {
    check(&case(Create("a"), &[], 42, &["vm a error"]));
}

#[test]
fn create_unstarted() {
    check(&case(CreateUnstarted("a"), &[], 2, &[]));
}

#[test]
fn create_owned() {
    check(&case(CreateOwned("a"), &[], 42, &["vm a error"]));
}

#[test]
fn first_start() {
    check(&case(Start("a"), &[CreateUnstarted("a")], 40, RAN));
}

#[test]
fn start() {
    check(&case(Start("a"), &[Create("a"), Stop("a")], 22, RAN));
}

#[test]
fn stop() {
    check(&case(Stop("a"), &[Create("a")], 12, RAN));
}

#[test]
fn restart() {
    check(&case(Restart("a"), &[Create("a")], 34, RAN));
}

#[test]
fn kill() {
    check(&case(Kill("a"), &[Create("a")], 12, RAN));
}

#[test]
fn auto_stop() {
    check(&case(AutoStop("a"), &[Create("a")], 12, RAN));
}

#[test]
fn delete() {
    check(&case(Delete("a"), &[CreateUnstarted("a")], 4, &[]));
}

#[test]
fn delete_of_a_running_vm() {
    check(&case(Delete("a"), &[Create("a")], 16, &[]));
}

#[test]
fn grow() {
    let before = &[Create("a"), Stop("a")];
    check(&Case { changes: &["a/overlay.ext4", "a/work.ext4"], ..case(Grow("a"), before, 6, &[]) });
}

#[test]
fn grow_of_a_running_vm() {
    let changes = &["a/overlay.ext4", "a/work.ext4"];
    check(&Case { changes, ..case(Grow("a"), &[Create("a")], 6, &[]) });
}

#[test]
fn create_with_a_network() {
    if testkit::need::namespaces().is_some() {
        let from = Some("spawn");
        check(&Case { from, ..case(CreateNat("a"), &[], 50, &["vm a error, nat"]) });
    }
}

#[test]
fn start_with_a_network() {
    if testkit::need::namespaces().is_some() {
        let ran = &["vm a error, nat", "vm a stopped, nat"];
        let from = Some("spawn");
        check(&Case { from, ..case(Start("a"), &[CreateNat("a"), Stop("a")], 30, ran) });
    }
}

#[test]
fn stop_with_a_network() {
    if testkit::need::namespaces().is_some() {
        check(&case(Stop("a"), &[CreateNat("a")], 16, &["vm a error, nat", "vm a stopped, nat"]));
    }
}

#[test]
fn nat_of_a_stopped_vm() {
    if testkit::need::namespaces().is_some() {
        check(&case(SetNat("a", Nat::On), &[Create("a"), Stop("a")], 2, &[]));
    }
}

#[test]
fn nat_of_a_running_vm() {
    if testkit::need::namespaces().is_some() {
        check(&case(SetNat("a", Nat::Off), &[CreateNat("a")], 8, &[]));
        check(&case(SetNat("a", Nat::On), &[CreateNat("a"), SetNat("a", Nat::Off)], 10, &[]));
    }
}

/// Goes through the faults of `case` on the bridge of a helper, which is killed too.
fn check_on_bridge(case: Case) {
    let Some(host) = BridgeHost::built() else { return };
    check(&Case { host: Some(Arc::new(Mutex::new(host))), ..case });
}

#[test]
fn create_on_the_bridge() {
    check_on_bridge(case(CreateNat("a"), &[], 56, &["vm a error, nat"]));
}

#[test]
fn start_on_the_bridge() {
    let ran = &["vm a error", "vm a stopped"];
    check_on_bridge(case(Start("a"), &[Create("a"), Stop("a")], 36, ran));
}

#[test]
fn stop_on_the_bridge() {
    check_on_bridge(case(Stop("a"), &[Create("a")], 20, &["vm a error", "vm a stopped"]));
}

#[test]
fn delete_on_the_bridge() {
    check_on_bridge(case(Delete("a"), &[Create("a")], 24, &[]));
}

#[test]
fn nat_on_the_bridge() {
    check_on_bridge(case(SetNat("a", Nat::Off), &[CreateNat("a")], 6, &[]));
}

#[test]
fn reset() {
    let before = &[Create("a"), Stop("a")];
    check(&Case { changes: &["a/overlay.ext4"], ..case(Reset("a"), before, 6, &[]) });
}

#[test]
fn snapshot() {
    check(&case(Snapshot("a", "s"), &[Create("a")], 24, &[]));
}

#[test]
fn snapshot_delete() {
    check(&case(DeleteSnapshot("s"), &[Create("a"), Snapshot("a", "s")], 4, &[]));
}

#[test]
fn create_from_a_snapshot() {
    let before = &[Create("b"), Snapshot("b", "s")];
    check(&case(CreateFrom("a", "s"), before, 42, &["vm a error"]));
}

#[test]
fn image_import() {
    check(&case(ImportImage("new"), &[], 8, &[]));
}

#[test]
fn image_pull() {
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    // What makes the layout leaves files beside it.
    let scratch = std::env::temp_dir().join(format!("banger-engine-layout-{}", std::process::id()));
    host::fs::create_dir(&scratch).unwrap();
    let directory = scratch.join("layout");
    let made = layout(&directory, "1.0", &[&verb::tar()], &[], &[]);
    if made.is_some() {
        registry.push(&directory, "1.0", "some/new:1.0");
    }
    host::fs::remove_all(&scratch).unwrap();
    let Some(()) = made else { return };
    let reference = format!("{}/some/new:1.0", registry.address()).leak();
    check(&case(PullImage(reference), &[], 8, &[]));
}

#[test]
fn image_pull_from_a_catalog() {
    let Some(scratch) = Published::new("image") else { return };
    check(&scratch.case(PullImage("new"), &[RefreshCatalogs], 8));
}

#[test]
fn kernel_pull() {
    let Some(scratch) = Published::new("kernel") else { return };
    check(&scratch.case(PullKernel("new"), &[RefreshCatalogs], 8));
}

#[test]
fn kernel_pull_in_place_of_another() {
    let Some(scratch) = Published::new("other-kernel") else { return };
    check(&scratch.case(PullKernel("new"), &[RefreshCatalogs, ImportKernel("new")], 10));
}

#[test]
fn catalog_refresh() {
    let Some(scratch) = Published::new("refresh") else { return };
    // Each is taken by itself.
    let or = &["catalog images", "catalog kernels"];
    check(&Case { or, ..scratch.case(RefreshCatalogs, &[], 4) });
}

/// Catalogs with an image and a kernel `new`, outside of all worlds. They go with the value.
struct Published(Publisher);

impl Published {
    fn new(name: &str) -> Option<Self> {
        let directory = format!("banger-engine-catalog-{}-{name}", std::process::id());
        let publisher = Publisher::new(&std::env::temp_dir().join(directory))?;
        let world = World::new();
        for kind in ["images", "kernels"] {
            let bundle = publisher.bundle("new.tar.zst", &catalog::only(&world, kind));
            let name = format!("{kind}.tar.zst");
            host::fs::rename(&publisher.directory().join("new.tar.zst"), &publisher.directory().join(&name))
                .unwrap();
            let digest = Digest::of(&bundle).hex();
            publisher.publish(kind, 1, &[entry("new", &name, &digest, bundle.len())]);
        }
        Some(Self(publisher))
    }

    fn case(&self, verb: Verb, before: &'static [Verb], points: usize) -> Case {
        let at = |name| Some(Location::try_from(&*self.0.address(name)).unwrap());
        let config = Config {
            image_catalog: at("images.json"),
            kernel_catalog: at("kernels.json"),
            catalog_key: Some(SigningKey::try_from(self.0.key()).unwrap()),
            ..default_config()
        };
        Case { config: Some(config), ..case(verb, before, points, &[]) }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = host::fs::remove_all(self.0.directory());
    }
}

#[test]
fn image_pull_of_a_tag_that_moved() {
    let (_server, reference) = restless();
    check(&case(PullImage(reference), before(&[PullImage(reference)]), 10, &[]));
}

#[test]
fn image_prune() {
    let (_server, reference) = restless();
    let left = [PullImage(reference), CreateOf("a", "x-1"), PullImage(reference), Delete("a")];
    check(&case(PruneImages, before(&left), 4, &[]));
}

/// A registry whose tag leads to another image each time that it is asked, and the tag.
fn restless() -> (Server, &'static str) {
    let both = ["one", "other"].map(|name| goods_of(&[Tar::default().directory(name).finish()]));
    let asked_before = AtomicUsize::new(0);
    let server = Server::start(move |asked, stream| {
        let is_manifest = asked.path.contains("/manifests/");
        let number = if is_manifest { asked_before.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let mut having = both.iter().cycle().skip(number % 2).take(2);
        having
            .find(|goods| goods.documents.contains_key(&asked.path))
            .unwrap_or(&both[0])
            .serve(asked, stream)
    });
    let reference = format!("{}/x:1", server.address).leak();
    (server, reference)
}

fn before(verbs: &[Verb]) -> &'static [Verb] {
    verbs.to_vec().leak()
}

#[test]
fn image_build() {
    check(&case(BuildImage("new"), &[], 8, &[]));
}

#[test]
fn cache_prune() {
    check(&case(PruneCache, &[], 2, &[]));
}

#[test]
fn image_register() {
    check(&case(RegisterImage("new"), &[], 8, &[]));
}

#[test]
fn image_promote() {
    check(&case(PromoteImage("new"), &[RegisterImage("new")], 8, &[]));
}

#[test]
fn image_delete() {
    check(&case(DeleteImage("new"), &[ImportImage("new")], 4, &[]));
}

#[test]
fn kernel_import() {
    check(&case(ImportKernel("new"), &[], 8, &[]));
}

#[test]
fn kernel_import_in_place() {
    check(&case(ImportKernelInPlace("new"), &[], 8, &[]));
}

#[test]
fn kernel_promote() {
    check(&case(PromoteKernel("new"), &[ImportKernelInPlace("new")], 8, &[]));
}

#[test]
fn kernel_delete() {
    check(&case(DeleteKernel("new"), &[ImportKernel("new")], 4, &[]));
}

/// Where each kind of operation goes through its faults. A kind without a line does not compile.
fn lines(kind: Kind) -> &'static [fn()] {
    match kind {
        Kind::VmCreate => &[
            create,
            create_unstarted,
            create_owned,
            create_with_a_network,
            create_on_the_bridge,
            create_from_a_snapshot,
        ],
        Kind::VmStart => &[first_start, start, start_with_a_network, start_on_the_bridge],
        Kind::VmStop => &[stop, stop_with_a_network, stop_on_the_bridge],
        Kind::VmRestart => &[restart],
        Kind::VmKill => &[kill],
        Kind::VmDelete => &[delete, delete_of_a_running_vm, delete_on_the_bridge],
        Kind::VmSet => {
            &[grow, grow_of_a_running_vm, nat_of_a_stopped_vm, nat_of_a_running_vm, nat_on_the_bridge]
        }
        Kind::VmReset => &[reset],
        Kind::VmReboot => &[end::a_guest_reboots],
        Kind::VmReconnect => &[end::a_companion_dies],
        Kind::VmAutoStop => &[auto_stop],
        Kind::VmSnapshot => &[snapshot],
        Kind::SnapshotDelete => &[snapshot_delete],
        Kind::WorkspacePrepare | Kind::WorkspaceExport => {
            &[workspace_fault::any_fault_leaves_what_can_be_done_again]
        }
        Kind::ImageImport => &[image_import],
        Kind::ImageBuild => &[image_build],
        Kind::ImagePull => &[
            image_pull,
            image_pull_from_a_catalog,
            image_pull_of_a_tag_that_moved,
            shared::a_fault_of_a_shared_pull_is_one_for_all_and_a_cancel_is_not,
        ],
        Kind::KernelPull => &[kernel_pull, kernel_pull_in_place_of_another],
        Kind::CatalogRefresh => &[catalog_refresh],
        Kind::ImageRegister => &[image_register],
        Kind::ImagePromote => &[image_promote],
        Kind::ImageDelete => &[image_delete],
        Kind::ImagePrune => &[image_prune],
        Kind::ImageCachePrune => &[cache_prune],
        Kind::KernelImport => &[kernel_import, kernel_import_in_place],
        Kind::KernelPromote => &[kernel_promote],
        Kind::KernelDelete => &[kernel_delete],
    }
}

#[test]
fn every_kind_of_operation_has_its_line_and_a_name_of_its_own() {
    let without: Vec<_> = Kind::ALL.into_iter().filter(|kind| lines(*kind).is_empty()).collect();
    assert_eq!(without, []);
    let names: BTreeSet<_> = Kind::ALL.map(Kind::name).into();
    assert_eq!(names.len(), Kind::ALL.len());
}

/// Runs `case` once for each fault at each point.
fn check(case: &Case) {
    let world = world(case);
    let before = world.look();
    world.faults.arm(&[]);
    world.run(&case.verb).unwrap();
    let points = world.faults.disarm();
    let after = world.look();
    assert_eq!((&before.leaks, &after.leaks), (&Vec::new(), &Vec::new()));
    drop(world);
    assert_eq!(points.len(), case.points, "the points are {}", list(&points));
    let trial = Trial { case, before: &before, after: &after };
    let (mut count, mut wrong) = (0, Vec::new());
    let begins = |from| points.iter().position(|point| point.name == from).expect("it has that effect");
    for (number, point) in points.iter().enumerate().skip(case.from.map_or(0, begins)) {
        let can = |fault: &Fault| fault.fits(*point) && (*fault != Fault::Helper || case.host.is_some());
        for fault in Fault::ALL.into_iter().chain([Fault::Helper]).filter(can) {
            wrong.extend(trial.run(number, *point, fault));
            count += 1;
        }
        let (worlds, found) = trial.run_with_crashes(number, *point);
        wrong.extend(found);
        count += worlds;
    }
    println!(
        "{:?}: {} points, {count} faults, {} wrong worlds (budget: 0)",
        case.verb,
        points.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn world(case: &Case) -> World {
    let world = match &case.host {
        Some(host) => World::on_bridge(host),
        None => World::with(case.config.clone().unwrap_or_else(default_config)),
    };
    // Others are never touched.
    world.prepare(&[Create("other")]);
    world.prepare(case.before);
    world
}

fn list(points: &[Point]) -> String {
    points.iter().map(|point| format!("\n{} {:?}", point.name, point.moment)).collect()
}

/// What an error says that could not undo all.
const TOLD: &[&str] = &["also, undoing it left", "all of VM", "but not all of its files"];

struct Trial<'a> {
    case: &'a Case,
    before: &'a Scene,
    after: &'a Scene,
}

impl Trial<'_> {
    /// One run with `fault` at `point`; gives what is wrong afterwards.
    fn run(&self, number: usize, point: Point, fault: Fault) -> Vec<String> {
        let what = format!("{:?}, {fault:?} at {number} ({} {:?})", self.case.verb, point.name, point.moment);
        let mut world = world(self.case);
        let disks = world.look().disks;
        world.faults.arm(&[(number, fault)]);
        let result = world.run(&self.case.verb);
        assert_eq!(world.faults.killed(), fault == Fault::Kill, "{what}");
        let mut wrong = Vec::new();
        // A failure that could not be undone says so, and what it left is gone with the daemon's next start.
        let told = result.as_ref().is_err_and(|error| TOLD.iter().any(|words| error.message.contains(words)));
        world.faults.disarm();
        world.begin_helper();
        if fault != Fault::Kill && !told {
            let scene = world.look();
            wrong.extend(self.judge(&scene, &disks));
            // A catalog is one file that takes the place of another: there is nothing to undo, and it may be taken again.
            let may_be_done = self.case.verb == RefreshCatalogs && fault == Fault::Fail;
            let is_done = scene.seen == self.after.seen;
            if result.is_ok() != is_done && self.after.seen != self.before.seen && !(may_be_done && is_done) {
                wrong.push(format!("the result is {result:?} and there is {:?}", scene.seen));
            }
        }
        // What failed can be asked for again, in the same daemon.
        if fault != Fault::Kill && result.is_err() {
            match world.run(&self.case.verb) {
                Ok(_) => {
                    let mut again = self.judge(&world.look(), &disks);
                    // An import begins anew in another directory, and who prunes does not see what has no row.
                    let is_left =
                        |wrong: &str| wrong.contains("Staging") || wrong.contains("belongs to nothing");
                    again.retain(|wrong| !(told && is_left(wrong)));
                    wrong.extend(again.into_iter().map(|wrong| format!("again: {wrong}")));
                }
                Err(error) if told || matches!(error.code, Code::Taken | Code::NotFound) => {}
                Err(error) => wrong.push(format!("it cannot be done again: {error:?}")),
            }
        }
        world.reopen();
        let reopened = self.judge(&world.look(), &disks);
        wrong.extend(reopened.into_iter().map(|wrong| format!("after another start: {wrong}")));
        wrong.into_iter().map(|wrong| format!("{what}: {wrong}")).collect()
    }

    /// Crashes while what a fault or a crash at `point` left is undone, once at each point of that. So everything is undone
    /// twice. Gives how many crashes there were and what is wrong afterwards.
    fn run_with_crashes(&self, number: usize, point: Point) -> (usize, Vec<String>) {
        let (mut count, mut wrong) = (0, Vec::new());
        let mut judge = |world: &mut World, disks: &Disks, what: &str| {
            world.reopen();
            let found = self.judge(&world.look(), disks);
            wrong.extend(found.into_iter().map(|w| format!("{:?}, {what}: {w}", self.case.verb)));
        };
        if Fault::Fail.fits(point) && point.moment == Moment::Before {
            for crash in number + 1.. {
                let mut world = world(self.case);
                let disks = world.look().disks;
                world.faults.arm(&[(number, Fault::Fail), (crash, Fault::Kill)]);
                let _ = world.run(&self.case.verb);
                if !world.faults.killed() {
                    break;
                }
                count += 1;
                judge(&mut world, &disks, &format!("a failure at {number}, then a crash at {crash}"));
            }
        }
        if point.moment == Moment::Before {
            let mut world = world(self.case);
            let disks = world.look().disks;
            world.faults.arm(&[(number, Fault::Kill)]);
            let _ = world.run(&self.case.verb);
            world.close();
            // Each start comes a little further than the one before.
            for crash in 0.. {
                world.faults.arm(&[(crash, Fault::Kill)]);
                if world.try_open() {
                    break;
                }
                count += 1;
            }
            judge(&mut world, &disks, &format!("a crash at {number}, then crashes of each new start"));
        }
        (count, wrong)
    }

    /// What is wrong with the world.
    fn judge(&self, scene: &Scene, disks: &Disks) -> Vec<String> {
        let mut wrong = scene.leaks.clone();
        let is_like = |line: &&str| {
            let others = self.before.seen.iter().filter(|line| !line.starts_with("vm a "));
            others.cloned().chain([(**line).to_owned()]).collect::<BTreeSet<_>>() == scene.seen
        };
        let is_right = scene.seen == self.before.seen || scene.seen == self.after.seen;
        if !is_right && !self.case.or.iter().any(is_like) {
            wrong.push(format!("there is {:?}", scene.seen));
        }
        // Disks that were there before are there as they were, unless their VM is gone.
        for (disk, identity) in disks {
            let vm = disk.split('/').next().unwrap_or_default();
            let is_there = scene.seen.iter().any(|line| line.starts_with(&format!("vm {vm} ")));
            let may_change = self.case.changes.contains(&disk.as_str());
            let made = [self.before, self.after].map(|scene| scene.disks.get(disk).map(|(_, size)| *size));
            let is_either = made.contains(&scene.disks.get(disk).map(|(_, size)| *size));
            if is_there && scene.disks.get(disk) != Some(identity) && !(may_change && is_either) {
                wrong.push(format!("disk {disk} is not what it was"));
            }
        }
        wrong
    }
}
