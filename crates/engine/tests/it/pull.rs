//! Pulls from a real registry.

use std::path::Path;

use engine::Kind;
use testkit::{
    home::wait_until,
    images::Tar,
    oci::{Access, Registry, USER, layout},
};
use wire::control::{Code, CreateVm, ErrorBody, Event, Image, Outcome, PullImage};

use crate::{
    verb::{
        self,
        Verb::{Delete, DeleteImage, PruneCache, PruneImages},
    },
    world::{SOON, World},
};

/// A layer with one file.
fn layer(path: &str, content: &[u8]) -> Vec<u8> {
    Tar::default().directory("etc").file(path, 0o644, content).finish()
}

/// What a registry knows how to give: an image of three layers, the last of which hides a file.
fn pushed(world: &World, registry: &Registry, tag: &str, content: &[u8]) -> Option<()> {
    let dir = world.home().join("layout");
    let (one, two) = (layer("etc/one", b"one"), layer("etc/two", content));
    layout(&dir, tag, &[&one, &two], &["/etc/one"], &["--config.cmd=/bin/two"])?;
    registry.push(&dir, tag, &format!("some/app:{tag}"));
    Some(())
}

fn pull(reference: String) -> PullImage {
    PullImage { reference, ..PullImage::default() }
}

fn pulled(world: &World, reference: &str) -> Image {
    match world.end(&world.begin_pull(pull(reference.to_owned()))) {
        Ok(Outcome::Image(image)) => *image,
        other => panic!("{other:?}"),
    }
}

fn refused(world: &World, pull: PullImage) -> ErrorBody {
    let error = world.end(&world.begin_pull(pull)).unwrap_err();
    nothing_is_left(world);
    error
}

/// Nothing half-made is anywhere.
#[track_caller]
pub fn nothing_is_left(world: &World) {
    let listed = |path: &str| host::fs::list(&world.home().join(path)).unwrap();
    // A file goes with the last look at it, which a task that ends may have for a moment.
    wait_until(SOON, "no blob is half there", || listed("cache/partial").is_empty());
    assert_eq!(listed("state/staging"), Vec::<std::path::PathBuf>::new());
}

fn blobs(world: &World) -> usize {
    host::fs::list(&world.home().join("cache/blobs/sha256")).unwrap().len()
}

#[test]
fn an_image_is_pulled_once_and_then_costs_one_request() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1.0", b"two") else { return };
    let reference = format!("{}/some/app:1.0", registry.address());
    let image = pulled(&world, &reference);
    assert_eq!(
        (&*image.name, &image.source, image.run.cmd),
        ("app-1.0", &reference, vec!["/bin/two".to_owned()])
    );
    let first = registry.requests_of("banger/", 5);
    // The manifest, the config and three layers, one of which the others do not have.
    assert_eq!(first.len(), 5, "{first:?}");
    assert_eq!(blobs(&world), 4);
    nothing_is_left(&world);

    // Not even a layer of the cache is looked at.
    world.prepare(&[PruneCache]);
    let again = pulled(&world, &reference);
    assert_eq!((again.digest, again.created_ms), (image.digest, image.created_ms));
    let all = registry.requests_of("banger/", first.len() + 1);
    assert_eq!(all[first.len()..], ["GET /v2/some/app/manifests/1.0"]);

    // Under another name all blobs are needed, and then kept.
    let other = |name: &str| PullImage { name: Some(name.into()), ..pull(reference.clone()) };
    world.end(&world.begin_pull(other("other"))).unwrap();
    assert_eq!(registry.requests_of("banger/", all.len() + 5).len(), all.len() + 5);
    world.end(&world.begin_pull(other("third"))).unwrap();
    assert_eq!(registry.requests_of("banger/", all.len() + 6).len(), all.len() + 6);
}

#[test]
fn a_tag_that_moved_becomes_a_new_image_and_vms_keep_the_old_one() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"first") else { return };
    let reference = format!("{}/some/app:1", registry.address());
    let first = pulled(&world, &reference);
    let create = CreateVm { image: Some(first.name.clone()), no_start: true, ..verb::vm("keeps") };
    world.wait(world.engine().clone().vm_create(world.operation(Kind::VmCreate), create)).unwrap();

    host::fs::remove_all(&world.home().join("layout")).unwrap();
    pushed(&world, &registry, "1", b"second").unwrap();
    let second = pulled(&world, &reference);
    assert_eq!(second.name, first.name);
    assert_ne!(second.digest, first.digest);
    let of = |images: Vec<Image>| -> Vec<_> {
        images
            .into_iter()
            .filter(|image| image.source == reference)
            .map(|image| (image.digest, image.used_by))
            .collect()
    };
    let images = of(world.engine().image_list().unwrap().images);
    assert_eq!(images.len(), 2);
    let prunable = || -> Vec<_> {
        let images = world.engine().image_prunable().unwrap().images;
        images.into_iter().map(|image| (image.name, image.digest)).collect()
    };
    assert_eq!(prunable(), [], "it is in use");
    assert!(images.contains(&(first.digest.clone(), vec!["keeps".to_owned()])), "{images:?}");

    // Now nobody uses the one before.
    host::fs::remove_all(&world.home().join("layout")).unwrap();
    pushed(&world, &registry, "1", b"third").unwrap();
    let third = pulled(&world, &reference);
    let images = of(world.engine().image_list().unwrap().images);
    assert_eq!(images.len(), 2, "{images:?}");
    assert!(images.contains(&(third.digest.clone(), vec![])), "{images:?}");
    let directories = || host::fs::list(&world.home().join("state/images")).unwrap().len();
    assert_eq!(directories(), 3, "with `tiny`");

    // Nor that one, when its VM is gone: it stays until somebody prunes.
    world.prepare(&[Delete("keeps")]);
    let [(name, digest)] = &prunable()[..] else { panic!("{:?}", prunable()) };
    assert!(name.starts_with("app-1-") && *digest == first.digest, "{name}");
    world.prepare(&[PruneImages]);
    assert_eq!((prunable(), directories()), (vec![], 2));
    assert_eq!(world.engine().image_show("app-1").unwrap().digest, third.digest);
}

#[test]
fn a_password_is_taken_from_where_docker_keeps_it() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Password) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"two") else { return };
    let reference = format!("{}/some/app:1", registry.address());
    let error = refused(&world, pull(reference.clone()));
    let host = registry.address();
    assert_eq!(error.message, format!("cannot pull {reference}"));
    assert_eq!(error.causes, [format!("{host} does not allow to pull some/app")]);
    assert!(error.hint.unwrap().contains(&format!("docker login {host}")));

    let auth = |user: &str, password: &str| {
        let auths = serde_json::json!({ "auths": { &host: { "username": user, "password": password } } });
        host::fs::write_atomic(&world.home().join("auth.json"), auths.to_string().as_bytes()).unwrap();
    };
    auth(USER.0, "wrong");
    assert_eq!(refused(&world, pull(reference.clone())).code, Code::Host);
    auth(USER.0, USER.1);
    pulled(&world, &reference);
}

#[test]
fn what_is_not_there_is_said() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"two") else { return };
    let address = registry.address();
    for reference in [format!("{address}/some/app:2"), format!("{address}/none:1")] {
        let error = refused(&world, pull(reference.clone()));
        assert_eq!(
            (error.code, error.causes),
            (Code::NotFound, vec![format!("there is no {reference} in its registry")])
        );
    }
    let taken = PullImage { name: Some("tiny".into()), ..pull(format!("{address}/some/app:1")) };
    assert_eq!(refused(&world, taken).code, Code::Taken);
    drop(registry);
    let error = refused(&world, pull(format!("{address}/some/app:1")));
    assert_eq!((error.code, &*error.causes[0]), (Code::Host, "cannot reach 127.0.0.1"));
    for bad in ["a b", "../x", "http://x/y"] {
        assert_eq!(refused(&world, pull(bad.to_owned())).code, Code::Invalid, "{bad}");
    }
}

#[test]
fn a_vm_is_made_of_an_image_that_has_to_be_pulled_first() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"two") else { return };
    let reference = format!("{}/some/app:1", registry.address());
    for name in ["first", "second"] {
        let create = CreateVm { image: Some(reference.clone()), ..verb::vm(name) };
        let operation = world.operation(Kind::VmCreate);
        world.wait(world.engine().clone().vm_create(operation.clone(), create)).unwrap();
        let stages = stages(&world, &operation);
        assert_eq!(stages.contains(&"pulling image".to_owned()), name == "first", "{stages:?}");
    }
    assert_eq!(registry.requests_of("banger/", 5).len(), 5);
}

fn stages(world: &World, operation: &engine::Operation) -> Vec<String> {
    operation.finish(&Ok(Outcome::None));
    let mut follow = operation.follow();
    world.wait(async {
        let mut stages = Vec::new();
        while let Some(event) = follow.next().await {
            if let Event::Stage { name } = event {
                stages.push(name);
            }
        }
        stages
    })
}

#[test]
fn the_cache_can_be_emptied() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"two") else { return };
    let reference = format!("{}/some/app:1", registry.address());
    pulled(&world, &reference);
    let engine = world.engine().clone();
    let there = world.wait(engine.image_cache()).unwrap();
    assert_eq!((there.blobs, blobs(&world)), (4, 4));
    assert_eq!(world.wait(engine.image_cache_prune()).unwrap(), there);
    assert_eq!(world.wait(engine.image_cache()).unwrap().blobs, 0);
    assert!(host::fs::list(&world.home().join("cache/aside")).unwrap().is_empty());
    // The image is still there, and one that is gone comes again.
    pulled(&world, &reference);
    assert_eq!(blobs(&world), 0);
    world.prepare(&[DeleteImage("app-1")]);
    pulled(&world, &reference);
    assert_eq!(blobs(&world), 4);
}

#[test]
fn a_blob_that_was_damaged_in_the_cache_is_found_and_fetched_again() {
    let world = World::new();
    let Some(registry) = Registry::start(Access::Anonymous) else { return };
    let Some(()) = pushed(&world, &registry, "1", b"two") else { return };
    let reference = format!("{}/some/app:1", registry.address());
    pulled(&world, &reference);
    world.prepare(&[DeleteImage("app-1")]);
    for path in host::fs::list(&world.home().join("cache/blobs/sha256")).unwrap() {
        damage(&path);
    }
    // One blob is found at a time.
    let mut failures = 0;
    let error = loop {
        match world.end(&world.begin_pull(pull(reference.clone()))) {
            Ok(_) => break None,
            Err(error) if failures == 4 => break Some(error),
            Err(error) => {
                assert!(error.causes.iter().any(|cause| cause.contains("its digest is")), "{error:?}");
                failures += 1;
            }
        }
    };
    assert_eq!((error, failures), (None, 4));
    nothing_is_left(&world);
}

fn damage(path: &Path) {
    let mut bytes = host::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    host::fs::write_atomic(path, &bytes).unwrap();
}
