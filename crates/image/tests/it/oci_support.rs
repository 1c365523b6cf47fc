//! Layouts made by hand, and those that skopeo makes.

use std::{fs, path::PathBuf, process::Command};

use image::oci::Digest;
use serde_json::{Value, json};
use testkit::need;

use crate::kernel_support::{Scratch, run};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout under construction, whose parts a test may spoil.
pub struct Layout(pub PathBuf);

impl Layout {
    pub fn new(scratch: &Scratch) -> Self {
        let dir = scratch.dir("layout");
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(dir)
    }

    /// Adds a blob, and gives its descriptor.
    pub fn blob(&self, kind: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.path(&digest.to_string()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    }

    /// Where a blob lies.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    /// Adds a document, and gives its descriptor.
    pub fn document(&self, kind: &str, document: &Value) -> Value {
        self.blob(kind, &serde_json::to_vec(document).unwrap())
    }

    /// Adds a config that describes `count` layers.
    pub fn config(&self, count: usize) -> Value {
        let nothing = Digest::of(b"").to_string();
        let config = json!({
            "os": "linux", "architecture": arch(), "rootfs": { "type": "layers", "diff_ids": vec![nothing; count] },
        });
        self.document("application/vnd.oci.image.config.v1+json", &config)
    }

    /// Adds a manifest of `layers`.
    pub fn manifest(&self, layers: &[Value]) -> Value {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self.config(layers.len()), "layers": layers,
        });
        self.document(MANIFEST, &manifest)
    }

    /// Makes `manifests` the index at the top.
    pub fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }

    /// Makes an image of these tars the only one.
    pub fn image(&self, layers: &[Vec<u8>]) {
        let layers: Vec<_> = layers.iter().map(|tar| self.blob(LAYER, tar)).collect();
        let manifest = self.manifest(&layers);
        self.index(&[manifest]);
    }
}

/// This machine's architecture, as images call it.
pub fn arch() -> String {
    image::oci::Choice::host().arch
}

/// skopeo, without a policy of the machine's.
#[track_caller]
pub fn skopeo(arguments: &[&str]) -> Option<String> {
    let program = need::program("skopeo", "skopeo")?;
    Some(run(Command::new(program).arg("--insecure-policy").args(arguments)))
}
