//! Images of directories and of files that stay where they are.

use std::{
    os::unix::fs::{FileExt, symlink},
    path::PathBuf,
    time::Duration,
};

use engine::Kind;
use wire::control::{Code, CreateVm, ErrorBody, Image, ImportImage, ImportKernel, Outcome, RegisterImage};

use crate::{
    verb::{KERNEL, ROOTFS, Verb::*, vm},
    world::World,
};

/// Registers `file` of the world's home as `name`.
fn register(world: &World, name: &str, file: &str) -> Result<Image, ErrorBody> {
    let how = RegisterImage { rootfs: file.to_owned(), ..RegisterImage::default() };
    let name = name.to_owned();
    let operation = world
        .begin_with(Kind::ImageRegister, |engine, operation| engine.image_register(operation, name, how));
    image(world.end(&operation))
}

/// Imports the directory `path` as `name`.
fn import(world: &World, path: &str, tag: Option<&str>) -> Result<Image, ErrorBody> {
    let how = ImportImage {
        directory: Some(path.to_owned()),
        tag: tag.map(str::to_owned),
        ..ImportImage::default()
    };
    image(world.end(&world.begin_import("new", how, std::io::empty())))
}

fn image(result: Result<Outcome, ErrorBody>) -> Result<Image, ErrorBody> {
    match result? {
        Outcome::Image(image) => Ok(*image),
        other => panic!("it gave {other:?}"),
    }
}

/// Makes VM `name` of `image`.
fn create(world: &World, name: &str, image: &str) {
    let request = CreateVm { name: Some(name.to_owned()), image: Some(image.to_owned()), ..vm("") };
    let operation =
        world.begin_with(Kind::VmCreate, |engine, operation| engine.vm_create(operation, request));
    world.end(&operation).unwrap();
}

fn file(world: &World) -> PathBuf {
    world.home().join(ROOTFS)
}

#[test]
fn a_registered_file_stays_where_it_is_until_it_is_promoted() {
    let world = World::new();
    // It is recorded as what it is, not as what led there.
    symlink(file(&world), world.home().join("link")).unwrap();
    let image = register(&world, "new", world.home().join("link").to_str().unwrap()).unwrap();
    assert_eq!(image.rootfs, file(&world).display().to_string());
    assert_eq!(image.digest, world.engine().image_show("tiny").unwrap().digest);
    create(&world, "a", "new");
    world.prepare(&[PromoteImage("new")]);
    // Also for the VM that it is used by, whose machine runs on.
    host::fs::remove(&file(&world)).unwrap();
    let promoted = world.engine().image_show("new").unwrap();
    assert!(promoted.rootfs.ends_with("rootfs.ext4"), "{}", promoted.rootfs);
    assert_eq!((&promoted.digest, &promoted.used_by), (&image.digest, &vec!["a".to_owned()]));
    // What is there already stays.
    world.prepare(&[PromoteImage("new"), Stop("a"), Start("a"), Delete("a"), DeleteImage("new")]);
}

#[test]
fn a_registered_file_that_was_changed_is_used_no_more() {
    let world = World::new();
    register(&world, "new", file(&world).to_str().unwrap()).unwrap();
    create(&world, "a", "new");
    world.prepare(&[Stop("a")]);
    let open = host::fs::open_rw(&file(&world)).unwrap();
    let then = open.metadata().unwrap().modified().unwrap();
    open.write_all_at(b"x", 8192).unwrap();
    open.set_modified(then + Duration::from_secs(5)).unwrap();
    for verb in [Start("a"), PromoteImage("new")] {
        let error = world.run(&verb).unwrap_err();
        assert_eq!(error.code, Code::Refused);
        let expected =
            format!("the file of image new is not the one that was registered: {}", file(&world).display());
        assert_eq!(error.message, expected);
    }
    // Who sets the time back deceives the glance, but no copy is made of anything else.
    open.set_modified(then).unwrap();
    assert_eq!(world.run(&PromoteImage("new")).unwrap_err().code, Code::Refused);
    host::fs::remove(&file(&world)).unwrap();
    assert_eq!(world.run(&Start("a")).unwrap_err().code, Code::Refused);
    // It is told of, and can go.
    assert_eq!(world.engine().image_show("new").unwrap().rootfs, file(&world).display().to_string());
    world.prepare(&[Delete("a"), DeleteImage("new")]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn a_kernel_stays_where_it_is_and_is_used_while_it_is_what_it_was() {
    let world = World::new();
    let file = world.home().join(KERNEL);
    symlink(&file, world.home().join("link")).unwrap();
    let import = |path: PathBuf| {
        let from = ImportKernel::InPlace(path.display().to_string());
        world.end(&world.begin_with(Kind::KernelImport, |engine, operation| {
            engine.kernel_import(operation, "mine".to_owned(), from)
        }))
    };
    let Outcome::Kernel(kernel) = import(world.home().join("link")).unwrap() else { panic!() };
    // It is recorded as what it is, not as what led there.
    assert_eq!(kernel.source, file.display().to_string());
    let register_with_kernel = || {
        let how = RegisterImage {
            rootfs: self::file(&world).display().to_string(),
            kernel: Some("mine".to_owned()),
            ..RegisterImage::default()
        };
        world
            .end(&world.begin_with(Kind::ImageRegister, |engine, operation| {
                engine.image_register(operation, "new".to_owned(), how)
            }))
            .unwrap();
    };
    register_with_kernel();
    create(&world, "a", "new");
    world.prepare(&[Stop("a"), Start("a"), Stop("a")]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
    let before = host::fs::read(&file).unwrap();
    host::fs::write_atomic(&file, b"another").unwrap();
    for verb in [Start("a"), PromoteKernel("mine")] {
        let error = world.run(&verb).unwrap_err();
        let expected =
            format!("the file of kernel mine is not the one that was registered: {}", file.display());
        assert_eq!((error.code, error.message), (Code::Refused, expected));
    }
    world.prepare(&[Delete("a"), DeleteImage("new"), DeleteKernel("mine")]);
    assert_eq!(host::fs::read(&file).unwrap(), b"another", "it is not ours to remove");

    for (path, code) in [
        (world.home().join("kernel"), Code::Invalid),
        (PathBuf::from("mine.vmlinux"), Code::Invalid),
        (file.clone(), Code::Refused),
    ] {
        assert_eq!(import(path.clone()).unwrap_err().code, code, "{}", path.display());
        assert_eq!(world.look().leaks, Vec::<String>::new());
    }
    host::fs::write_atomic(&file, &before).unwrap();
    import(file.clone()).unwrap();

    // Once it is in the store the file may go, also for a machine that was made of it.
    register_with_kernel();
    create(&world, "b", "new");
    world.prepare(&[Stop("b"), PromoteKernel("mine")]);
    host::fs::remove(&file).unwrap();
    assert_eq!(world.engine().kernel_show("mine").unwrap().source, kernel.source);
    world.prepare(&[
        PromoteKernel("mine"),
        Start("b"),
        Delete("b"),
        DeleteImage("new"),
        DeleteKernel("mine"),
    ]);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}

#[test]
fn what_is_bangers_own_is_not_registered() {
    let world = World::new();
    let own = world.engine().image_show("tiny").unwrap().rootfs;
    let vmlinux = host::fs::list(&world.home().join("state/kernels")).unwrap()[0].join("vmlinux");
    symlink(&own, world.home().join("link")).unwrap();
    let check = |error: ErrorBody| {
        let why = "it is one of banger's own files, which go with what they belong to; register a copy of it";
        assert_eq!((error.code, error.causes), (Code::Invalid, vec![why.to_owned()]));
        assert_eq!(world.look().leaks, Vec::<String>::new());
    };
    check(register(&world, "new", &own).unwrap_err());
    check(register(&world, "new", world.home().join("link").to_str().unwrap()).unwrap_err());
    let from = ImportKernel::InPlace(vmlinux.display().to_string());
    check(
        world
            .end(&world.begin_with(Kind::KernelImport, |engine, operation| {
                engine.kernel_import(operation, "mine".to_owned(), from)
            }))
            .unwrap_err(),
    );
}

#[test]
fn what_no_guest_could_use_is_not_registered() {
    let world = World::new();
    let home = world.home().display().to_string();
    host::fs::write_atomic(&world.home().join("text"), &[b'x'; 8192]).unwrap();
    std::fs::copy(file(&world), world.home().join("short")).unwrap();
    host::fs::open_rw(&world.home().join("short")).unwrap().set_len(4096).unwrap();
    for (path, code, expected) in [
        ("mine.ext4".to_owned(), Code::Invalid, "it must be an absolute path"),
        (home.clone(), Code::Invalid, "there is no file; for a directory: banger image import"),
        (format!("{home}/none"), Code::Invalid, "there is no file; for a directory: banger image import"),
        (format!("{home}/text"), Code::Refused, "it is no ext4 file system"),
        (format!("{home}/short"), Code::Refused, ", and its file 4096"),
    ] {
        let error = register(&world, "new", &path).unwrap_err();
        let said = format!("{}: {}", error.message, error.causes.join(": "));
        assert_eq!(error.code, code, "{said}");
        assert!(said.ends_with(expected), "{said}");
        assert_eq!(world.look().leaks, Vec::<String>::new());
    }
    assert_eq!(register(&world, "tiny", &format!("{home}/{ROOTFS}")).unwrap_err().code, Code::Taken);
}

#[test]
fn a_directory_is_a_layout_or_a_root() {
    let world = World::new();
    let tree = world.home().join("tree");
    host::fs::private_dir(&tree.join("etc")).unwrap();
    host::fs::write_atomic(&tree.join("etc/os-release"), b"ID=tree\n").unwrap();
    let path = tree.display().to_string();
    // Who names a tag means a layout.
    let error = import(&world, &path, Some("1.0")).unwrap_err();
    assert_eq!(error.causes, [format!("{path} is not an OCI layout: it has no oci-layout")]);
    let image = import(&world, &path, None).unwrap();
    assert!(image.run.command().is_empty() && image.size > 0);
    world.prepare(&[DeleteImage("new")]);
    for name in ["oci-layout", "index.json"] {
        host::fs::write_atomic(&tree.join(name), b"{}").unwrap();
    }
    let error = import(&world, &path, None).unwrap_err();
    assert_eq!(error.causes[0], "oci-layout is refused");
    let error = import(&world, "tree", None).unwrap_err();
    assert_eq!(error.code, Code::Invalid);
    assert_eq!(world.look().leaks, Vec::<String>::new());
}
