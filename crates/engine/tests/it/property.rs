//! Any sequence of operations, failures, cancels, crashes and dying machines leads to the worlds that a simple model says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use model::vm::State;
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};
use testkit::home::wait_until;
use wire::control::Code;

use crate::{
    fault::Fault,
    verb::Verb::{self, *},
    world::{SOON, World},
};

/// No beginnings of an id, which is hexadecimal.
const VMS: [&str; 2] = ["x", "y"];
const SNAPSHOT: &str = "s";

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// An operation, and a fault at the point of that number, if it has so many.
    Do(Verb, Option<(usize, Fault)>),
    /// The daemon is killed while nothing is under way.
    Crash,
    /// The machine of a VM is killed.
    MachineDies(&'static str),
}

/// What there should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    vms: BTreeMap<&'static str, State>,
    image: bool,
    /// Whether its file lies outside of the store; of no meaning without an image.
    registered: bool,
    kernel: bool,
    /// The same of the kernel.
    in_place: bool,
    snapshot: bool,
}

impl Model {
    /// The world after `verb`, or why it is refused.
    fn after(&self, verb: &Verb) -> Result<Self, Code> {
        let mut next = self.clone();
        let mut set = |name: &'static str, state: fn(State) -> State| {
            let now = next.vms.get_mut(name).ok_or(Code::NotFound)?;
            *now = state(*now);
            Ok(())
        };
        let ended = |state| if state == State::Created { State::Created } else { State::Stopped };
        let add = |there: &mut bool| if std::mem::replace(there, true) { Err(Code::Taken) } else { Ok(()) };
        let remove = |there: &mut bool| if std::mem::take(there) { Ok(()) } else { Err(Code::NotFound) };
        match verb {
            CreateFrom(name, _) if !self.vms.contains_key(name) && !self.snapshot => {
                return Err(Code::NotFound);
            }
            Create(name) | CreateUnstarted(name) | CreateOwned(name) | CreateFrom(name, _) => {
                let state = if matches!(verb, CreateUnstarted(_)) { State::Created } else { State::Running };
                if next.vms.insert(name, state).is_some() {
                    return Err(Code::Taken);
                }
            }
            Start(name) | Restart(name) => set(name, |_| State::Running)?,
            Stop(name) | Kill(name) => set(name, ended)?,
            // Only of one that runs.
            AutoStop(name) => {
                set(name, |state| if state == State::Running { State::Stopped } else { state })?
            }
            Grow(name) => set(name, |state| state)?,
            Reset(name) if self.vms.get(name) == Some(&State::Running) => return Err(Code::Conflict),
            Reset(name) => set(name, ended)?,
            Snapshot(name, _) => {
                if *self.vms.get(name).ok_or(Code::NotFound)? != State::Running {
                    return Err(Code::NotRunning);
                }
                add(&mut next.snapshot)?;
            }
            DeleteSnapshot(_) => remove(&mut next.snapshot)?,
            Delete(name) => drop(next.vms.remove(name).ok_or(Code::NotFound)?),
            ImportImage(_) | PullImage(_) | BuildImage(_) => {
                add(&mut next.image)?;
                next.registered = false;
            }
            RegisterImage(_) => {
                add(&mut next.image)?;
                next.registered = true;
            }
            PromoteImage(_) if !self.image => return Err(Code::NotFound),
            PromoteImage(_) => next.registered = false,
            DeleteImage(_) => {
                remove(&mut next.image)?;
                next.registered = false;
            }
            ImportKernel(_) | ImportKernelInPlace(_) => {
                add(&mut next.kernel)?;
                next.in_place = matches!(verb, ImportKernelInPlace(_));
            }
            PromoteKernel(_) if !self.kernel => return Err(Code::NotFound),
            PromoteKernel(_) => next.in_place = false,
            DeleteKernel(_) => {
                remove(&mut next.kernel)?;
                next.in_place = false;
            }
            PruneCache => {}
            CreateNat(_) | SetNat(..) => unreachable!("these sequences have no networks"),
            Prepare(..) | Export(..) => unreachable!("these sequences have no workspaces"),
            CreateOf(..) | PruneImages | PullKernel(..) | RefreshCatalogs => {
                unreachable!("these sequences have no tags and no catalogs")
            }
        }
        Ok(next)
    }

    /// The worlds that are right after `verb` went wrong.
    fn after_fault(&self, verb: &Verb) -> Vec<Self> {
        let mut right = vec![self.clone()];
        let Ok(after) = self.after(verb) else { return right };
        for name in VMS {
            let touched =
                after.vms.get(name) != self.vms.get(name) || matches!(verb, Restart(n) if *n == name);
            if touched && after.vms.contains_key(name) {
                right.extend([State::Stopped, State::Error].map(|state| {
                    let mut other = after.clone();
                    other.vms.insert(name, state);
                    other
                }));
            }
        }
        right.push(after);
        right
    }

    /// As [`crate::scene::Scene`] tells it.
    fn seen(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::from(["image tiny".to_owned(), "kernel debian-cloud".to_owned()]);
        seen.extend(self.vms.iter().map(|(name, state)| format!("vm {name} {state}")));
        let image = if self.registered { "image new, registered" } else { "image new" };
        seen.extend(self.image.then(|| image.to_owned()));
        let kernel = if self.in_place { "kernel new, registered" } else { "kernel new" };
        seen.extend(self.kernel.then(|| kernel.to_owned()));
        seen.extend(self.snapshot.then(|| format!("snapshot {SNAPSHOT}")));
        seen
    }
}

/// What is asked of images and kernels.
const OF_THE_STORE: [fn(&'static str) -> Verb; 9] = [
    ImportImage,
    BuildImage,
    RegisterImage,
    PromoteImage,
    DeleteImage,
    ImportKernel,
    ImportKernelInPlace,
    PromoteKernel,
    DeleteKernel,
];

fn verb() -> impl Strategy<Value = Verb> {
    let of_vm =
        select(&[Create, CreateUnstarted, Start, Stop, AutoStop, Restart, Kill, Delete, Grow, Reset][..]);
    let of_snapshots: [fn(&'static str) -> Verb; 3] =
        [|name| Snapshot(name, SNAPSHOT), |name| CreateFrom(name, SNAPSHOT), |_| DeleteSnapshot(SNAPSHOT)];
    prop_oneof![
        2 => (select(of_snapshots.to_vec()), select(&VMS[..])).prop_map(|(verb, name)| verb(name)),
        6 => (of_vm, select(&VMS[..])).prop_map(|(verb, name)| verb(name)),
        1 => select(&OF_THE_STORE[..]).prop_map(|verb| verb("new")),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let fault = (0..40usize, select(&Fault::ALL[..]));
    prop_oneof![
        4 => verb().prop_map(|verb| Event::Do(verb, None)),
        5 => (verb(), fault).prop_map(|(verb, fault)| Event::Do(verb, Some(fault))),
        1 => Just(Event::Crash),
        1 => select(&VMS[..]).prop_map(Event::MachineDies),
    ]
}

/// Lets `event` happen in `world`; gives what there should be afterwards.
fn happen(world: &mut World, model: &Model, event: &Event) -> Result<Model, TestCaseError> {
    match event {
        Event::Do(verb, None) => {
            let result = world.run(verb).map(drop).map_err(|error| error.code);
            let expected = model.after(verb);
            prop_assert_eq!(&result, &expected.clone().map(drop), "{:?}", verb);
            Ok(expected.unwrap_or_else(|_| model.clone()))
        }
        Event::Do(verb, Some(fault)) => {
            world.faults.arm(&[*fault]);
            let _ = world.run(verb);
            // A crash and a full disk are over with the next start, which also removes what could not be undone.
            world.reopen();
            let seen = world.look().seen;
            let found = model.after_fault(verb).into_iter().find(|model| model.seen() == seen);
            found.ok_or_else(|| TestCaseError::fail(format!("{verb:?} with {fault:?} led to {seen:?}")))
        }
        Event::Crash => {
            world.reopen();
            Ok(model.clone())
        }
        Event::MachineDies(name) if model.vms.get(name) == Some(&State::Running) => {
            let vm = world.engine().vm_show(name).unwrap();
            let id = host::proc::ProcessId::of(vm.pid.expect("it runs")).unwrap();
            id.open().unwrap().expect("it is there").signal(host::proc::Signal::Kill).unwrap();
            let is_error = || world.engine().vm_show(name).unwrap().state == wire::control::State::Error;
            wait_until(SOON, "its end is noticed", is_error);
            let mut next = model.clone();
            next.vms.insert(name, State::Error);
            Ok(next)
        }
        Event::MachineDies(_) => Ok(model.clone()),
    }
}

/// Lets `events` happen one after the other in a world of their own.
fn live_through(events: &[Event]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let mut model = Model::default();
    for event in events {
        model = happen(&mut world, &model, event)?;
        let scene = world.look();
        prop_assert_eq!(scene.seen, model.seen(), "after {:?}", event);
        prop_assert_eq!(scene.leaks, Vec::<String>::new(), "after {:?}", event);
    }
    Ok(())
}

#[test]
fn any_sequence_leads_where_the_model_says() {
    // Some 2,000; PROPTEST_CASES asks for more. Most of a case is waiting for threads and processes to end, so there are more
    // at once than processors.
    let cases = Config::default().cases * 8;
    let at_once = 2 * u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let share = Config {
        cases: cases.div_ceil(at_once),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let (begin, events) = (Instant::now(), AtomicUsize::new(0));
    let results: Vec<_> = std::thread::scope(|scope| {
        let one = || {
            TestRunner::new(share.clone()).run(&prop::collection::vec(event(), 1..16), |sequence| {
                events.fetch_add(sequence.len(), Ordering::Relaxed);
                live_through(&sequence)
            })
        };
        let all: Vec<_> = (0..at_once).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    println!("{} sequences of {} events in {seconds:.0} s", share.cases * at_once, events.into_inner());
    if let Some(failure) = results.into_iter().find_map(Result::err) {
        panic!("{failure}");
    }
}
