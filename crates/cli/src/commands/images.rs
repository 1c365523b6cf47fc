//! `banger image`.

use std::{ffi::OsStr, io, path::Path};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Method, body::Frame};
use model::size::human;
use tokio::sync::mpsc;
use wire::control::{BuildImage, CacheContent, Image, Images, Outcome, PullImage, RegisterImage, Wait};

use super::{Context, absolute, catalogs, several};
use crate::{
    args::{BuildArgs, CacheCommand, ImageCommand, ImportImageArgs, Output, PullArgs, RegisterArgs},
    client::{Body, empty, json, path, with},
    error::Error,
    progress::Progress,
    signals::Signals,
    talk::{print, print_json},
    text::{age, fields, table, timestamp, visible},
};

/// Bytes of a tar that are read at once.
const PIECE: usize = 256 << 10;

/// `banger image`.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: ImageCommand) -> Result<(), Error> {
    match command {
        ImageCommand::Import(args) => import(context, args).await,
        ImageCommand::Register(args) => register(context, args).await,
        ImageCommand::Promote { name } => {
            made(context, &path(&["images", name.as_str(), "promote"]), empty()).await
        }
        ImageCommand::Pull(args) => pull(context, args).await,
        ImageCommand::Prune { dry_run } => prune(context, dry_run).await,
        ImageCommand::Cache(CacheCommand::Prune { dry_run }) => prune_cache(context, dry_run).await,
        ImageCommand::Build(args) => build(context, args).await,
        ImageCommand::List(args) if args.available => {
            catalogs::list(context, "images", args.format.output).await
        }
        ImageCommand::List(args) => list(context, args.format.output).await,
        ImageCommand::Show { name, format } => {
            let image: Image = context.client.get(&path(&["images", name.as_str()])).await?;
            match format.output {
                Output::Json => print_json(&image),
                Output::Text => print(&describe(&image)),
            }
        }
        ImageCommand::Delete { names } => {
            several::each(context, &names, async |name| {
                context.client.send(Method::DELETE, &path(&["images", name.as_str()])).await?;
                Ok(name.to_string())
            })
            .await
        }
    }
}

async fn list(context: &Context, output: Output) -> Result<(), Error> {
    let images: Images = context.client.get(&path(&["images"])).await?;
    if output == Output::Json {
        return print_json(&images);
    }
    let now = host::clock::now_ms();
    let row = |image: &Image| {
        [
            image.name.clone(),
            human(image.size),
            image.kernel.clone().unwrap_or_else(|| "(default)".to_owned()),
            image.used_by.len().to_string(),
            age(now, image.created_ms),
            image.source.clone(),
        ]
    };
    let rows: Vec<_> = images.images.iter().map(row).collect();
    print(&table(["NAME", "SIZE", "KERNEL", "VMS", "CREATED", "SOURCE"], &rows))
}

fn describe(image: &Image) -> String {
    fields(&[
        ("name", image.name.clone()),
        ("source", image.source.clone()),
        ("digest", image.digest.clone()),
        ("size", human(image.size)),
        ("kernel", image.kernel.clone().unwrap_or_else(|| "(default)".to_owned())),
        ("init", image.init.clone()),
        ("entrypoint", words(&image.run.entrypoint)),
        ("command", words(&image.run.cmd)),
        ("environment", image.run.env.join("\n")),
        ("user", image.run.user.clone().unwrap_or_default()),
        ("directory", image.run.workdir.clone().unwrap_or_default()),
        (
            "ready when",
            match image.ready {
                Wait::Agent => "the agent answers".to_owned(),
                Wait::Init => "init has started everything".to_owned(),
            },
        ),
        ("created", timestamp(image.created_ms)),
        ("file", image.rootfs.clone()),
        ("used by", image.used_by.join("\n")),
    ])
}

/// A command as one line, in which words with spaces can be told apart.
fn words(words: &[String]) -> String {
    let quoted = |word: &String| match word.contains(char::is_whitespace) || word.is_empty() {
        true => format!("{word:?}"),
        false => word.clone(),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

async fn import(context: &Context, args: ImportImageArgs) -> Result<(), Error> {
    let source = match Path::new(&args.source) {
        path if path == "-" => "standard input".to_owned(),
        path => absolute(path)?,
    };
    let is_directory = args.source != "-" && host::fs::is_dir(Path::new(&args.source));
    let options = [
        ("kernel", args.kernel.as_ref().map(|k| k.as_str())),
        ("init", args.init.as_deref()),
        ("tag", args.tag.as_deref()),
        // The daemon reads a directory where it lies.
        ("directory", is_directory.then_some(&*source)),
    ];
    let given = options.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let target = path(&["images", args.name.as_str(), "import"]);
    let target = given.fold(with(target, "source", &source), |target, (key, value)| with(target, key, value));
    let body = if is_directory { empty() } else { upload(&args.source)? };
    made(context, &target, body).await
}

async fn register(context: &Context, args: RegisterArgs) -> Result<(), Error> {
    let request = RegisterImage {
        rootfs: absolute(&args.rootfs)?,
        kernel: args.kernel.map(|kernel| kernel.to_string()),
        init: args.init,
    };
    made(context, &path(&["images", args.name.as_str(), "register"]), json(&request)).await
}

async fn pull(context: &Context, args: PullArgs) -> Result<(), Error> {
    let request = PullImage {
        reference: args.reference.to_string(),
        name: args.name.map(|name| name.to_string()),
        kernel: args.kernel.map(|kernel| kernel.to_string()),
        insecure: args.insecure,
    };
    made(context, &path(&["image-pulls"]), json(&request)).await
}

async fn prune(context: &Context, dry_run: bool) -> Result<(), Error> {
    let target = path(&["image-prunes"]);
    let (verb, pruned): (_, Images) = match dry_run {
        true => ("would free", context.client.get(&target).await?),
        false => ("freed", context.client.ask(Method::POST, &target).await?),
    };
    let size = pruned.images.iter().map(|image| image.size).sum();
    context.talk.say(&format!("{verb} {}", human(size)));
    let names = pruned.images.iter().map(|image| format!("{}\n", visible(&image.name)));
    print(&names.collect::<String>())
}

async fn prune_cache(context: &Context, dry_run: bool) -> Result<(), Error> {
    let (verb, content): (_, CacheContent) = match dry_run {
        true => ("would be removed", context.client.get(&path(&["image-cache"])).await?),
        false => ("were removed", context.client.ask(Method::POST, &path(&["image-cache", "prune"])).await?),
    };
    print(&format!("{} blobs of {} {verb}\n", content.blobs, human(content.bytes)))
}

async fn build(context: &Context, args: BuildArgs) -> Result<(), Error> {
    let request = BuildImage {
        recipe: args.recipe,
        name: args.name.map(|name| name.to_string()),
        variant: args.variant,
        include: args.include,
    };
    made(context, &path(&["image-builds"]), json(&request)).await
}

/// Follows the operation that makes an image, and prints the image's name.
async fn made(context: &Context, target: &str, body: Body) -> Result<(), Error> {
    let work = async {
        let mut events = context.client.operate(Method::POST, target, body).await?;
        match Progress::new(&context.talk).follow(&mut events).await? {
            Outcome::Image(image) => print(&format!("{}\n", visible(&image.name))),
            Outcome::None
            | Outcome::Vm(_)
            | Outcome::Kernel(_)
            | Outcome::Snapshot(_)
            | Outcome::Prepared(_)
            | Outcome::Exported(_) => Ok(()),
        }
    };
    Signals::ending()?.unless(work).await
}

/// A tar or an archive as the body of a request, read while it is sent.
fn upload(source: &OsStr) -> Result<Body, Error> {
    let file = match source.to_str() {
        Some("-") => None,
        _ => {
            let path = Path::new(source);
            Some((path.to_owned(), host::fs::open(path)?))
        }
    };
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = match &file {
                None => host::stdio::read(&mut buffer),
                Some((path, file)) => {
                    io::Read::read(&mut &*file, &mut buffer).map_err(|e| host::Error::path("read", path, e))
                }
            };
            let piece = match read {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(e) => Err(e.into()),
            };
            let last = piece.is_err();
            if sender.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    Ok(StreamBody::new(pieces).boxed_unsync())
}
