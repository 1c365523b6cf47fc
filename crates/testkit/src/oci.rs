//! Images of layers, made by umoci, and Debian's registry on this host to push them to.
#![expect(clippy::disallowed_methods, reason = "a test's files and processes are its own")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    home::wait_until,
    need,
    token::Issuer,
    umoci::{Umoci, run},
};

/// The user that a registry with [`Access::Password`] knows, and the password.
pub const USER: (&str, &str) = ("user", "secret");
/// The file of what is asked for.
const LOG: &str = "log";
/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2y$05$r7YVykFjncw4mRgXSIeDpObE/qx0HhTWaLSCrwJeD5cUE1f.9BJN2\n";

/// Makes the image `tag` in the new OCI layout `layout`: a layer for each of `layers`, a whiteout for each of `hidden`, and
/// what `config` says, in umoci's words. Without umoci the test has said that it skips.
///
/// # Panics
/// Where umoci does not do it.
#[must_use]
pub fn layout(layout: &Path, tag: &str, layers: &[&[u8]], hidden: &[&str], config: &[&str]) -> Option<()> {
    let umoci = Umoci::begin(layout, tag)?;
    layers.iter().for_each(|layer| umoci.add(layer));
    hidden.iter().for_each(|path| umoci.run(&["insert"], &["--rootless", "--whiteout", path]));
    umoci.run(&["config"], config);
    Some(())
}

/// Who may use a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anonymous,
    /// [`USER`].
    Password,
}

/// A registry of this test alone, on this host. It ends with the value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    skopeo: PathBuf,
    port: u16,
    access: Access,
    dir: PathBuf,
}

impl Registry {
    /// Starts one, with a directory of its own; without it or skopeo the test has said that it skips.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(access: Access) -> Option<Self> {
        Self::start_with(access, |dir| match access {
            Access::Anonymous => String::new(),
            Access::Password => {
                let passwords = dir.join("htpasswd");
                fs::write(&passwords, HTPASSWD).expect("a test's directory is writable");
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display())
            }
        })
    }

    /// Starts one that wants tokens of `issuer`, as which [`USER`] pushes.
    ///
    /// # Panics
    /// As [`Registry::start`].
    #[must_use]
    pub fn start_with_tokens(issuer: &Issuer) -> Option<Self> {
        Self::start_with(Access::Password, |_| issuer.configuration())
    }

    /// Starts one that speaks HTTPS as all of `names`, and gives the certificate of who vouches for it.
    ///
    /// # Panics
    /// As [`Registry::start`].
    #[must_use]
    pub fn start_secure(names: &[&str]) -> Option<(Self, PathBuf)> {
        let openssl = need::program("openssl", "openssl")?;
        let registry = Self::start_with(Access::Anonymous, |dir| {
            certify(&openssl, dir, names);
            let (certificate, key) = (dir.join("server.pem"), dir.join("server.key"));
            format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display())
        })?;
        let authority = registry.dir.join("ca.pem");
        Some((registry, authority))
    }

    fn start_with(access: Access, more: impl FnOnce(&Path) -> String) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let program = need::program("docker-registry", "docker-registry")?;
        let skopeo = need::program("skopeo", "skopeo")?;
        let name = format!("banger-registry-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let data = dir.join("data");
        fs::create_dir_all(&data).expect("a test's directory is writable");
        let config = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: false}}, fields: {{service: registry}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:0\n  secret: test\n{}",
            data.display(),
            more(&dir)
        );
        let path = dir.join("config.yml");
        fs::write(&path, config).expect("a test's directory is writable");
        let mut child = Command::new(program)
            .arg("serve")
            .arg(path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let mut access_log = fs::File::create(dir.join(LOG)).expect("a test's directory is writable");
        let mut stdout = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut access_log));
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split("listening on 127.0.0.1:").nth(1)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        // It must never wait for somebody who reads.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self { child, skopeo, port: port.expect("it says where it listens"), access, dir })
    }

    /// Where it is: host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes image `tag` of `layout` as `name`.
    ///
    /// # Panics
    /// Where skopeo does not do it.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) {
        let credentials = format!("--dest-creds={}:{}", USER.0, USER.1);
        let mut command = Command::new(&self.skopeo);
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if self.access == Access::Password {
            command.arg(credentials);
        }
        command.arg(format!("oci:{}:{tag}", layout.display()));
        run(command.arg(format!("docker://{}/{name}", self.address())));
    }

    /// The requests so far by the program that calls itself `agent`, as `GET /v2/x/manifests/y`. The log is written after the answer: who
    /// knows how many there are waits with [`Registry::requests_of`].
    ///
    /// # Panics
    /// Where its log cannot be read.
    #[must_use]
    pub fn requests(&self, agent: &str) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join(LOG)).expect("it was made at the start");
        let of = log.lines().filter(|line| line.contains(&format!("\"{agent}")));
        of.filter_map(|line| Some(line.split('"').nth(1)?.trim_end_matches(" HTTP/1.1").to_owned())).collect()
    }

    /// The same, once there are `count` of them.
    ///
    /// # Panics
    /// Where there are not so many within ten seconds.
    #[must_use]
    pub fn requests_of(&self, agent: &str, count: usize) -> Vec<String> {
        let there = || self.requests(agent).len() >= count;
        wait_until(Duration::from_secs(10), "the registry has told of its requests", there);
        self.requests(agent)
    }
}

/// Makes an authority in `dir`, and a certificate of its for `names`.
fn certify(openssl: &Path, dir: &Path, names: &[&str]) {
    // Without it openssl adds what its own configuration says.
    fs::write(dir.join("openssl.cnf"), "[req]\ndistinguished_name = name\n[name]\n")
        .expect("a test's directory is writable");
    let certificate = |file: &str, subject: &str, more: &[&str]| {
        let mut command = Command::new(openssl);
        command.args(["req", "-x509", "-config", "openssl.cnf", "-nodes", "-days", "2"]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.args(["-subj", &format!("/CN={subject}"), "-keyout", &format!("{file}.key")]);
        run(command.args(["-out", &format!("{file}.pem")]).args(more).current_dir(dir));
    };
    let authority = "basicConstraints=critical,CA:TRUE";
    certificate("ca", "the test's authority", &["-addext", authority, "-addext", "keyUsage=keyCertSign"]);
    let all: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let alternatives = format!("subjectAltName={}", all.join(","));
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", &alternatives];
    certificate(
        "server",
        names[0],
        &[&signed[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat(),
    );
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
