//! The figures of SPECIFICATION.md, measured on the real programs of a release build.
//!
//! Each figure is a median of several, and where that makes sense a ratio of two things measured in turn in the same
//! run, so that it means the same on another machine. A bench that belongs to one crate lives there and is only named
//! here.

mod bare;
mod firecracker;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{binaries, shell};
use world::World;

/// One figure.
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    limit: Limit,
}

/// What a figure may be.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// It is there to be read.
    None,
}

impl Figure {
    fn kept(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.value <= limit,
            Limit::AtLeast(limit) => self.value >= limit,
            Limit::None => true,
        }
    }
}

struct Bench {
    name: &'static str,
    what: &'static str,
    needs: Needs,
    measure: fn(runs: usize) -> Result<Vec<Figure>>,
}

/// What a bench needs beside its own program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// banger and what belongs to it, as they are released.
    Programs,
}

const BENCHES: &[Bench] = &[
    Bench { name: "agent", what: "the agent's size on disk", needs: Needs::Programs, measure: agent },
    Bench {
        name: "import",
        what: "a root tar into an image (cargo bench -p image)",
        needs: Needs::Nothing,
        measure: import,
    },
    Bench {
        name: "layers",
        what: "layers into an image (cargo bench -p image)",
        needs: Needs::Nothing,
        measure: layers,
    },
    Bench {
        name: "million",
        what: "the memory that a million entries take",
        needs: Needs::Nothing,
        measure: million,
    },
    Bench {
        name: "kernel",
        what: "a kernel of a Debian package (cargo bench -p image)",
        needs: Needs::Nothing,
        measure: kernel,
    },
    Bench {
        name: "lifecycle",
        what: "many VMs at once (cargo bench -p daemon)",
        needs: Needs::Programs,
        measure: lifecycle,
    },
    Bench {
        name: "create",
        what: "host and guest side of a create, whole runs over bare QEMU",
        needs: Needs::Programs,
        measure: create,
    },
    Bench {
        name: "workspace",
        what: "a repository into a VM, and its changes out (cargo bench -p daemon)",
        needs: Needs::Programs,
        measure: workspace,
    },
    Bench {
        name: "exec",
        what: "`vm exec` over the agent's bare exec (cargo bench -p daemon)",
        needs: Needs::Programs,
        measure: exec,
    },
    Bench {
        name: "network",
        what: "tap and rules of a VM over one bare nft (cargo bench -p helper)",
        needs: Needs::Programs,
        measure: network,
    },
    Bench {
        name: "names",
        what: "answers of the server for names (cargo bench -p engine)",
        needs: Needs::Programs,
        measure: names,
    },
    Bench {
        name: "firecracker",
        what: "a guest under Firecracker, over a script that starts one",
        needs: Needs::Programs,
        measure: under_firecracker,
    },
    Bench {
        name: "restore",
        what: "a VM that goes on from a snapshot, over one that boots",
        needs: Needs::Programs,
        measure: restore,
    },
    Bench { name: "list", what: "`banger vm list`", needs: Needs::Programs, measure: list },
    Bench {
        name: "resident",
        what: "the daemon's memory with 10 running and 100 stopped VMs",
        needs: Needs::Programs,
        measure: resident,
    },
];

/// How often each thing is measured.
const RUNS: usize = 7;

/// Runs the benches that `names` lists, or all, and fails where a figure misses its limit.
pub fn run(mut names: &[&str]) -> Result<()> {
    let mut runs = RUNS;
    if let ["--runs", number, rest @ ..] = names {
        runs = number.parse().with_context(|| format!("not a number of runs: {number}"))?;
        names = rest;
    }
    if let Some(unknown) = names.iter().find(|name| BENCHES.iter().all(|bench| bench.name != **name)) {
        let list: Vec<String> =
            BENCHES.iter().map(|bench| format!("  {:<10} {}", bench.name, bench.what)).collect();
        bail!("no bench is called {unknown}; there are\n{}", list.join("\n"));
    }
    let is_wanted = |bench: &&Bench| names.is_empty() || names.contains(&bench.name);
    if BENCHES.iter().filter(is_wanted).any(|bench| bench.needs == Needs::Programs) {
        binaries::build(binaries::Profile::Release)?;
    }
    let mut figures = Vec::new();
    for bench in BENCHES.iter().filter(is_wanted) {
        println!("== {}: {}", bench.name, bench.what);
        figures.extend((bench.measure)(runs).with_context(|| format!("bench {}", bench.name))?);
    }
    println!("\n{:<60} {:>12} {:>12}", "figure", "median", "limit");
    for figure in &figures {
        // Two digits, where there are more.
        let short = |limit: f64| (limit * 100.0).round() / 100.0;
        let limit = match figure.limit {
            Limit::AtMost(limit) => format!("≤ {} {}", short(limit), figure.unit),
            Limit::AtLeast(limit) => format!("≥ {} {}", short(limit), figure.unit),
            Limit::None => String::new(),
        };
        let verdict = if figure.kept() { "" } else { "  MISSED" };
        println!(
            "{:<60} {:>12} {limit:>12}{verdict}",
            figure.what,
            format!("{:.2} {}", figure.value, figure.unit)
        );
    }
    let missed = figures.iter().filter(|figure| !figure.kept()).count();
    if missed > 0 {
        bail!("{missed} figures missed their limits");
    }
    Ok(())
}

fn agent(_runs: usize) -> Result<Vec<Figure>> {
    let path = shell::target()?.join("release/banger-agent");
    let size = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    #[expect(clippy::cast_precision_loss, reason = "a few million")]
    let mebibytes = size as f64 / f64::from(1 << 20);
    Ok(vec![Figure {
        what: "agent on disk".into(),
        value: mebibytes,
        unit: "MiB",
        limit: Limit::AtMost(4.0),
    }])
}

fn import(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("image", "import", &[])
}

fn layers(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("image", "layers", &[])
}

/// Of one archive and of layers. How long it takes among so many entries is nobody's promise.
fn million(_runs: usize) -> Result<Vec<Figure>> {
    let words = ["--", "1000000", "200"];
    let mut figures = of_crate("image", "import", &words)?;
    figures.extend(of_crate("image", "layers", &words)?);
    figures.retain(|figure| figure.what.ends_with("peak memory"));
    Ok(figures)
}

fn kernel(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("image", "kernel", &[])
}

fn lifecycle(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("daemon", "lifecycle", &[])
}

fn names(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("engine", "dns", &[])
}

fn network(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("helper", "guest", &[])
}

fn workspace(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("daemon", "workspace", &[])
}

fn exec(_runs: usize) -> Result<Vec<Figure>> {
    of_crate("daemon", "exec", &[])
}

/// A bench that belongs to its crate says its figures in lines like `what: 1.2 (at most 1.5)`.
fn of_crate(package: &str, bench: &str, arguments: &[&str]) -> Result<Vec<Figure>> {
    let words = ["bench", "--locked", "--package", package, "--bench", bench];
    let output = quietly(shell::cargo().args(words).args(arguments))?;
    let output = String::from_utf8(output).context("the bench printed something that is not UTF-8")?;
    print!("{output}");
    let figures: Vec<Figure> = output.lines().filter_map(|line| said(bench, line)).collect();
    if figures.is_empty() {
        bail!("the bench said no figure");
    }
    Ok(figures)
}

/// The figure that a line of a crate's bench says.
fn said(bench: &str, line: &str) -> Option<Figure> {
    let (what, rest) = line.rsplit_once(": ")?;
    let (value, limit) = rest.strip_suffix(')')?.split_once(" (")?;
    let number = |text: &str| -> Option<(f64, &'static str)> {
        match text.split_once(' ') {
            Some((kibibytes, "KiB")) => Some((kibibytes.parse::<f64>().ok()? / 1024.0, "MiB")),
            Some((seconds, "s")) => Some((seconds.parse().ok()?, "s")),
            Some((milliseconds, "ms")) => Some((milliseconds.parse().ok()?, "ms")),
            Some(_) => None,
            None => Some((text.parse().ok()?, "x")),
        }
    };
    let (value, unit) = number(value)?;
    let limit = if let Some(most) = limit.strip_prefix("at most ") {
        Limit::AtMost(number(most)?.0)
    } else {
        Limit::AtLeast(number(limit.strip_prefix("at least ")?)?.0)
    };
    Some(figure(&format!("{bench}: {what}"), value, unit, limit))
}

/// One image, one VM at a time; whole runs and bare QEMU in turn.
fn create(runs: usize) -> Result<Vec<Figure>> {
    let world = World::new()?;
    let image = world.minimal_image()?;
    let mut host = Vec::new();
    let mut guest = Vec::new();
    let mut whole = Vec::new();
    let mut bare = Vec::new();
    // The first start makes the templates and the shared part of the payload, which later ones find.
    world.banger(&["vm", "run", "--rm", "--image", &image, "--", "true"])?;
    for run in 0..runs {
        let name = format!("bench-create-{run}");
        let begin = Instant::now();
        world.banger(&["vm", "create", "--image", &image, "--name", &name])?;
        let wall = begin.elapsed();
        let vm = world.show(&name)?;
        let timeline = world::Timeline::of(&vm)?;
        host.push(millis(wall.saturating_sub(timeline.waited_for_guest)));
        guest.push(timeline.guest.as_secs_f64() / timeline.kernel.as_secs_f64() * 100.0);
        let machine = bare::Machine::like(&world, &vm)?;
        world.banger(&["vm", "delete", &name])?;
        let begin = Instant::now();
        world.banger(&["vm", "run", "--rm", "--image", &image, "--", "true"])?;
        whole.push(begin.elapsed());
        bare.push(machine.until_init()?);
    }
    let (whole, bare) =
        (median(whole.iter().map(Duration::as_secs_f64)), median(bare.iter().map(Duration::as_secs_f64)));
    Ok(vec![
        figure("host side of a create, the command line included", median(host), "ms", Limit::AtMost(100.0)),
        figure(
            "guest side: /init to answer, over the kernel's own boot",
            median(guest),
            "%",
            Limit::AtMost(25.0),
        ),
        figure("bare QEMU to /init", bare, "s", Limit::None),
        figure("vm run --rm -- true", whole, "s", Limit::None),
        figure("the same less 0.5 s, over bare QEMU to /init", (whole - 0.5) / bare, "x", Limit::AtMost(1.5)),
    ])
}

/// Both in turn, of the same image and size, by QEMU.
fn restore(runs: usize) -> Result<Vec<Figure>> {
    const SNAPSHOT: &str = "bench-restore";
    let world = World::new()?;
    let image = world.minimal_image()?;
    let create = |name: &str, from: &[&str]| {
        let words = ["vm", "create", "--vmm", "qemu", "--memory", "512M", "--name", name];
        let begin = Instant::now();
        world.banger(&[&words, from].concat())?;
        let took = begin.elapsed();
        world.banger(&["vm", "exec", name, "--", "true"])?;
        Ok::<_, anyhow::Error>(took.as_secs_f64())
    };
    // One may be left of a run that was interrupted.
    let _ = world.banger(&["snapshot", "delete", SNAPSHOT]);
    create("bench-saved", &["--image", &image])?;
    world.banger(&["vm", "snapshot", "bench-saved", SNAPSHOT])?;
    world.banger(&["vm", "delete", "bench-saved"])?;
    let (mut cold, mut restored) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        cold.push(create("bench-cold", &["--image", &image])?);
        restored.push(create("bench-restored", &["--snapshot", SNAPSHOT])?);
        world.banger(&["vm", "delete", "bench-cold", "bench-restored"])?;
    }
    world.banger(&["snapshot", "delete", SNAPSHOT])?;
    let (cold, restored) = (median(cold), median(restored));
    Ok(vec![
        figure("a VM boots, until its agent answers", cold, "s", Limit::None),
        figure("a VM goes on from a snapshot, until its agent answers", restored, "s", Limit::None),
        figure("the former over the latter", cold / restored, "x", Limit::AtLeast(3.0)),
    ])
}

/// Both in turn. It takes `accelerator = "kvm"` for granted where `BANGER_ACCELERATOR` says so.
fn under_firecracker(runs: usize) -> Result<Vec<Figure>> {
    let world = World::new()?;
    let image = world.minimal_image()?;
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    let Some(script) = firecracker::Script::of(&world)? else { return Ok(Vec::new()) };
    for run in 0..=runs.max(11) {
        let ours = millis(firecracker::until_started(&world, &image, &format!("bench-firecracker-{run}"))?);
        let theirs = millis(script.until_started()?);
        // The first one makes what later ones find.
        if run > 0 {
            whole.push(ours);
            bare.push(theirs);
        }
    }
    let (whole, bare) = (median(whole), median(bare));
    Ok(vec![
        figure("a script from Firecracker's start to its guest's", bare, "ms", Limit::None),
        figure("banger from the command line to its guest's start", whole, "ms", Limit::None),
        figure("the same, beyond that script", whole - bare, "ms", Limit::AtMost(40.0)),
    ])
}

fn list(runs: usize) -> Result<Vec<Figure>> {
    let world = World::new()?;
    world.crowd(100)?;
    let mut walls = Vec::new();
    for _ in 0..runs.max(21) {
        let begin = Instant::now();
        world.banger(&["vm", "list"])?;
        walls.push(millis(begin.elapsed()));
    }
    Ok(vec![figure("banger vm list, wall, 100 VMs", median(walls), "ms", Limit::AtMost(15.0))])
}

fn resident(_runs: usize) -> Result<Vec<Figure>> {
    let world = World::new()?;
    let image = world.minimal_image()?;
    world.crowd(100)?;
    let alone = world.daemon_resident()?;
    for number in 0..10 {
        let name = format!("bench-running-{number}");
        world.banger(&["vm", "create", "--image", &image, "--memory", "256M", "--name", &name])?;
        world.banger(&["vm", "exec", &name, "--", "true"])?;
    }
    let value = world.daemon_resident()?;
    Ok(vec![
        figure("daemon resident, 10 running and 100 stopped VMs", value, "MiB", Limit::AtMost(30.0)),
        figure("what each running VM adds to that", (value - alone) / 10.0, "MiB", Limit::AtMost(2.0)),
    ])
}

fn figure(what: &str, value: f64, unit: &'static str, limit: Limit) -> Figure {
    Figure { what: what.to_owned(), value, unit, limit }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Fails unless `command` succeeds; what it says on standard error is shown then.
fn quietly(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {}", shell::words(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}\n{}", shell::words(command), output.status, said.trim_end());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }

    #[test]
    fn figures_of_a_crates_bench() {
        let said = |line| said("import", line);
        let figure = said("wall, import to copy: 1.62 (at most 1.5)").unwrap();
        assert_eq!(
            (figure.what.as_str(), figure.unit, figure.kept()),
            ("import: wall, import to copy", "x", false)
        );
        let figure = said("cpu beyond that copy, mke2fs -d to import: 12.0 (at least 10)").unwrap();
        assert!(figure.kept());
        let figure = said("peak memory: 2048 KiB (at most 4096 KiB)").unwrap();
        assert!((figure.value - 2.0).abs() < f64::EPSILON);
        let figure = said("wall, import of a package: 2.5 s (at most 5 s)").unwrap();
        assert_eq!((figure.unit, figure.kept()), ("s", true));
        let figure = said("vm exec, over the bare one: 7.1 ms (at most 20 ms)").unwrap();
        assert_eq!((figure.unit, figure.kept()), ("ms", true));
        assert!(said("image: 500000000 bytes").is_none());
        assert!(said("a: 5 apples (at most 6)").is_none());
    }

    #[test]
    fn a_missed_limit_is_missed() {
        assert!(figure("a", 1.0, "s", Limit::AtMost(1.0)).kept());
        assert!(!figure("a", 1.1, "s", Limit::AtMost(1.0)).kept());
        assert!(!figure("a", f64::NAN, "s", Limit::AtMost(1.0)).kept());
    }
}
