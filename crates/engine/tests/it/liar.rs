//! An agent that lies: it takes a workspace, and then says of its files whatever a hostile guest may say.

use std::{
    convert::Infallible,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, channel::Channel, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, server::conn::http2, service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;
use wire::{
    Word,
    control::{Code, ErrorBody},
    tree::{Entry, Kind, Line, Picked},
};

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A list of names that never ends.
    EndlessNames,
    /// One name that never ends.
    EndlessName,
    /// A path of three thousand directories.
    Deep,
    /// A list that ends before it is whole.
    CutList,
    /// A list of more than it names.
    WrongCount,
    /// A file of a terabyte that never ends.
    Terabyte,
    /// A file that was shipped, listed as a terabyte.
    Swollen,
    /// A file that was shipped and is listed as it was, but a terabyte when it is asked for.
    Swelling,
    /// More small files than are taken, one after the other.
    ManyFiles,
    /// More files of patterns than are read.
    ManyPatterns,
    /// A content that ends early.
    CutContent,
    /// That a file, which nobody knows, is what is known.
    SameAsNothing,
    /// A file in the list that is a link out of the tree when it is asked for.
    BecameLink,
    /// A file in the list that is gone when it is asked for.
    Went,
    /// Bytes that are of no known form.
    Noise,
    /// An answer to what was not asked for, after what was.
    More,
    /// A part of a list, and then nothing.
    StillList,
    /// A part of a file, and then nothing.
    StillContent,
    /// Nothing, when it is asked for contents.
    StillAnswer,
    /// Nothing, and it takes none of what is brought.
    StillTaking,
    /// Nothing, when it has taken what was brought.
    StillTaken,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Serves one channel.
pub async fn serve(stream: DuplexStream, lie: Lie) {
    let has_it = Arc::new(AtomicBool::new(false));
    let service = service_fn(move |request: Request<Incoming>| {
        let has_it = has_it.clone();
        async move { Ok::<_, Infallible>(answer(request, lie, &has_it).await) }
    });
    // Whoever looks at the other end sees why it ended.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, lie: Lie, has_it: &AtomicBool) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/v1/health") => {
            whole(StatusCode::OK, serde_json::to_vec(&super::guest::health()).unwrap())
        }
        (&Method::PUT, "/v1/tree") if lie == Lie::StillTaking => std::future::pending().await,
        (_, "/v1/tree/pick") if lie == Lie::StillAnswer => std::future::pending().await,
        (&Method::PUT, "/v1/tree") => {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            if lie == Lie::StillTaken {
                return std::future::pending().await;
            }
            has_it.store(true, Ordering::Relaxed);
            whole(StatusCode::OK, Vec::new())
        }
        (_, "/v1/tree/list") if !has_it.load(Ordering::Relaxed) => {
            let nothing = ErrorBody::new(Code::NotFound, "there is nothing");
            whole(StatusCode::NOT_FOUND, serde_json::to_vec(&nothing).unwrap())
        }
        (_, "/v1/tree/list") => stream(Box::new(list(lie)), lie == Lie::StillList),
        (_, "/v1/tree/pick") => stream(Box::new(pick(lie)), lie == Lie::StillContent),
        _ => whole(StatusCode::OK, b"{}".to_vec()),
    }
}

fn whole(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

/// An answer of these pieces, for as long as somebody takes them; one that `stays` open has no end.
fn stream(pieces: Box<dyn Iterator<Item = Bytes> + Send>, stays: bool) -> Answer {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for piece in pieces {
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
        if stays {
            std::future::pending::<()>().await;
        }
    });
    Response::new(body.map_err(|never| match never {}).boxed())
}

fn line(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap();
    bytes.push(b'\n');
    bytes
}

fn file(path: &str) -> Vec<u8> {
    file_of(path, 1)
}

fn file_of(path: &str, size: u64) -> Vec<u8> {
    let entry =
        Entry { path: Word::from(path), kind: Kind::File, size, stamp: None, fresh: false, set_id: false };
    line(&Line::Entry(entry))
}

/// The files of these names, in large pieces.
fn files(names: impl Iterator<Item = String> + Send + 'static) -> impl Iterator<Item = Bytes> + Send {
    let mut names = names.peekable();
    std::iter::from_fn(move || {
        names.peek()?;
        Some(names.by_ref().take(1000).flat_map(|name| file(&name)).collect::<Vec<u8>>().into())
    })
}

fn list(lie: Lie) -> Box<dyn Iterator<Item = Bytes> + Send> {
    let one = |bytes: Vec<u8>| Box::new(std::iter::once(Bytes::from(bytes)));
    let named = |names: &[&str], count: u64| {
        let mut all: Vec<u8> = names.iter().flat_map(|name| file(name)).collect();
        all.extend(line(&Line::End(count)));
        one(all)
    };
    match lie {
        Lie::EndlessNames => Box::new(files((0_u64..).map(|number| format!("{number}")))),
        Lie::EndlessName => {
            let begin = Bytes::from_static(b"{\"entry\":{\"path\":\"");
            Box::new(std::iter::once(begin).chain(std::iter::repeat(Bytes::from_static(&[b'x'; 4096]))))
        }
        Lie::Swollen => one([file_of("file", 1 << 40), line(&Line::End(1))].concat()),
        Lie::Swelling => one([file_of("file", 2), line(&Line::End(1))].concat()),
        Lie::Deep => named(&[&format!("{}x", "d/".repeat(3000))], 1),
        Lie::CutList | Lie::StillList => one(file("new")),
        Lie::WrongCount => named(&["new"], 2),
        Lie::ManyFiles => {
            let count = model::workspace::MAX_CHANGED + 1;
            let end = Bytes::from(line(&Line::End(count)));
            Box::new(files((0..count).map(|number| format!("{number}"))).chain(std::iter::once(end)))
        }
        Lie::ManyPatterns => {
            let count = model::workspace::MAX_IGNORE.1 + 1;
            let end = Bytes::from(line(&Line::End(count)));
            let names = (0..count).map(|number| format!("{number}/.gitignore"));
            Box::new(files(names).chain(std::iter::once(end)))
        }
        Lie::Terabyte
        | Lie::CutContent
        | Lie::SameAsNothing
        | Lie::BecameLink
        | Lie::Went
        | Lie::Noise
        | Lie::More
        | Lie::StillContent
        | Lie::StillAnswer
        | Lie::StillTaking
        | Lie::StillTaken => named(&["new"], 1),
    }
}

fn pick(lie: Lie) -> Box<dyn Iterator<Item = Bytes> + Send> {
    let content = |kind, size, content: &[u8]| {
        Bytes::from([&Picked::Content(kind, size).header()[..], content].concat())
    };
    let one = |bytes: Bytes| Box::new(std::iter::once(bytes));
    match lie {
        Lie::Terabyte | Lie::Swelling => {
            let zeros = std::iter::repeat(Bytes::from_static(&[0; 64 << 10]));
            Box::new(std::iter::once(content(Kind::File, 1 << 40, b"")).chain(zeros))
        }
        Lie::ManyFiles => Box::new(std::iter::repeat(content(Kind::File, 1, b"x"))),
        Lie::CutContent | Lie::StillContent => one(content(Kind::File, 10, b"half")),
        Lie::SameAsNothing => one(Bytes::copy_from_slice(&Picked::Same.header())),
        Lie::BecameLink => one(content(Kind::Link, 11, b"/etc/passwd")),
        Lie::Went => one(Bytes::copy_from_slice(&Picked::Gone.header())),
        Lie::Noise => Box::new(std::iter::repeat(Bytes::from_static(&[0xff; 4096]))),
        Lie::More => Box::new(std::iter::repeat(content(Kind::File, 1, b"x"))),
        Lie::EndlessNames
        | Lie::EndlessName
        | Lie::Swollen
        | Lie::Deep
        | Lie::CutList
        | Lie::WrongCount
        | Lie::ManyPatterns
        | Lie::StillList
        | Lie::StillAnswer
        | Lie::StillTaking
        | Lie::StillTaken => Box::new(std::iter::empty()),
    }
}
