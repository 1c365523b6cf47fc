//! A banger of the benches' own: its files below `target/bench`, where the image stays for the next time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::quietly;
use crate::shell;

/// The image that benches boot.
const IMAGE: &str = "bench-minimal";

/// Its VMs and its daemon end with it.
pub struct World {
    programs: PathBuf,
    home: PathBuf,
}

impl World {
    /// Begins without VMs.
    pub fn new() -> Result<Self> {
        let target = shell::target()?;
        let home = target.join("bench");
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let world = Self { programs: target.join("release"), home };
        world.clear()?;
        Ok(world)
    }

    /// Runs `banger` with `words`, which must succeed.
    pub fn banger(&self, words: &[&str]) -> Result<Vec<u8>> {
        quietly(&mut self.command(words))
    }

    /// `banger` with `words`, to be run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("banger"));
        command.args(words).env("BANGER_HOME", &self.home);
        command
    }

    /// The parsed output of `banger` with `words`.
    fn json(&self, words: &[&str]) -> Result<Value> {
        let output = self.banger(&[words, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output).with_context(|| format!("banger {} printed no JSON", words.join(" ")))
    }

    /// A VM as `vm show` tells it.
    pub fn show(&self, name: &str) -> Result<Value> {
        self.json(&["vm", "show", name])
    }

    /// The minimal Debian image, built the first time.
    pub fn minimal_image(&self) -> Result<String> {
        if self.banger(&["image", "show", IMAGE]).is_err() {
            println!("building the image (once)");
            self.banger(&["image", "build", "debian-bookworm", "--variant", "minimal", "--name", IMAGE])?;
        }
        Ok(IMAGE.to_owned())
    }

    /// `count` VMs that are not started.
    pub fn crowd(&self, count: usize) -> Result<()> {
        let image = self.minimal_image()?;
        for number in 0..count {
            let name = format!("bench-crowd-{number}");
            self.banger(&["vm", "create", "--no-start", "--image", &image, "--name", &name])?;
        }
        Ok(())
    }

    /// The daemon's resident memory in MiB.
    pub fn daemon_resident(&self) -> Result<f64> {
        let status = self.json(&["daemon", "status"])?;
        let pid = status["pid"].as_u64().context("the daemon's status has no pid")?;
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in the status")?;
        let kibibytes: f64 =
            line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
        Ok(kibibytes / 1024.0)
    }

    /// The part of the boot payload that all VMs share.
    pub fn base_payload(&self) -> Result<PathBuf> {
        let directory = self.home.join("cache/payload");
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let newest =
            entries.flatten().max_by_key(|entry| entry.metadata().and_then(|about| about.modified()).ok());
        Ok(newest.context("there is no boot payload")?.path())
    }

    /// A kernel of its as Firecracker boots it, the bare ELF file.
    pub fn kernel(&self) -> Result<PathBuf> {
        let directory = self.home.join("state/kernels");
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let kernel = entries.flatten().map(|entry| entry.path().join("vmlinux")).find(|path| path.is_file());
        kernel.context("there is no kernel")
    }

    fn clear(&self) -> Result<()> {
        let vms = self.json(&["vm", "list"])?;
        let vms = vms["vms"].as_array().context("vm list printed no list of VMs")?;
        let names: Vec<&str> = vms.iter().filter_map(|vm| vm["name"].as_str()).collect();
        for some in names.chunks(50) {
            self.banger(&[&["vm", "delete"], some].concat())?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.clear().and_then(|()| self.banger(&["daemon", "stop"]).map(drop)) {
            eprintln!("warning: the benches' VMs may still be there: {error:#}");
        }
    }
}

/// Where the time of a start went.
pub struct Timeline {
    /// On the host: from the VMM running to the agent's answer.
    pub waited_for_guest: Duration,
    /// In the guest: from the kernel's begin to `/init`.
    pub kernel: Duration,
    /// In the guest: from `/init` to the agent answering.
    pub guest: Duration,
}

impl Timeline {
    /// Reads it from what `vm show` says.
    pub fn of(vm: &Value) -> Result<Self> {
        let phases = vm["timeline"].as_array().context("the VM has no timeline")?;
        let time = |phase: &Value, key: &str| phase[key].as_u64().map(Duration::from_micros);
        let in_guest: Vec<&Value> = phases.iter().filter(|phase| phase["place"] == "guest").collect();
        let wait = phases.iter().find(|phase| phase["place"] == "host" && phase["name"] == "guest");
        let waited_for_guest =
            wait.and_then(|phase| time(phase, "took_us")).context("no host phase `guest`")?;
        let first = in_guest.first().context("no guest phases")?;
        let last = in_guest.last().context("no guest phases")?;
        let at = |phase| time(phase, "at_us").context("a phase without a time");
        let kernel = at(first)?.saturating_sub(time(first, "took_us").context("a phase without a length")?);
        Ok(Self { waited_for_guest, kernel, guest: at(last)?.saturating_sub(kernel) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_split_where_init_begins() {
        let vm = serde_json::json!({"timeline": [
            {"place": "host", "name": "disks", "at_us": 900, "took_us": 900},
            {"place": "host", "name": "guest", "at_us": 3_000_900, "took_us": 3_000_000},
            {"place": "guest", "name": "mount", "at_us": 2_010_000, "took_us": 10_000},
            {"place": "guest", "name": "listen", "at_us": 2_300_000, "took_us": 5_000},
        ]});
        let timeline = Timeline::of(&vm).unwrap();
        assert_eq!(timeline.waited_for_guest, Duration::from_secs(3));
        assert_eq!(timeline.kernel, Duration::from_secs(2));
        assert_eq!(timeline.guest, Duration::from_millis(300));
    }
}
