//! `vm cp`: files into a machine and out of it, through the agent.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use futures_util::stream;
use host::tree::Tree;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use model::copy::{CopyPath, Side};
use tokio::sync::mpsc;
use wire::pieces::{Sink, Source};

use super::Context;
use crate::{
    args::CopyArgs,
    client::{path, with},
    error::Error,
    files::{self, FilesError},
    signals::Signals,
};

/// Pieces that wait for the other side.
const QUEUE: usize = 4;

/// `vm cp`.
///
/// # Errors
/// Why not all of it was copied. What was copied before stays.
pub async fn run(context: &Context, args: CopyArgs) -> Result<(), Error> {
    let (source, target) = (side(&args.source)?, side(&args.target)?);
    let copy = async {
        match (source, target) {
            (Side::Host(_), Side::Guest(vm, to)) => into(context, Path::new(&args.source), vm, &to).await,
            (Side::Guest(vm, from), Side::Host(_)) => out(context, vm, &from, Path::new(&args.target)).await,
            (Side::Host(_), Side::Host(_)) | (Side::Guest(..), Side::Guest(..)) => Err(Error::Usage {
                message: "one of the two paths is in a machine, and one is not".to_owned(),
                hint: Some(
                    "a path in a machine is REF:PATH; one of this host with a colon in it begins with ./",
                ),
            }),
        }
    };
    Signals::ending()?.unless(copy).await
}

/// A word that is no UTF-8 is none that names a machine.
fn side(word: &OsStr) -> Result<Side<'_>, Error> {
    let Some(text) = word.to_str() else { return Ok(Side::Host("")) };
    Side::of(text).map_err(|why| Error::usage(format!("{text:?}: {why}")))
}

async fn into(context: &Context, source: &Path, vm: &str, to: &CopyPath) -> Result<(), Error> {
    let real = std::fs::canonicalize(source).map_err(|e| host::Error::path("copy", source, e))?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(Error::usage("the whole of this host is not copied"));
    };
    // A link that is given is followed and keeps its name; those below it are copied as what they are.
    let called = source.file_name().unwrap_or(name).to_owned();
    let to = if real.is_dir() { to.without_slash() } else { to.clone() };
    let (tree, name) = (Tree::open(parent)?, name.to_owned());
    let (sender, receiver) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking(move || {
        let mut sink = Sink::new(move |piece| sender.blocking_send(piece).is_ok());
        files::pack(&tree, &name, &called, &mut sink)
            .inspect_err(|_| sink.fail(io::Error::other("it was given up")))
    });
    let pieces = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    let target = with(path(&["vms", vm, "files"]), "path", to.as_str());
    let sent = context.client.put(&target, StreamBody::new(pieces).boxed_unsync()).await;
    let packed = packing.await.expect("packing does not panic");
    match (packed, sent) {
        // The daemon knows better why it took no more.
        (Err(FilesError::Gone), Err(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(error)) => Err(error),
        (Ok(left), Ok(())) => {
            left.sentence("sockets, fifos and devices").iter().for_each(|line| context.talk.say(line));
            Ok(())
        }
    }
}

async fn out(context: &Context, vm: &str, from: &CopyPath, target: &Path) -> Result<(), Error> {
    let (dir, called) = destination(target, from.name().unwrap_or("root"))?;
    let tree = Tree::open(&dir)?;
    let target = with(path(&["vms", vm, "files"]), "path", from.as_str());
    let mut stream = context.client.stream(&target).await?;
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let unpacking = tokio::task::spawn_blocking(move || {
        files::unpack(&tree, &called, Source::new(std::iter::from_fn(|| receiver.blocking_recv())))
    });
    let mut cut = None;
    while let Some(piece) = stream.next().await.transpose() {
        let piece = piece.map_err(|error| {
            cut = Some(error);
            io::Error::from(io::ErrorKind::UnexpectedEof)
        });
        if sender.send(piece).await.is_err() || cut.is_some() {
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.await.expect("unpacking does not panic");
    match (unpacked, cut) {
        (Err(FilesError::Malformed(_)) | Ok(_), Some(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
        (Ok(unmade), None) => {
            let links = unmade.links.sentence("links that lead out of what was copied");
            let special = unmade.special.sentence("devices and fifos");
            links.iter().chain(&special).for_each(|line| context.talk.say(line));
            Ok(())
        }
    }
}

/// The directory of this host into which something called `name` is copied, and what it is called there.
fn destination(target: &Path, name: &str) -> Result<(PathBuf, OsString), Error> {
    if host::fs::is_dir(target) {
        return Ok((target.to_owned(), name.into()));
    }
    let called = target.file_name().filter(|_| !target.as_os_str().as_encoded_bytes().ends_with(b"/"));
    let Some(called) = called else {
        return Err(Error::usage(format!("there is no directory {}", target.display())));
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), called.to_owned()))
}
