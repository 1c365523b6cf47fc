//! Registries that drop connections, lie, or never end.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use image::oci::Digest;
use serde_json::json;
use testkit::images::Tar;
use wire::control::{Code, ErrorBody, Event, PullImage};

use crate::{
    pull::nothing_is_left,
    server::{Asked, Server, answer, head, serve},
    world::World,
};

/// What an honest registry has: a manifest of one large layer.
#[derive(Clone)]
pub struct Goods {
    pub layer: Vec<u8>,
    /// By the path of their address.
    pub documents: HashMap<String, Vec<u8>>,
}

/// The same ones each time.
pub fn goods() -> Goods {
    let content: Vec<u8> =
        (0..3_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    goods_of(&[Tar::default().file("large", 0o644, &content).finish()])
}

/// An image of `layers`, the first of which is [`Goods::layer`].
pub fn goods_of(layers: &[Vec<u8>]) -> Goods {
    let digests: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let arch = image::oci::Choice::host().arch;
    let config = json!({ "os": "linux", "architecture": arch, "rootfs": { "diff_ids": digests } });
    let config = config.to_string().into_bytes();
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "c", "digest": Digest::of(&config), "size": config.len() },
        "layers": layers.iter().zip(&digests).map(|(layer, digest)| {
            json!({ "mediaType": kind, "digest": digest, "size": layer.len() })
        }).collect::<Vec<_>>(),
    });
    let mut documents = HashMap::new();
    documents.insert(format!("/v2/x/blobs/{}", Digest::of(&config)), config);
    documents.insert("/v2/x/manifests/1".to_owned(), manifest.to_string().into_bytes());
    for (layer, digest) in layers.iter().zip(&digests) {
        documents.insert(format!("/v2/x/blobs/{digest}"), layer.clone());
    }
    Goods { layer: layers[0].clone(), documents }
}

impl Goods {
    pub fn is_layer(&self, asked: &Asked) -> bool {
        asked.path.ends_with(&Digest::of(&self.layer).to_string())
    }

    /// Answers as a good registry does.
    pub fn serve(&self, asked: &Asked, stream: &mut TcpStream) -> bool {
        match self.documents.get(&asked.path) {
            None => answer(stream, "404 Not Found", "", b""),
            Some(bytes) if asked.from > 0 => serve(asked, stream, bytes),
            Some(bytes) => answer(
                stream,
                "200 OK",
                "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n",
                bytes,
            ),
        }
    }
}

/// Of what it has.
pub fn pull(server: &Server) -> PullImage {
    PullImage { reference: format!("{}/x:1", server.address), ..PullImage::default() }
}

fn failed(world: &World, server: &Server) -> ErrorBody {
    let error = world.end(&world.begin_pull(pull(server))).unwrap_err();
    nothing_is_left(world);
    assert_eq!(world.engine().image_list().unwrap().images.len(), 1, "only `tiny`");
    error
}

#[test]
fn a_download_goes_on_where_its_connection_broke_off() {
    let world = World::new();
    let goods = goods();
    let all = goods.layer.len();
    let server = Server::start(move |asked, stream| {
        if !goods.is_layer(asked) {
            return goods.serve(asked, stream);
        }
        // A million bytes at a time, and then it hangs up.
        let end = (asked.from + 1_000_000).min(goods.layer.len());
        let part = &goods.layer[asked.from..];
        let range = format!(
            "Content-Range: bytes {}-{}/{}\r\n",
            asked.from,
            goods.layer.len() - 1,
            goods.layer.len()
        );
        let (status, range) =
            if asked.from == 0 { ("200 OK", String::new()) } else { ("206 Partial Content", range) };
        head(stream, status, &format!("{range}Content-Length: {}\r\n", part.len())) && {
            let _ = stream.write_all(&goods.layer[asked.from..end]);
            false
        }
    });
    let operation = world.begin_pull(pull(&server));
    world.end(&operation).unwrap();
    let parts = server.asked(&format!("blobs/{}", layer_digest()));
    assert_eq!(parts, all.div_ceil(1_000_000), "{:?}", server.log.lock().unwrap());
    // Progress never counts more than there is.
    let mut follow = operation.follow();
    let mut told = 0;
    world.wait(async {
        while let Some(event) = follow.next().await {
            if let Event::Progress { name, done, total: Some(total), .. } = event {
                assert!(done <= total && name == "pulling image", "{name} {done} {total}");
                told += 1;
            }
        }
    });
    assert!(told > 0);
}

fn layer_digest() -> Digest {
    Digest::of(&goods().layer)
}

#[test]
fn a_registry_without_ranges_begins_again() {
    let world = World::new();
    let goods = goods();
    let broken = AtomicBool::new(false);
    let server = Server::start(move |asked, stream| {
        let whole = Asked { from: 0, ..asked.clone() };
        if goods.is_layer(asked) && !broken.swap(true, Ordering::Relaxed) {
            head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
            let _ = stream.write_all(&goods.layer[..1_500_000]);
            return false;
        }
        goods.serve(&whole, stream)
    });
    world.end(&world.begin_pull(pull(&server))).unwrap();
}

#[test]
fn lies_about_a_layer_are_found() {
    let digest = layer_digest();
    let size = goods().layer.len();
    fn check(
        expected: &str,
        behave: impl Fn(&Goods, &Asked, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) {
        let world = World::new();
        let goods = goods();
        let server = Server::start(move |asked, stream| {
            if goods.is_layer(asked) { behave(&goods, asked, stream) } else { goods.serve(asked, stream) }
        });
        let error = failed(&world, &server);
        assert_eq!(error.causes.join(": ").replace(&server.address, "127.0.0.1"), expected);
        let layer = format!("cache/blobs/sha256/{}", layer_digest().hex());
        assert!(!host::fs::exists(&world.home().join(layer)), "{expected}");
    }
    let refused = |why: &str| format!("blob {digest} is refused: {why}");
    let mut other = goods().layer;
    other[1000] ^= 1;
    check(&refused(&format!("its digest is {}", Digest::of(&other))), |goods, _, stream| {
        let mut other = goods.layer.clone();
        other[1000] ^= 1;
        answer(stream, "200 OK", "", &other)
    });
    check(&refused(&format!("it has {} bytes instead of {size}", size - 1)), |goods, _, stream| {
        answer(stream, "200 OK", "", &goods.layer[1..])
    });
    check(&refused(&format!("it has more than its {size} bytes")), |goods, _, stream| {
        answer(stream, "200 OK", "", &[&goods.layer[..], b"x"].concat())
    });
    // Without a length, for ever.
    check(&refused(&format!("it has more than its {size} bytes")), |goods, _, stream| {
        head(stream, "200 OK", "Connection: close\r\n");
        while stream.write_all(&goods.layer).is_ok() {}
        false
    });
    // Without a length, and too little of it each time.
    check(&refused(&format!("it has 700 bytes instead of {size}")), |goods, asked, stream| {
        if asked.from > 0 {
            let range = format!("Content-Range: bytes {}-{}/*\r\n", asked.from, goods.layer.len() - 1);
            head(stream, "206 Partial Content", &format!("{range}Connection: close\r\n"));
            return false;
        }
        head(stream, "200 OK", "Connection: close\r\n");
        let _ = stream.write_all(&goods.layer[..700]);
        false
    });
    // Breaks off, and then gives another part than was asked for, or says that it does.
    let cut = |goods: &Goods, stream: &mut TcpStream| {
        head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
        let _ = stream.write_all(&goods.layer[..1_000_000]);
        false
    };
    let other_part = format!("the server gives another part of blob {digest} than was asked for");
    check(&other_part, move |goods, asked, stream| {
        if asked.from == 0 {
            return cut(goods, stream);
        }
        let range = format!("Content-Range: bytes 0-{}/*\r\n", goods.layer.len() - 1);
        answer(stream, "206 Partial Content", &range, &goods.layer)
    });
    check(&other_part, move |goods, asked, stream| {
        if asked.from == 0 {
            return cut(goods, stream);
        }
        let part = &goods.layer[asked.from..];
        let range = format!("Content-Range: bytes {}-{}/{}\r\n", asked.from, size, size + 1);
        answer(stream, "206 Partial Content", &range, part)
    });
    check(&other_part, move |goods, asked, stream| {
        if asked.from == 0 {
            return cut(goods, stream);
        }
        answer(stream, "206 Partial Content", "", &goods.layer[asked.from..])
    });
    // A part where all of it was asked for.
    check("127.0.0.1 answers 206 Partial Content", |goods, _, stream| {
        let range = format!("Content-Range: bytes 0-{}/*\r\n", goods.layer.len() - 1);
        answer(stream, "206 Partial Content", &range, &goods.layer)
    });
    check(&format!("the registry has no blob {digest}"), |_, _, stream| {
        answer(stream, "404 Not Found", "", b"")
    });
}

#[test]
fn who_stops_answering_is_given_up() {
    let world = World::new();
    let goods = goods();
    let server = Server::start(move |asked, stream| {
        if !goods.is_layer(asked) {
            return goods.serve(asked, stream);
        }
        head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
        // Until the other side goes.
        let _ = stream.read(&mut [0]);
        false
    });
    let error = failed(&world, &server);
    assert_eq!(
        error.causes,
        [
            format!("the download of blob {} broke off 3 times", layer_digest()),
            "the server stopped answering".to_owned()
        ]
    );
    assert_eq!(error.code, Code::Host);
}

#[test]
fn a_pull_that_waits_can_be_cancelled() {
    let world = World::new();
    let goods = goods();
    let server = Server::start(move |asked, stream| {
        if !goods.is_layer(asked) {
            return goods.serve(asked, stream);
        }
        head(stream, "200 OK", &format!("Content-Length: {}\r\n", goods.layer.len()));
        let _ = stream.write_all(&goods.layer[..2_000_000]);
        let _ = stream.read(&mut [0]);
        false
    });
    let operation = world.begin_pull(pull(&server));
    testkit::home::wait_until(crate::world::SOON, "the layer is asked for", || {
        server.asked(&layer_digest().to_string()) > 0
    });
    operation.cancel();
    assert_eq!(world.end(&operation).unwrap_err().code, Code::Cancelled);
    nothing_is_left(&world);
}

#[test]
fn documents_without_end_and_other_lies_are_refused() {
    let check = |expected: &str, behave: fn(&Goods, &Asked, &mut TcpStream) -> bool| {
        let world = World::new();
        let goods = goods();
        let server = Server::start(move |asked, stream| {
            if asked.path.contains("/manifests/") {
                behave(&goods, asked, stream)
            } else {
                goods.serve(asked, stream)
            }
        });
        let error = failed(&world, &server);
        assert_eq!(error.causes.join(": ").replace(&server.address, "127.0.0.1"), expected);
    };
    check("an answer is longer than 4194304 bytes", |_, _, stream| {
        head(stream, "200 OK", "Connection: close\r\n");
        while stream.write_all(&[b' '; 65536]).is_ok() {}
        false
    });
    let manifest = Digest::of(&goods().documents["/v2/x/manifests/1"]);
    let stated = Digest::of(b"other");
    check(&format!("blob {stated} is refused: its digest is {manifest}"), |goods, asked, stream| {
        let stated = format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other"));
        answer(stream, "200 OK", &stated, &goods.documents[&asked.path])
    });
    let text = Digest::of(b"<html>");
    check(
        &format!(
            "manifest {text} is refused: it is not as the specification has it: expected value at line 1 column 1"
        ),
        |_, _, stream| answer(stream, "200 OK", "Content-Type: text/html\r\n", b"<html>"),
    );
    check("127.0.0.1 answers 500 Internal Server Error: broken", |_, _, stream| {
        answer(stream, "500 Internal Server Error", "", br#"{"errors":[{"message":"broken"}]}"#)
    });
    check("the server leads to ftp://x/, which is no address of the web", |_, _, stream| {
        answer(stream, "307 Temporary Redirect", "Location: ftp://x/\r\n", b"")
    });
    check("the server leads to 127.0.0.1, by too many steps", |_, asked, stream| {
        answer(stream, "307 Temporary Redirect", &format!("Location: {}\r\n", asked.path), b"")
    });
    check("127.0.0.1 asks for an authorization that is not supported", |_, _, stream| {
        answer(stream, "401 Unauthorized", "WWW-Authenticate: Negotiate\r\n", b"")
    });
}

#[test]
fn a_token_is_fetched_and_shown_only_where_it_belongs() {
    let world = World::new();
    let goods = goods();
    // Where blobs really are: another host, which must see no token.
    let blobs = {
        let goods = goods.clone();
        Server::start(move |asked, stream| {
            assert_eq!(asked.authorization, None);
            goods.serve(asked, stream)
        })
    };
    let elsewhere = blobs.address.clone();
    let own = Arc::new(Mutex::new(String::new()));
    let address = Arc::clone(&own);
    let server = Server::start(move |asked, stream| {
        let own = address.lock().unwrap().clone();
        if asked.path.starts_with("/token?") {
            assert_eq!(asked.path, "/token?scope=repository%3Ax%3Apull&service=a%20registry");
            return answer(stream, "200 OK", "", br#"{"access_token":"abc"}"#);
        }
        if asked.authorization.as_deref() != Some("Bearer abc") {
            let wanted =
                format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"a registry\"\r\n");
            return answer(stream, "401 Unauthorized", &wanted, b"");
        }
        if asked.path.contains("/blobs/") {
            let to = format!("Location: http://{elsewhere}{}\r\n", asked.path);
            return answer(stream, "307 Temporary Redirect", &to, b"");
        }
        goods.serve(asked, stream)
    });
    own.lock().unwrap().clone_from(&server.address);
    world.end(&world.begin_pull(pull(&server))).unwrap();
    assert_eq!((server.asked("/token"), blobs.asked("/blobs/")), (1, 2));
}

#[test]
fn emptying_the_cache_harms_no_pull_under_way() {
    let world = World::new();
    let goods = goods();
    let (first, go_on) = (AtomicBool::new(true), Arc::new(AtomicBool::new(false)));
    let wait = Arc::clone(&go_on);
    let server = Server::start(move |asked, stream| {
        if goods.is_layer(asked) && first.swap(false, Ordering::Relaxed) {
            let begun = Instant::now();
            while !wait.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(1) {
                std::thread::yield_now();
            }
        }
        goods.serve(asked, stream)
    });
    let operation = world.begin_pull(pull(&server));
    let cached = || world.wait(world.engine().image_cache()).unwrap().blobs;
    testkit::home::wait_until(crate::world::SOON, "the config is cached", || cached() == 1);
    assert_eq!(world.wait(world.engine().image_cache_prune()).unwrap().blobs, 1);
    go_on.store(true, Ordering::Relaxed);
    world.end(&operation).unwrap();
    assert_eq!(cached(), 1, "the layer");
}
