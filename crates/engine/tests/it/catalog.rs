//! Catalogs: refreshed, relied on, and pulled from.

use image::oci::Digest;
use model::{ImageName, config::SigningKey, location::Location};
use serde_json::{Value, json};
use testkit::{
    catalog::{Publisher, entry},
    home::wait_until,
};
use wire::control::{Code, CreateVm, ErrorBody, Image, Kernel, Outcome, PullKernel};

use crate::{
    pull::nothing_is_left,
    server::{Server, head, serve},
    verb::{
        self,
        Verb::{self, PullImage, RefreshCatalogs},
    },
    world::{SOON, World},
};
use engine::{
    CatalogKind::{Images, Kernels},
    Kind,
};

/// A world that goes by catalogs, and who publishes these.
pub fn published() -> Option<(World, Publisher)> {
    let mut world = World::new();
    let publisher = Publisher::new(&world.home().join("published"))?;
    configure(&mut world, publisher.key(), |name| publisher.address(name));
    Some((world, publisher))
}

/// Has the next daemon take catalogs from `address`, signed with `key`.
pub fn configure(world: &mut World, key: &str, address: impl Fn(&str) -> String) {
    let at = |name: &str| Some(Location::try_from(&*address(name)).unwrap());
    world.config.image_catalog = at("images.json");
    world.config.kernel_catalog = at("kernels.json");
    world.config.catalog_key = Some(SigningKey::try_from(key).unwrap());
    world.reopen();
}

/// The directory of the only image or kernel there is.
pub fn only(world: &World, what: &str) -> std::path::PathBuf {
    let found = host::fs::list(&world.home().join("state").join(what)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// Publishes what the world has as image `box`, which wants kernel `boxed`.
pub fn publish(world: &World, publisher: &Publisher, serial: u64) -> Vec<u8> {
    let image = publisher.bundle("box.tar.zst", &only(world, "images"));
    let kernel = publisher.bundle("boxed.tar.zst", &only(world, "kernels"));
    let mut first = of("box", &image);
    first["kernel"] = json!("boxed");
    publisher.publish("images", serial, &[first]);
    publisher.publish("kernels", serial, &[of("boxed", &kernel)]);
    image
}

/// The entry of a bundle that lies beside its catalog.
pub fn of(name: &str, bundle: &[u8]) -> Value {
    entry(name, &format!("{name}.tar.zst"), &Digest::of(bundle).hex(), bundle.len())
}

fn pulled(world: &World, name: &'static str) -> Image {
    match world.run(&PullImage(name)) {
        Ok(Outcome::Image(image)) => *image,
        other => panic!("{other:?}"),
    }
}

fn pull_kernel(world: &World, name: &str, force: bool) -> Result<Kernel, ErrorBody> {
    let operation = world.operation(Kind::KernelPull);
    let pulling = world.engine().clone().kernel_pull(operation, name.to_owned(), PullKernel { force });
    match world.wait(pulling).map_err(|error| error.to_body())? {
        Outcome::Kernel(kernel) => Ok(*kernel),
        other => panic!("{other:?}"),
    }
}

/// What a refresh says that is refused: its message without the place, and its causes.
fn refused(world: &World) -> (Code, String) {
    let error = world.run(&RefreshCatalogs).unwrap_err();
    (error.code, format!("{}: {}", error.message, error.causes.join(": ")))
}

fn serials(world: &World) -> (u64, u64) {
    let serial = |kind| world.engine().catalog_show(kind).unwrap().serial;
    (serial(Images), serial(Kernels))
}

/// The serials of what the program was built with.
const BUILT_IN: (u64, u64) = (1, 1);

#[test]
fn what_a_catalog_has_is_pulled_by_name_with_its_kernel() {
    let Some((world, publisher)) = published() else { return };
    publish(&world, &publisher, 3);
    assert_eq!(serials(&world), BUILT_IN, "nothing is taken unasked");
    world.run(&RefreshCatalogs).unwrap();
    assert_eq!(serials(&world), (3, 3));
    let listed = world.engine().catalog_show(Images).unwrap();
    assert_eq!(listed.source.as_deref(), Some(&*publisher.address("images.json")));
    assert_eq!(listed.entries.iter().map(|one| (&*one.name, one.here)).collect::<Vec<_>>(), [("box", false)]);

    let image = pulled(&world, "box");
    assert_eq!((&*image.name, image.kernel.as_deref()), ("box", Some("boxed")));
    let tiny = world.engine().image_show("tiny").unwrap();
    assert_eq!((image.digest, image.size), (tiny.digest, tiny.size));
    assert_eq!(host::fs::read(image.rootfs.as_ref()).unwrap(), host::fs::read(tiny.rootfs.as_ref()).unwrap());
    let kernel = world.engine().kernel_show("boxed").unwrap();
    assert_eq!(kernel.release, world.engine().kernel_show("debian-cloud").unwrap().release);
    assert!(world.engine().catalog_show(Images).unwrap().entries[0].here);
    nothing_is_left(&world);
    world.prepare(&[Verb::CreateUnstarted("before")]);
    let create = CreateVm { image: Some("box".into()), ..verb::vm("of-it") };
    world.wait(world.engine().clone().vm_create(world.operation(Kind::VmCreate), create)).unwrap();

    // What is here is not fetched again; another bundle of the name is.
    host::fs::remove(&publisher.directory().join("box.tar.zst")).unwrap();
    assert_eq!(pulled(&world, "box").created_ms, image.created_ms);
    let gone = world.engine().image_show("box").unwrap();
    assert_eq!(gone.used_by, ["of-it"]);
    let bundle = publisher.bundle("box.tar.zst", std::path::Path::new(&image.rootfs).parent().unwrap());
    publisher.publish("images", 4, &[of("box", &bundle)]);
    world.run(&RefreshCatalogs).unwrap();
    let newer = pulled(&world, "box");
    assert_eq!((newer.kernel, newer.used_by), (None, vec![]));
    let all = world.engine().image_list().unwrap().images;
    assert_eq!(all.len(), 3, "the VM keeps the one it was made of");
}

#[test]
fn a_machine_gets_image_and_kernel_of_the_catalog_where_they_are_missing() {
    let Some((mut world, publisher)) = published() else { return };
    publish(&world, &publisher, 1);
    world.run(&RefreshCatalogs).unwrap();
    let create = |world: &World, name: &str, image: Option<&str>| {
        let create = CreateVm { image: image.map(str::to_owned), ..verb::vm(name) };
        world.wait(world.engine().clone().vm_create(world.operation(Kind::VmCreate), create))
    };
    create(&world, "named", Some("box")).unwrap();
    let error = create(&world, "nowhere", Some("bos")).unwrap_err().to_body();
    assert_eq!((error.code, &*error.message), (Code::NotFound, "there is no image \"bos\""));
    assert!(error.hint.unwrap().contains("not in the catalog"));

    world.config.default_image = ImageName::try_from("default").unwrap();
    world.config.default_kernel = model::KernelName::try_from("standard").unwrap();
    world.reopen();
    let named = world.engine().image_show("box").unwrap();
    let image = publisher.bundle("default.tar.zst", std::path::Path::new(&named.rootfs).parent().unwrap());
    let kernel = host::fs::read(&publisher.directory().join("boxed.tar.zst")).unwrap();
    host::fs::write_atomic(&publisher.directory().join("standard.tar.zst"), &kernel).unwrap();
    publisher.publish("images", 2, &[of("default", &image)]);
    publisher.publish("kernels", 2, &[of("standard", &kernel)]);
    world.run(&RefreshCatalogs).unwrap();
    create(&world, "plain", None).unwrap();
    let names: Vec<_> =
        world.engine().kernel_list().unwrap().kernels.into_iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, ["boxed", "debian-cloud", "standard"]);
}

#[test]
fn a_kernel_is_replaced_only_where_that_is_asked_for() {
    let Some((world, publisher)) = published() else { return };
    let bundle = publisher.bundle("debian-cloud.tar.zst", &only(&world, "kernels"));
    publisher.publish("kernels", 1, &[of("debian-cloud", &bundle)]);
    publisher.publish("images", 1, &[]);
    world.run(&RefreshCatalogs).unwrap();
    world.prepare(&[Verb::CreateUnstarted("uses")]);
    let error = pull_kernel(&world, "debian-cloud", false).unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::Taken, "there is another kernel debian-cloud"));
    assert!(error.hint.unwrap().contains("--force"));
    let kernel = pull_kernel(&world, "debian-cloud", true).unwrap();
    assert!(kernel.source.starts_with("catalog debian-cloud sha256:"), "{}", kernel.source);
    // The machine keeps the one it was made with.
    let kernels = world.engine().kernel_list().unwrap().kernels;
    let used: Vec<_> = kernels.iter().map(|kernel| kernel.used_by.len()).collect();
    assert_eq!(used, [0, 1], "{kernels:?}");
    assert_eq!(pull_kernel(&world, "debian-cloud", false).unwrap(), kernel, "it is here");
    pull_kernel(&world, "debian-cloud", true).unwrap();
    assert_eq!(world.engine().kernel_list().unwrap().kernels.len(), 2, "one that nobody uses goes");
    let error = pull_kernel(&world, "other", false).unwrap_err();
    assert_eq!(
        (error.code, &*error.message),
        (Code::NotFound, "there is no kernel in the catalog \"other\"")
    );
}

#[test]
fn only_a_signed_and_newer_catalog_is_taken() {
    let Some((mut world, publisher)) = published() else { return };
    let images = publisher.directory().join("images.json");
    let signature = publisher.directory().join("images.json.minisig");
    publisher.publish("kernels", 5, &[]);
    let check = |world: &World, code: Code, why: &str, serial: u64| {
        let place = publisher.address("images.json");
        let expected = format!("cannot refresh the catalog of images from {place}: {why}");
        assert_eq!(refused(world), (code, expected));
        assert_eq!(serials(world), (serial, 5), "the other one is taken");
    };
    let missing = |path: &std::path::Path| {
        format!(
            "cannot get file://{0}: cannot open {0}: No such file or directory (os error 2)",
            path.display()
        )
    };
    check(&world, Code::Host, &missing(&images), 1);
    publisher.publish("images", 7, &[]);
    let good = [&images, &signature].map(|path| host::fs::read(path).unwrap());
    host::fs::remove(&signature).unwrap();
    check(&world, Code::Host, &missing(&signature), 1);
    host::fs::write_atomic(&signature, b"untrusted comment: none\n").unwrap();
    check(&world, Code::Refused, "its signature is none of minisign's", 1);
    host::fs::write_atomic(&signature, &good[1]).unwrap();
    host::fs::write_atomic(&images, &[&good[0][..], b" "].concat()).unwrap();
    check(&world, Code::Refused, "its signature does not fit it", 1);
    publisher.publish_text("images", b"{");
    let cause = "EOF while parsing an object at line 1 column 1";
    check(&world, Code::Refused, &format!("it is not written as catalogs are: {cause}"), 1);
    publisher.publish_text("images", &host::fs::read(&publisher.directory().join("kernels.json")).unwrap());
    check(&world, Code::Refused, "it is one of kernels", 1);
    publisher.publish_text("images", &vec![b' '; 2 << 20]);
    let too_long = format!("cannot get file://{0}: cannot read {0}: file too large", images.display());
    check(&world, Code::Host, &too_long, 1);
    let other = Publisher::new(&world.home().join("other")).unwrap();
    other.publish("images", 8, &[]);
    for (name, to) in [("images.json", &images), ("images.json.minisig", &signature)] {
        host::fs::write_atomic(to, &host::fs::read(&other.directory().join(name)).unwrap()).unwrap();
    }
    check(&world, Code::Refused, "it is signed with another key than the one that is trusted", 1);

    publisher.publish("images", 7, &[]);
    world.run(&RefreshCatalogs).unwrap();
    world.run(&RefreshCatalogs).unwrap();
    assert_eq!(serials(&world), (7, 5));
    publisher.publish("images", 6, &[]);
    check(&world, Code::Refused, "its serial is 6, and there is one with 7", 7);
    publisher.publish("images", 7, &[of("box", b"x")]);
    let why = "its serial is 7, like that of the one there is, which says something else";
    check(&world, Code::Refused, why, 7);

    // What is stored is not relied on because it is stored.
    let stored = world.home().join("state/catalogs/images.json");
    let before = host::fs::read(&stored).unwrap();
    let changed = String::from_utf8(before.clone()).unwrap().replace(r#"\"serial\":7"#, r#"\"serial\":9"#);
    host::fs::write_atomic(&stored, changed.as_bytes()).unwrap();
    let error = world.engine().catalog_show(Images).unwrap_err().to_body();
    let place = stored.display();
    assert_eq!(error.message, format!("cannot read the catalog of images in {place}"));
    assert_eq!(
        (error.code, error.causes, error.hint.as_deref()),
        (Code::Refused, vec!["its signature does not fit it".to_owned()], Some("banger catalog refresh"))
    );
    // Nor is it taken for one that has nothing.
    let error = world.run(&PullImage("box")).unwrap_err();
    assert_eq!(error.message, format!("cannot read the catalog of images in {place}"));
    host::fs::write_atomic(&stored, &before).unwrap();
    assert_eq!(serials(&world), (7, 5));
    let key = other.key().to_owned();
    configure(&mut world, &key, |name| other.address(name));
    assert_eq!(world.engine().catalog_show(Images).unwrap_err().to_body().code, Code::Refused);
    other.publish("kernels", 2, &[]);
    world.run(&RefreshCatalogs).unwrap();
    assert_eq!(serials(&world), (8, 2), "a new key begins anew");

    world.config.catalog_key = None;
    world.reopen();
    assert_eq!(serials(&world), BUILT_IN, "without a key only what was built in counts");
    let error = world.run(&RefreshCatalogs).unwrap_err();
    assert_eq!(error.causes, ["no key is configured that it must be signed with"]);
    world.config = engine::config::Config::default();
    world.reopen();
    assert_eq!(world.run(&RefreshCatalogs).unwrap_err().message, "no catalog is configured");
}

#[test]
fn over_http_a_bundle_goes_on_where_its_connection_broke_off() {
    let Some((mut world, publisher)) = published() else { return };
    let image = publish(&world, &publisher, 1);
    let directory = publisher.directory().to_owned();
    let half = image.len() / 2;
    let server = Server::start(move |asked, stream| {
        let Ok(bytes) = host::fs::read(&directory.join(&asked.path[1..])) else {
            return head(stream, "404 Not Found", "Content-Length: 0\r\n");
        };
        if asked.path == "/box.tar.zst" && asked.from == 0 {
            use std::io::Write;
            head(stream, "200 OK", &format!("Content-Length: {}\r\n", bytes.len()));
            let _ = stream.write_all(&bytes[..half]);
            return false;
        }
        serve(asked, stream, &bytes)
    });
    let address = server.address.clone();
    configure(&mut world, publisher.key(), |name| format!("http://{address}/{name}"));
    world.run(&RefreshCatalogs).unwrap();
    pulled(&world, "box");
    let log = server.log.lock().unwrap().clone();
    let bundle: Vec<_> = log.iter().filter(|line| line.starts_with("/box.tar")).collect();
    assert_eq!(bundle, ["/box.tar.zst 0", &format!("/box.tar.zst {half}")]);
    host::fs::remove(&publisher.directory().join("boxed.tar.zst")).unwrap();
    let error = pull_kernel(&world, "boxed", true).unwrap_err();
    let place = format!("http://{}/boxed.tar.zst", server.address);
    assert_eq!(error.message, format!("cannot pull boxed from {place}"));
    assert_eq!((error.code, error.causes), (Code::NotFound, vec![format!("there is nothing at {place}")]));
}

#[test]
fn a_refresh_that_waits_can_be_cancelled_and_so_can_who_waits_for_it() {
    let Some((mut world, publisher)) = published() else { return };
    let server = Server::start(|_, stream| {
        head(stream, "200 OK", "Content-Length: 1000\r\n");
        std::io::Read::read(stream, &mut [0]).unwrap_or(0) > 0
    });
    let address = server.address.clone();
    configure(&mut world, publisher.key(), |name| format!("http://{address}/{name}"));
    let stalled = world.begin(&RefreshCatalogs);
    wait_until(SOON, "it is asked for", || server.asked("/images.json") == 1);
    let waiting = world.begin(&RefreshCatalogs);
    for operation in [waiting, stalled] {
        operation.cancel();
        assert_eq!(world.end(&operation).unwrap_err().code, Code::Cancelled);
    }
    assert_eq!(server.asked("/images.json"), 1);
    assert_eq!(serials(&world), BUILT_IN);
}

#[test]
fn a_pull_that_is_cancelled_leaves_nothing() {
    let Some((mut world, publisher)) = published() else { return };
    publish(&world, &publisher, 1);
    world.run(&RefreshCatalogs).unwrap();
    let server = Server::start(|_, stream| {
        head(stream, "200 OK", "Content-Length: 1000\r\n");
        std::io::Read::read(stream, &mut [0]).unwrap_or(0) > 0
    });
    let slow = entry("slow", &format!("http://{}/slow", server.address), &"0".repeat(64), 1000);
    publisher.publish("images", 2, &[slow]);
    world.run(&RefreshCatalogs).unwrap();
    let operation = world.begin(&PullImage("slow"));
    wait_until(SOON, "it is asked for", || server.asked("/slow") == 1);
    operation.cancel();
    assert_eq!(world.end(&operation).unwrap_err().code, Code::Cancelled);
    nothing_is_left(&world);
    world.reopen();
    assert_eq!(world.look().leaks, Vec::<String>::new());
}
