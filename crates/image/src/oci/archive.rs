//! What comes as one stream: a root tar, an OCI archive, or what `docker save` wrote.
//!
//! The first entry tells which, because the names in an archive of an image are few and no root file system begins with
//! them. An archive's parts are needed in another order than they come in, so they go to a file without a name first.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
};

use super::{
    BlobError, Choice, Descriptor, Digest, DocumentError, Imported, LONGEST, OciError, assemble,
    blobs::{Packed, Part, PartReader},
    document::{self, Config, Saved},
    import, top,
};
use crate::{
    json,
    manifest::RunConfig,
    rootfs::{
        Image, ImportError, ImportOptions, Progress, Report,
        decompress::Unpacked,
        import_error,
        tar::{self, Kind},
    },
};

/// The most files of an archive.
const MOST_FILES: usize = 10_000;

/// Makes what `reader` gives, plain or compressed, the new image file `out`: a root tar, or the image of an OCI archive or of
/// one by `docker save` that `choice` wants.
///
/// # Errors
/// Where it is refused or the image cannot be written; `out` does not exist then, unless it did before.
pub fn import_stream(
    reader: impl Read,
    choice: &Choice,
    out: &Path,
    options: &ImportOptions,
    progress: Report<'_>,
) -> Result<Imported, OciError> {
    let source = Unpacked::new(reader, options.limits, Progress::default(), &mut *progress)?;
    let mut archive = tar::Archive::new(source, tar::End::Marked);
    let first = archive.next().map_err(|error| import_error(error, None, options.limits))?;
    match first {
        Some(first) if name_of(&first.path).is_some() => {
            let files = Files::read(first, archive, out, options)?;
            files.import(choice, out, options, progress)
        }
        first => {
            let mut image = Image::create(out, options)?;
            image.apply(first, &mut archive)?;
            Ok(Imported { rootfs: image.finish()?, run: RunConfig::default(), origin: None })
        }
    }
}

/// The name of an entry that an archive of an image can have.
fn name_of(path: &[u8]) -> Option<String> {
    let path = str::from_utf8(path).ok()?;
    let path = path.strip_prefix("./").unwrap_or(path).trim_end_matches('/');
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let known = match path.split('/').collect::<Vec<_>>()[..] {
        ["oci-layout" | "index.json" | "manifest.json" | "repositories" | "blobs"] | ["blobs", "sha256"] => {
            true
        }
        ["blobs", "sha256", name] => is_hex(name),
        [name] => is_hex(name.trim_end_matches(".json").trim_end_matches(".tar")),
        [name, "layer.tar" | "VERSION" | "json"] => is_hex(name),
        _ => false,
    };
    known.then(|| path.to_owned())
}

/// The files of an archive.
struct Files {
    file: Arc<File>,
    parts: HashMap<String, Part>,
}

impl Files {
    /// Takes the rest of `archive` apart, beside `out`.
    fn read(
        first: tar::Entry,
        archive: tar::Archive<Unpacked<'_>>,
        out: &Path,
        options: &ImportOptions,
    ) -> Result<Self, OciError> {
        let path = out.with_extension("archive");
        let mut file = host::fs::create_new(&path)?;
        // Whatever happens, it is gone with the last descriptor.
        host::fs::remove(&path)?;
        let mut parts = HashMap::new();
        let (mut archive, mut offset, mut next) = (archive, 0, Some(first));
        let mut last = None;
        let mut read_all = || -> Result<Result<(), OciError>, tar::Error> {
            while let Some(entry) = next.take().map_or_else(|| archive.next(), |first| Ok(Some(first)))? {
                archive.source_mut().count_entry()?;
                last = Some(entry.path.clone());
                let Some(name) = name_of(&entry.path) else { continue };
                let part = match entry.kind {
                    Kind::File(length) => {
                        let copied = copy(&mut archive, &mut file, length)?;
                        if let Err(error) = copied {
                            return Ok(Err(host::Error::path("write", &path, error).into()));
                        }
                        offset += length;
                        Part { offset: offset - length, length }
                    }
                    // How older programs wrote a layer that is there twice.
                    Kind::SymbolicLink(target) | Kind::HardLink(target) => {
                        match linked(&parts, &name, &target) {
                            Some(part) => part,
                            None => continue,
                        }
                    }
                    _ => continue,
                };
                parts.insert(name, part);
                if parts.len() > MOST_FILES {
                    let limit = MOST_FILES as u64;
                    return Ok(Err(ImportError::TooManyEntries { limit }.into()));
                }
            }
            Ok(Ok(()))
        };
        let result = read_all();
        result.map_err(|error| import_error(error, last, options.limits))??;
        Ok(Self { file: Arc::new(file), parts })
    }

    fn import(
        self,
        choice: &Choice,
        out: &Path,
        options: &ImportOptions,
        progress: Report<'_>,
    ) -> Result<Imported, OciError> {
        if !self.parts.contains_key("oci-layout") || !self.parts.contains_key("index.json") {
            return self.import_saved(choice, out, options, progress);
        }
        let (version, index) = (self.document("oci-layout")?, self.document("index.json")?);
        let blobs = self.parts.iter().filter_map(|(name, part)| {
            let hex = name.strip_prefix("blobs/sha256/")?;
            Some((format!("sha256:{hex}").parse().ok()?, *part))
        });
        let blobs = Packed { file: Arc::clone(&self.file), parts: blobs.collect() };
        let manifest = top(&blobs, &version, &index, choice)?;
        import(&blobs, manifest, choice, out, options, progress)
    }

    /// Imports what `docker save` wrote before it wrote OCI archives. A config is named by its digest, and a layer must have
    /// the digest that the config says.
    fn import_saved(
        self,
        choice: &Choice,
        out: &Path,
        options: &ImportOptions,
        progress: Report<'_>,
    ) -> Result<Imported, OciError> {
        let refused = |cause| OciError::Document { name: "manifest.json".to_owned(), cause };
        let saved = json::parse(&self.document("manifest.json")?).map_err(|e| refused(e.into()))?;
        let saved = chosen(saved, choice).map_err(refused)?;
        let bytes = self.document(&saved.config)?;
        let (name, digest) = (saved.config, Digest::of(&bytes));
        let hex = name.trim_start_matches("blobs/sha256/").trim_end_matches(".json");
        let Ok(expected) = format!("sha256:{hex}").parse::<Digest>() else {
            return Err(refused(DocumentError::ConfigName(json::shown(&name))));
        };
        if digest != expected {
            let cause = BlobError::Digest { found: digest };
            return Err(OciError::Blob { digest: expected, cause });
        }
        let refused = |cause| OciError::Document { name: format!("config {digest}"), cause };
        let config = Config::parse(&bytes, choice).map_err(refused)?;
        let (described, listed) = (config.layers.len(), saved.layers.len());
        if described != listed {
            return Err(refused(DocumentError::LayerCount { described, listed }));
        }
        let layers: Vec<_> = config.layers.iter().map(|digest| Descriptor::plain(*digest, 0)).collect();
        document::check_count(layers.len()).map_err(refused)?;
        let mut parts = HashMap::new();
        let mut layers = layers;
        for (name, layer) in saved.layers.into_iter().zip(&mut layers) {
            let part = *self.parts.get(&name).ok_or(OciError::NoFile(json::shown(&name)))?;
            layer.size = part.length;
            parts.insert(layer.digest, part);
        }
        let blobs = Packed { file: self.file, parts };
        let rootfs = assemble(&blobs, &layers, out, options, progress)?;
        Ok(Imported { rootfs, run: config.run, origin: Some(digest) })
    }

    /// The small file `name`.
    fn document(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let part = *self.parts.get(name).ok_or_else(|| OciError::NoFile(json::shown(name)))?;
        if part.length > LONGEST {
            let cause = BlobError::TooLarge { size: part.length, limit: LONGEST };
            return Err(OciError::File { name: name.to_owned(), cause });
        }
        let mut bytes = Vec::new();
        let mut reader = PartReader { file: Arc::clone(&self.file), left: part };
        reader.read_to_end(&mut bytes).map_err(ImportError::Read)?;
        Ok(bytes)
    }
}

/// Copies the next `length` bytes. Reading and writing fail apart.
fn copy(source: &mut impl Read, file: &mut File, length: u64) -> Result<io::Result<()>, tar::Error> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match source.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(tar::Error::Truncated),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        if let Err(error) = file.write_all(&buffer[..count]) {
            return Ok(Err(error));
        }
        left -= count as u64;
    }
    Ok(Ok(()))
}

/// What the link `name` to `target` leads to, among what came before.
fn linked(parts: &HashMap<String, Part>, name: &str, target: &[u8]) -> Option<Part> {
    let target = str::from_utf8(target).ok()?;
    // A symbolic link is relative to its directory, a hard link to the root.
    let target = match target.strip_prefix("../") {
        Some(rest) if name.contains('/') => rest,
        _ => target,
    };
    parts.get(target).copied()
}

/// The image that `choice` wants.
fn chosen(saved: Vec<Saved>, choice: &Choice) -> Result<Saved, DocumentError> {
    let tags = || document::some(saved.iter().flat_map(|image| image.repo_tags.iter().flatten().cloned()));
    let fits = |image: &Saved, wanted: &str| {
        image.repo_tags.iter().flatten().any(|tag| document::is_tag(tag, wanted))
    };
    match (&choice.tag, &saved[..]) {
        (_, []) => Err(DocumentError::NoImage),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(DocumentError::Several { count: saved.len(), tags: tags() }),
        (Some(wanted), images) => {
            let missing = || DocumentError::NoTag { wanted: wanted.clone(), tags: tags() };
            images.iter().find(|image| fits(image, wanted)).cloned().ok_or_else(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let hex = "0123456789abcdef".repeat(4);
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(name_of(path.as_bytes()).as_deref(), expected, "{path}");
        };
        check("oci-layout", Some("oci-layout"));
        check("./blobs/", Some("blobs"));
        for name in ["blobs/sha256/@", "@.json", "@.tar", "@/layer.tar", "@/VERSION", "@"] {
            let name = name.replace('@', &hex);
            check(&name, Some(&name));
        }
        for name in
            ["./", "bin", "etc/passwd", "blobs/sha256/x", "blobs/sha256/../@", "/blobs", "x/layer.tar"]
        {
            check(name, None);
        }
    }
}
