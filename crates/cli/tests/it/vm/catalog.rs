//! Images and kernels of a catalog, from the publisher's command to a machine that runs, and what is said where there is none.
#![expect(clippy::disallowed_methods, reason = "tests use the machine's own tools")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use testkit::{
    catalog::Publisher,
    home::Home,
    images::Tar,
    oci::{self, Registry},
    tree,
};

use super::home;

/// Has `cargo xtask bundle` publish what lies in `from`.
fn bundle(home: &Home, publisher: &Publisher, words: [&str; 2], from: &Path, more: &[&str]) {
    let program = home.programs().join("xtask");
    assert!(program.exists(), "xtask is not beside banger: run `cargo xtask build` first");
    let (into, key) = (publisher.directory(), publisher.directory().join("key"));
    let mut xtask = Command::new(program);
    xtask.arg("bundle").args(words).arg(from).arg("--into").arg(into).arg("--key").arg(key).args(more);
    let output = xtask.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of the only directory in `place`: tar takes it for a change where other tests link what is in it.
fn copy(place: &Path, to: &Path) {
    let found = tree::list(place);
    assert_eq!(found.len(), 1, "{found:?}");
    tree::copy(&found[0], to);
}

#[test]
fn what_xtask_bundles_is_pulled_by_its_name_and_runs() {
    let Some(home) = home() else { return };
    let Some(publisher) = Publisher::new(&home.path().join("published")) else { return };
    let state = home.path().join("state");
    let (image, kernel) = (home.path().join("image"), home.path().join("kernel"));
    copy(&state.join("images"), &image);
    copy(&state.join("kernels"), &kernel);
    bundle(&home, &publisher, ["kernels", "boxed"], &kernel, &[]);
    let described = ["--kernel", "boxed", "--distro", "none", "--description", "a box"];
    bundle(&home, &publisher, ["images", "box"], &image, &described);
    fs::create_dir_all(home.path().join("config")).unwrap();
    let config = format!(
        "image_catalog = '{}'\nkernel_catalog = '{}'\ncatalog_key = '{}'\n",
        publisher.address("images.json"),
        publisher.address("kernels.json"),
        publisher.key()
    );
    fs::write(home.path().join("config/config.toml"), config).unwrap();
    // The daemon of before does not know of it.
    let _ = home.run(&["daemon", "stop"]);

    let refreshed = home.ok(&["catalog", "refresh"]);
    assert_eq!(refreshed, "images: 1 for this host, serial 2\nkernels: 1 for this host, serial 2");
    let listed = home.ok(&["image", "list", "--available"]);
    let row: Vec<_> = listed.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    assert_eq!((row[0], row[2].trim(), row[3].trim(), row[4].trim()), ("box", "none", "no", "a box"));
    assert_eq!(home.ok(&["image", "pull", "box"]), "box");
    let shown: serde_json::Value =
        serde_json::from_str(&home.ok(&["image", "show", "box", "-o", "json"])).unwrap();
    assert_eq!(shown["kernel"], "boxed");
    let words = ["vm", "run", "--rm", "--image", "box", "--memory", "256M", "--", "echo", "it runs"];
    assert_eq!(home.ok(&words), "it runs");

    // The same files are the same bundle, and another key's catalog is none.
    bundle(&home, &publisher, ["images", "box"], &image, &described);
    let bundles = tree::list(publisher.directory());
    let bundles = bundles.iter().filter(|path| path.to_string_lossy().ends_with(".tar.zst"));
    assert_eq!(bundles.count(), 2);
    let stranger = Publisher::new(&home.path().join("stranger")).unwrap();
    let signature = "images.json.minisig";
    stranger.publish_text("images", &fs::read(publisher.directory().join("images.json")).unwrap());
    fs::copy(stranger.directory().join(signature), publisher.directory().join(signature)).unwrap();
    let refused = home.run(&["catalog", "refresh"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("cannot refresh the catalog of images"), "{}", refused.stderr);
}

#[test]
fn who_has_no_catalog_is_told_what_to_set() {
    // Nobody is there, so that Docker Hub is not waited for.
    let home = Home::empty(env!("CARGO_BIN_EXE_banger")).with_env("HTTPS_PROXY", "http://127.0.0.1:1");
    for (kind, setting) in [("image", "image_catalog"), ("kernel", "kernel_catalog")] {
        let output = home.run(&[kind, "list", "--available"]);
        assert_eq!((output.code(), output.text().lines().count()), (0, 1));
        let expected = format!(
            "there is no catalog of {kind}s yet: set {setting} and catalog_key in config.toml, then banger catalog refresh\n"
        );
        assert_eq!(output.stderr, expected);
    }
    let output = home.run(&["image", "pull", "debian-bookworm"]);
    assert_eq!(output.code(), 1);
    for expected in [
        "no catalog has the image debian-bookworm, and Docker Hub does not give it",
        "cannot reach registry-1.docker.io",
        "hint: set image_catalog and catalog_key in config.toml to pull by name; banger image build debian-bookworm makes it here",
    ] {
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
    let output = home.run(&["kernel", "pull", "debian-cloud"]);
    assert!(output.code() != 0 && output.stderr.contains("hint: "), "{}", output.stderr);
}

/// An HTTP proxy whose every tunnel leads to one address, and what it was asked for.
pub(super) fn proxy(to: String) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (heard, to) = (Arc::clone(&heard), to.clone());
            std::thread::spawn(move || tunnel(client, &to, &heard));
        }
    });
    (port, asked)
}

fn tunnel(client: TcpStream, to: &str, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut client = client;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    heard.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    let mut server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(std::net::Shutdown::Write)
    });
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(std::net::Shutdown::Both)
}

#[test]
fn a_registry_is_reached_through_a_proxy_and_trusted_by_its_authority() {
    let Some((registry, authority)) = Registry::start_secure(&["registry.test"]) else { return };
    let banger = env!("CARGO_BIN_EXE_banger");
    let scratch = Home::empty(banger);
    let layout = scratch.path().join("layout");
    let tar = Tar::default().directory("etc").file("etc/word", 0o644, b"said").finish();
    let Some(()) = oci::layout(&layout, "1.0", &[&tar], &[], &[]) else { return };
    registry.push(&layout, "1.0", "some/app:1.0");
    let (port, asked) = proxy(registry.address());
    let home =
        || Home::empty(banger).with_env("HTTPS_PROXY", &format!("http://user:p%40ss@127.0.0.1:{port}"));
    let words = ["image", "pull", "registry.test/some/app:1.0"];

    let trusting = home().with_env("SSL_CERT_FILE", authority.to_str().unwrap());
    assert_eq!(trusting.ok(&words), "app-1.0");
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    assert!(!heads.is_empty());
    for head in heads {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("connect registry.test:443 http/1.1\r\n"), "{head}");
        // The base64 of `user:p@ss`, and nothing of what is asked of the registry.
        assert!(head.contains("proxy-authorization: basic dxnlcjpwqhnz\r\n"), "{head}");
        assert!(!head.contains("some/app"), "{head}");
    }

    // Nobody here vouches for it.
    let output = home().run(&words);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("UnknownIssuer"), "{}", output.stderr);
    asked.lock().unwrap().clear();
    // Nobody but the proxy knows where it is.
    let output = home().with_env("NO_PROXY", "other,.test").run(&words);
    assert_eq!(output.code(), 1);
    assert!(output.stderr.contains("cannot reach registry.test"), "{}", output.stderr);
    assert!(asked.lock().unwrap().is_empty());
}
