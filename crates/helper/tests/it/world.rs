//! A host of a test's own with this crate's helper, and its guests.

use std::{
    num::NonZeroU16,
    ops::{Deref, DerefMut},
    path::Path,
    thread,
    time::Instant,
};

use model::VmId;
use testkit::bridge::BridgeHost;
pub use testkit::bridge::{DEADLINE, Namespace, exchange, packet};
use wire::helper::Guest;

/// Whose installation it is.
pub const OWNER: u32 = 12_345;
/// The host's address.
pub const GATEWAY: [u8; 4] = [172, 30, 0, 1];

/// A host with a helper.
pub struct World(BridgeHost);

impl World {
    /// A host with a helper that runs; `None` where the test cannot have one.
    pub fn new() -> Option<Self> {
        let mut world = Self::without_helper("")?;
        world.begin();
        Some(world)
    }

    /// The same with further settings and before the helper begins.
    pub fn without_helper(settings: &str) -> Option<Self> {
        Self::at(&std::env::temp_dir(), settings)
    }

    /// The same with its files below `place`.
    pub fn at(place: &Path, settings: &str) -> Option<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_banger-helper"));
        BridgeHost::at(program, place, &format!("owner = {OWNER}\n{settings}")).map(Self)
    }
}

impl Deref for World {
    type Target = BridgeHost;

    fn deref(&self) -> &BridgeHost {
        &self.0
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut BridgeHost {
        &mut self.0
    }
}

/// A guest with address `172.30.0.n`.
pub fn guest(n: u8) -> Guest {
    Guest { vm: VmId::from_bytes([n; 6]), host_number: u16::from(n), group: None, nat: false }
}

/// The same in a group.
pub fn in_group(n: u8, group: u16) -> Guest {
    Guest { group: NonZeroU16::new(group), ..guest(n) }
}

/// Waits until `holds`.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::yield_now();
    }
}
