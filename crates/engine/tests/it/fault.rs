//! Makes one thing go wrong at one point of an operation.

use std::{
    panic::resume_unwind,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use engine::{
    Engine, Operation,
    fault::{COMMIT, Faults, Moment, Point, Verdict},
};

use testkit::bridge::BridgeHost;

use crate::world::SOON;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// That one effect or commit fails, before or after it happened.
    Fail,
    /// From there on nothing can be committed: the disk is full, or the database read-only.
    Full,
    /// The operation is cancelled.
    Cancel,
    /// The daemon is killed.
    Kill,
    /// Root's helper is killed.
    Helper,
}

impl Fault {
    /// What can go wrong everywhere.
    pub const ALL: [Self; 4] = [Self::Fail, Self::Full, Self::Cancel, Self::Kill];

    /// Whether that can happen there. What SQLite says it has committed, it has.
    pub fn fits(self, point: Point) -> bool {
        match self {
            Self::Fail => point.name != COMMIT || point.moment == Moment::Before,
            Self::Full => point.name == COMMIT && point.moment == Moment::Before,
            Self::Cancel | Self::Kill => true,
            // What is committed is committed without it as well.
            Self::Helper => point.name != COMMIT,
        }
    }
}

/// Holds up whoever comes to it, until it is opened.
#[derive(Debug, Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub fn pass(&self) {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_timeout_while(open, SOON, |open| !*open).unwrap());
    }
}

/// What a killed daemon's threads unwind with: no message, and nothing that they would do on the way.
struct Killed;

/// Listens to all points of a world. What is not armed goes well.
#[derive(Debug, Default)]
pub struct Controller {
    state: Mutex<State>,
    hold: Mutex<Option<Hold>>,
    /// The host of its world, where that has one.
    pub host: Mutex<Option<Arc<Mutex<BridgeHost>>>>,
}

/// Who comes before the effect of that name waits.
#[derive(Debug)]
struct Hold {
    name: &'static str,
    gate: Arc<Gate>,
    came: usize,
}

#[derive(Debug, Default)]
struct State {
    armed: bool,
    seen: Vec<Point>,
    faults: Vec<(usize, Fault)>,
    full: bool,
    killed: bool,
    operations: Vec<Operation>,
    engine: Option<Engine>,
}

impl Controller {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds up whoever comes before the effect `name` from now on, until the gate is opened.
    pub fn hold(&self, name: &'static str) -> Arc<Gate> {
        let gate = Arc::<Gate>::default();
        *self.hold.lock().unwrap() = Some(Hold { name, gate: gate.clone(), came: 0 });
        gate
    }

    /// How many came there.
    pub fn came(&self) -> usize {
        self.hold.lock().unwrap().as_ref().map_or(0, |hold| hold.came)
    }

    /// Lets `faults` happen at the points of those numbers from now on.
    pub fn arm(&self, faults: &[(usize, Fault)]) {
        *self.lock() = State { armed: true, faults: faults.to_vec(), ..State::default() };
    }

    /// Who is cancelled, beside others.
    pub fn watch(&self, operation: &Operation) {
        self.lock().operations.push(operation.clone());
    }

    /// All operations of `engine` are cancelled, also those that nobody asked for.
    pub fn watch_all(&self, engine: &Engine) {
        self.lock().engine = Some(engine.clone());
    }

    /// Lets all go well again, in a new daemon if the old one was killed; gives the points that were met.
    pub fn disarm(&self) -> Vec<Point> {
        std::mem::take(&mut *self.lock()).seen
    }

    /// How many points were met since the last [`Self::arm`].
    pub fn met(&self) -> usize {
        self.lock().seen.len()
    }

    /// Whether the daemon was killed.
    pub fn killed(&self) -> bool {
        self.lock().killed
    }
}

impl Faults for Controller {
    fn reach(&self, point: Point) -> Verdict {
        let held = match &mut *self.hold.lock().unwrap() {
            Some(hold) if hold.name == point.name && point.moment == Moment::Before => {
                hold.came += 1;
                Some(hold.gate.clone())
            }
            _ => None,
        };
        if let Some(gate) = held {
            gate.pass();
        }
        let mut state = self.lock();
        if !state.armed {
            return Verdict::GoOn;
        }
        if !state.killed {
            let number = state.seen.len();
            state.seen.push(point);
            let due: Vec<Fault> =
                state.faults.iter().filter(|(at, _)| *at == number).map(|(_, fault)| *fault).collect();
            for fault in due.into_iter().filter(|fault| *fault == Fault::Full || fault.fits(point)) {
                match fault {
                    Fault::Fail => return Verdict::Fail,
                    Fault::Full => state.full = true,
                    Fault::Cancel => {
                        state.operations.iter().for_each(Operation::cancel);
                        state.engine.iter().for_each(|engine| engine.operations().cancel_all());
                    }
                    Fault::Helper => {
                        let host = self.host.lock().unwrap().clone();
                        host.expect("only who has a helper can lose it").lock().unwrap().kill();
                    }
                    Fault::Kill => {
                        // A killed daemon holds nothing.
                        state.engine = None;
                        state.killed = true;
                    }
                }
            }
        }
        if state.killed {
            drop(state);
            resume_unwind(Box::new(Killed));
        }
        if state.full && Fault::Full.fits(point) { Verdict::Fail } else { Verdict::GoOn }
    }
}
