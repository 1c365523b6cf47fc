//! Downloads from a real web server over connections that break off: of a registry's layers, and of a catalog's bundles.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use image::oci::Digest;
use testkit::{home::wait_until, images::Tar};
use wire::control::{Code, ImportImage, PullImage};

use crate::{
    catalog::{configure, of, only, published},
    nginx::{Cable, ENDURES, Nginx, went_on},
    pull::nothing_is_left,
    pull_hostile::{Goods, goods},
    verb::Verb::{self, RefreshCatalogs},
    world::{SOON, World},
};

/// Lays what a registry has into a directory, which is given.
fn laid(world: &World, goods: &Goods) -> PathBuf {
    let root = world.home().join("root");
    for (path, bytes) in &goods.documents {
        let path = root.join(&path[1..]);
        host::fs::private_dir(path.parent().unwrap()).unwrap();
        host::fs::write_atomic(&path, bytes).unwrap();
    }
    root
}

/// What the path of the layer has in it.
fn layer(goods: &Goods) -> String {
    Digest::of(&goods.layer).to_string()
}

/// Pulls over a cable to `nginx`.
fn pulled(world: &World, cable: &Cable) {
    let pull = PullImage { reference: format!("{}/x:1", cable.address), ..PullImage::default() };
    world.end(&world.begin_pull(pull)).unwrap();
    nothing_is_left(world);
}

#[test]
fn a_download_from_nginx_goes_on_where_it_broke_off() {
    let (world, goods) = (World::new(), goods());
    let Some(nginx) = Nginx::start(&world, &laid(&world, &goods), "") else { return };
    pulled(&world, &Cable::to(&nginx, usize::MAX));
    went_on(&nginx, &layer(&goods), goods.layer.len());
}

#[test]
fn a_download_from_nginx_that_gives_no_parts_begins_again() {
    let (world, goods) = (World::new(), goods());
    let Some(nginx) = Nginx::start(&world, &laid(&world, &goods), "max_ranges 0;") else { return };
    pulled(&world, &Cable::to(&nginx, 1));
    wait_until(SOON, "all is logged", || nginx.answers(&layer(&goods)).len() == 2);
    let answers = nginx.answers(&layer(&goods));
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert!(answers.iter().any(|(_, range)| range.starts_with("bytes=")), "{answers:?}");
}

/// Bytes of which a packer makes no fewer, the same ones each time.
fn noise(count: usize) -> Vec<u8> {
    let step = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(7), step).map(|state: u64| state.to_be_bytes()[1]).take(count).collect()
}

#[test]
fn bundles_from_nginx_go_on_where_they_broke_off() {
    let Some((mut world, publisher)) = published() else { return };
    // More than a connection brings, and nothing that a packer makes smaller.
    let tar = Tar::default().file("noise", 0o644, &noise(3_000_000)).finish();
    let import = world.begin_import("noise", ImportImage::default(), Cursor::new(tar));
    world.end(&import).unwrap();
    let rootfs = world.engine().image_show("noise").unwrap().rootfs;
    let bundle = publisher.bundle("box.tar.zst", Path::new(&rootfs).parent().unwrap());
    assert!(bundle.len() > 3 * ENDURES, "{}", bundle.len());
    let kernel = publisher.bundle("boxed.tar.zst", &only(&world, "kernels"));
    publisher.publish("images", 2, &[of("box", &bundle)]);
    publisher.publish("kernels", 2, &[of("boxed", &kernel)]);
    let Some(nginx) = Nginx::start(&world, publisher.directory(), "") else { return };
    let cable = Cable::to(&nginx, usize::MAX);
    let address = cable.address.clone();
    configure(&mut world, publisher.key(), |name| format!("http://{address}/{name}"));
    world.prepare(&[RefreshCatalogs, Verb::PullImage("box"), Verb::PullKernel("boxed")]);
    went_on(&nginx, "/box.tar.zst", bundle.len());
    let [pulled, noise] = ["box", "noise"].map(|name| world.engine().image_show(name).unwrap().digest);
    assert_eq!(pulled, noise);
    nothing_is_left(&world);

    // What is there is another one than the catalog says, which is found at the end, however it came; and so is a catalog of before.
    world.prepare(&[Verb::DeleteImage("box")]);
    let mut other = bundle.clone();
    other[bundle.len() / 2] ^= 1;
    let path = publisher.directory().join("box.tar.zst");
    host::fs::write_atomic(&path, &other).unwrap();
    let before = world.look();
    let error = world.run(&Verb::PullImage("box")).unwrap_err();
    let found = format!("its digest is {}", Digest::of(&other));
    assert_eq!((error.code, error.causes.last()), (Code::Refused, Some(&found)), "{error:?}");
    publisher.publish("images", 1, &[of("box", &other)]);
    let error = world.run(&RefreshCatalogs).unwrap_err();
    let older = "its serial is 1, and there is one with 2".to_owned();
    assert_eq!((error.code, error.causes.last()), (Code::Refused, Some(&older)), "{error:?}");
    host::fs::remove(&publisher.directory().join("images.json.minisig")).unwrap();
    assert_eq!(world.run(&RefreshCatalogs).unwrap_err().code, Code::NotFound);
    nothing_is_left(&world);
    assert_eq!(world.look(), before);
}
