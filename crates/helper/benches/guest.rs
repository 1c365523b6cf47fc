//! What tap and rules of a VM cost over one bare run of nft.
//!
//! ```text
//! cargo bench -p helper --bench guest
//! ```
//! Both are measured in turn, in a network namespace of the bench's own. It needs root.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench measures the real thing and prints what it found"
)]

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use wire::helper::{Ask, Guest};
use world::{World, guest};

#[expect(dead_code, unused_imports, reason = "the tests need more of it")]
#[path = "../tests/it/world.rs"]
mod world;

/// How often each is measured.
const RUNS: u8 = 41;
/// Guests that are there already.
const OTHERS: u8 = 20;

fn main() {
    // Where the helper's own files lie on an installed system there is no disk either.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let Some(mut world) = World::at(&place, "") else { return };
    world.begin();
    world.done(Ask::EnsureBridge);
    for n in 0..OTHERS {
        world.done(Ask::ApplyRules(guest(200 + n)));
    }
    // The least that is a transaction: one element more, in a table that is there.
    world.host.sh("nft add table inet bare; nft add set inet bare nat '{ type ipv4_addr; }'");
    let rules = world.root.join("rules");
    fs::write(&rules, "add element inet bare nat { 172.30.0.2 }\n").unwrap();
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for n in 2..2 + RUNS {
        let begin = Instant::now();
        let run = || Command::new("nft").arg("-f").arg(&rules).status().unwrap();
        assert!(world.host.run(run).success());
        bare.push(begin.elapsed());
        let guest = Guest { nat: true, ..guest(n) };
        let begin = Instant::now();
        world.done(Ask::CreateTap(guest.vm));
        world.done(Ask::ApplyRules(guest));
        whole.push(begin.elapsed());
        world.done(Ask::RemoveRules(guest.vm));
        world.done(Ask::RemoveTap(guest.vm));
    }
    let (bare, whole) = (median(bare), median(whole));
    println!("bare nft -f: {:.1} ms; tap and rules of a VM: {:.1} ms", millis(bare), millis(whole));
    println!(
        "tap and rules of a VM over one nft -f: {:.2} (at most 3)",
        whole.as_secs_f64() / bare.as_secs_f64()
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
