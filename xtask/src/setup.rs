//! The Debian packages that a task needs, and installing those that are missing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell;

/// What a task needs.
pub struct Needs {
    /// What it is for, in a message.
    pub task: &'static str,
    /// Each package with what it is for.
    pub packages: &'static [(&'static str, &'static str)],
    /// What is fetched later without being installed, so apt must know where from.
    pub fetched: &'static [&'static str],
    /// What an ordinary user needs besides.
    pub ordinary: &'static [(&'static str, &'static str)],
}

/// The package whose newest version is the guests' kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
const NEWUIDMAP: (&str, &str) = ("uidmap", "lets an ordinary user build an image with its owners");

/// Running banger from a clone.
pub static DEMO: Needs = Needs {
    task: "the demo",
    packages: &[
        ("gcc", "links the programs"),
        ("libc6-dev", "the agent is linked with its static archives"),
        ("qemu-system-x86", "runs the VMs"),
        ("mmdebstrap", "builds the default image"),
        ("ca-certificates", "the image's packages come over https"),
        ("passt", "connects VMs to the world without root"),
        ("nftables", "filters what VMs send"),
    ],
    fetched: &[KERNEL],
    ordinary: &[NEWUIDMAP],
};

/// Every check and test.
pub static CI: Needs = Needs {
    task: "the tests",
    packages: &[
        ("gcc", "links the programs"),
        ("libc6-dev", "the agent is linked with its static archives"),
        ("qemu-system-x86", "runs the VMs"),
        ("mmdebstrap", "builds the default image"),
        ("ca-certificates", "the image's packages come over https"),
        ("passt", "connects VMs to the world without root"),
        ("nftables", "filters what VMs send"),
        ("iproute2", "makes networks to test in"),
        ("bind9-dnsutils", "asks for names"),
        ("dnsmasq-base", "a resolver that machines are told names by"),
        ("e2fsprogs", "checks the file systems that banger writes"),
        ("binutils", "makes programs small that go into a machine"),
        ("busybox-static", "makes small guests"),
        ("cpio", "reads the boot payloads that banger writes"),
        ("kmod", "checks which modules banger packs"),
        ("xz-utils", "makes archives to read"),
        ("bzip2", "packs kernels to read"),
        ("lz4", "packs kernels to read"),
        ("zstd", "makes archives to read"),
        ("jq", "reads what banger prints, in an example of the book"),
        ("git", "lists the repository's files"),
        ("openssh-client", "the ssh that reaches VMs"),
        ("openssh-server", "an sshd to put into guests"),
        ("rsync", "reaches VMs through ssh"),
        ("umoci", "makes and unpacks images to compare with"),
        ("skopeo", "makes archives of images and pushes them"),
        ("docker-registry", "a registry to pull from"),
        ("minisign", "signs catalogs to pull from"),
        ("openssl", "certifies a registry that speaks HTTPS, and signs tokens"),
        ("nginx-light", "a web server to go on downloading from"),
    ],
    fetched: &[KERNEL],
    ordinary: &[NEWUIDMAP],
};

/// Whether packages may be installed without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Ask, where there is somebody to ask.
    Ask,
    /// The caller said yes already.
    Given,
}

/// Installs what `needs` names and is missing.
pub fn run(needs: &Needs, consent: Consent) -> Result<()> {
    let user = Command::new("id").arg("-u").stderr(Stdio::inherit()).output().context("cannot run id -u")?;
    let root = user.stdout.trim_ascii() == b"0";
    let mut wanted: Vec<(&str, &str)> = needs.packages.to_vec();
    if !root {
        wanted.extend(needs.ordinary);
    }
    let Ok(status) = fs::read_to_string("/var/lib/dpkg/status") else {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
        println!(
            "this is no Debian: make sure that {} has what these packages hold: {}",
            needs.task,
            names.join(" ")
        );
        return Ok(());
    };
    let installed = installed(&status);
    wanted.retain(|(name, _)| !installed.contains(name));
    if wanted.is_empty() {
        return if known(needs.fetched)? { Ok(()) } else { update(root) };
    }
    println!("{} needs these packages, which are missing:", needs.task);
    for (name, purpose) in &wanted {
        println!("  {name:<18} {purpose}");
    }
    if consent == Consent::Ask && shell::interactive() && !ask("install them with apt-get?")? {
        bail!("packages are missing");
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    if !known(&[&names, needs.fetched].concat())? {
        update(root)?;
    }
    shell::run(apt(root).args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(&names))
        .with_context(|| format!("cannot install the packages; as root: apt-get install {}", names.join(" ")))
}

/// Fetches apt's lists.
fn update(root: bool) -> Result<()> {
    shell::run(apt(root).args(["update", "--quiet"])).context("cannot fetch the lists of packages")
}

fn apt(root: bool) -> Command {
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
        sudo
    };
    command
        .args(["--option", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Whether apt's lists, which a new machine does not have yet, name all of `packages`.
fn known(packages: &[&str]) -> Result<bool> {
    let status = Command::new("apt-cache")
        .args(["--quiet=2", "--no-all-versions", "show"])
        .args(packages)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run apt-cache")?;
    Ok(status.success())
}

fn ask(question: &str) -> Result<bool> {
    eprint!("{question} [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer)?;
    Ok(read > 0 && matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

/// The names of the installed packages in dpkg's status file.
fn installed(status: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        if field("Status").is_some_and(|status| status.ends_with(" installed"))
            && let Some(name) = field("Package")
        {
            names.insert(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_are_installed_count() {
        let status = "Package: cpio\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: kmod\nStatus: deinstall ok config-files\n\n\
                      Package: zstd\nArchitecture: amd64\nStatus: hold ok installed\n Package: not-a-field\n\n\
                      Package: half\nStatus: install ok half-installed\n";
        assert_eq!(installed(status).into_iter().collect::<Vec<_>>(), ["cpio", "zstd"]);
    }

    #[test]
    fn the_tests_need_all_that_the_demo_needs() {
        for need in DEMO.packages {
            assert!(CI.packages.contains(need), "{} is missing", need.0);
        }
    }
}
