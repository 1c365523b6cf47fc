//! The JSON documents of an image, which a registry sends: index, manifest and config.

use image::oci::{Choice, Config, Descriptor, Digest, Document, DocumentError, Index, Manifest};

use crate::message;

/// The types that a header or a descriptor may say.
const TYPES: [&str; 6] = [
    "",
    "application/json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A document is one thing or none, what it names is well formed, and a refusal is short whatever the document is.
///
/// # Panics
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let choice = Choice { arch: "amd64".to_owned(), tag: None };
    let tagged = Choice { tag: Some("latest".to_owned()), ..choice.clone() };
    let mut kinds = Vec::new();
    for described in TYPES {
        match Document::parse(data, described) {
            Ok(Document::Manifest(manifest)) => {
                kinds.push("manifest");
                check_manifest(&manifest);
            }
            Ok(Document::Index(index)) => {
                kinds.push("index");
                check_index(&index, &choice, &tagged);
            }
            Err(error) => message::check(&error),
        }
    }
    // Whatever a header says: no document is an index for one reader and a manifest for another.
    kinds.dedup();
    assert!(kinds.len() < 2, "it is read as {kinds:?}");
    match Index::of_layout(data) {
        Ok(index) => check_index(&index, &choice, &tagged),
        Err(error) => message::check(&error),
    }
    match Config::parse(data, &choice) {
        Ok(Config { run, layers }) => {
            layers.iter().for_each(check_digest);
            assert_ne!(run.user.as_deref(), Some(""));
            assert_ne!(run.workdir.as_deref(), Some(""));
            // What is kept of it is what is read back.
            let kept = serde_json::to_vec(&run).expect("it is texts");
            assert_eq!(run, serde_json::from_slice(&kept).expect("it was written here"));
        }
        Err(error) => message::check(&error),
    }
}

fn check_manifest(manifest: &Manifest) {
    assert!((1..=512).contains(&manifest.layers.len()), "{} layers", manifest.layers.len());
    check_digest(&manifest.config.digest);
    for layer in &manifest.layers {
        check_digest(&layer.digest);
        assert!(layer.media_type.contains(".tar"), "a layer of type {:?}", layer.media_type);
    }
}

fn check_index(index: &Index, choice: &Choice, tagged: &Choice) {
    let found: [Result<&Descriptor, DocumentError>; 3] =
        [index.for_platform(choice), index.tagged(choice), index.tagged(tagged)];
    for one in found {
        match one {
            Ok(descriptor) => check_digest(&descriptor.digest),
            Err(error) => message::check(&error),
        }
    }
}

/// A digest names a file, and a part of a URL.
fn check_digest(digest: &Digest) {
    let hex = digest.hex();
    assert!(
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
        "{hex}"
    );
    assert_eq!(digest.to_string().parse::<Digest>().as_ref(), Ok(digest));
}
