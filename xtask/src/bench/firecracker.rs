//! Firecracker alone, for comparison: what a script does that starts one machine by its API, up to the answer to `InstanceStart`.
//!
//! It takes what KVM there is; the guest is of no interest, and ends with its Firecracker.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::world::World;

/// How long a Firecracker may take to be there.
const SOON: Duration = Duration::from_secs(10);
/// The disks of a VM.
const DISKS: [&str; 3] = ["image", "overlay", "work"];

/// How a machine is started without banger.
pub struct Script {
    program: PathBuf,
    directory: PathBuf,
}

impl Script {
    /// With the Firecracker that banger takes, the initramfs of its VMs and the kernel of one of them; `None` where there is no KVM or no
    /// Firecracker.
    pub fn of(world: &World) -> Result<Option<Self>> {
        let program =
            std::env::var_os("BANGER_FIRECRACKER_BIN").map_or_else(|| "firecracker".into(), PathBuf::from);
        let there =
            Command::new(&program).arg("--version").output().is_ok_and(|output| output.status.success());
        let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if !there || !kvm {
            println!("skipped: no Firecracker, or no KVM that opens");
            return Ok(None);
        }
        let directory = std::env::temp_dir().join(format!("banger-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let script = Self { program, directory };
        let place = |name: &str| script.directory.join(name);
        fs::copy(world.base_payload()?, place("initrd")).context("cannot copy the boot payload")?;
        fs::copy(world.kernel()?, place("kernel")).context("cannot copy the kernel")?;
        for disk in DISKS {
            fs::File::create(place(disk))
                .and_then(|file| file.set_len(8 << 30))
                .context("cannot make a disk")?;
        }
        Ok(Some(script))
    }

    /// How long it takes from the start of Firecracker until it has started its guest.
    pub fn until_started(&self) -> Result<Duration> {
        let socket = self.directory.join("api.sock");
        for left in [&socket, &self.directory.join("agent.sock")] {
            let _ = fs::remove_file(left);
        }
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(["--api-sock", "api.sock", "--id", "bench"]).current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _firecracker = Ended(command.spawn().context("cannot run Firecracker")?);
        while UnixStream::connect(&socket).is_err() {
            if begin.elapsed() > SOON {
                bail!("Firecracker did not come up");
            }
            thread::sleep(Duration::from_millis(1));
        }
        put(&socket, "/machine-config", r#"{"vcpu_count": 1, "mem_size_mib": 256}"#)?;
        let words = "console=ttyS0 reboot=k panic=-1";
        let boot =
            format!(r#"{{"kernel_image_path": "kernel", "initrd_path": "initrd", "boot_args": "{words}"}}"#);
        put(&socket, "/boot-source", &boot)?;
        for disk in DISKS {
            let drive = format!(
                r#"{{"drive_id": "{disk}", "path_on_host": "{disk}", "is_root_device": false, "is_read_only": false, "cache_type": "Writeback"}}"#
            );
            put(&socket, &format!("/drives/{disk}"), &drive)?;
        }
        put(&socket, "/vsock", r#"{"guest_cid": 3, "uds_path": "agent.sock"}"#)?;
        put(&socket, "/entropy", "{}")?;
        put(&socket, "/balloon", r#"{"amount_mib": 0, "deflate_on_oom": true}"#)?;
        put(&socket, "/actions", r#"{"action_type": "InstanceStart"}"#)?;
        Ok(begin.elapsed())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// How long a new VM of banger's takes, its command line included, until its guest is started. It is given up then.
pub fn until_started(world: &World, image: &str, name: &str) -> Result<Duration> {
    let begin = Instant::now();
    let mut command =
        world.command(&["vm", "create", "--image", image, "--name", name, "--vmm", "firecracker"]);
    command.args(["--vcpu", "1", "--memory", "256M"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut banger = Ended(command.spawn().context("cannot run banger")?);
    let said = BufReader::new(banger.0.stderr.take().context("it has a standard error")?);
    let mut all = String::new();
    let mut started = None;
    for line in said.lines().map_while(std::result::Result::ok) {
        if line == "waiting for agent" {
            started = Some(begin.elapsed());
            break;
        }
        all = all + "\n" + &line;
    }
    drop(banger);
    // What is taken back is not measured with what comes next.
    let soon = Instant::now();
    while world.banger(&["vm", "show", name]).is_ok() {
        if soon.elapsed() > SOON {
            bail!("a VM whose owner went is still there");
        }
        thread::sleep(Duration::from_millis(5));
    }
    started.with_context(|| format!("banger started no guest:{all}"))
}

fn put(socket: &Path, path: &str, body: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("Firecracker is gone")?;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).context("Firecracker is gone")?;
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).context("Firecracker is gone")?;
    let answer = String::from_utf8_lossy(&answer[..count]);
    if !answer.starts_with("HTTP/1.1 204") {
        bail!("Firecracker refused {path}: {answer}");
    }
    Ok(())
}

/// Ended when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
