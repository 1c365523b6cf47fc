//! Makes bundles of images and kernels, and the signed catalogs that list them, with the machine's own tar, zstd and minisign.
//!
//! A bundle is made of the directory that banger keeps an image or kernel in: its manifest first, and then the files beside
//! it. What banger accepts of that is checked by `image::catalog`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::shell;

/// How it is typed.
const USAGE: &str = "cargo xtask bundle images|kernels NAME DIR --into DIRECTORY --key SECRET_KEY \
                     [--distro D] [--kernel K] [--description TEXT]";
/// The digits of its digest that the name of a bundle has.
const PREFIX: usize = 12;

/// What to make.
struct Order {
    /// `images` or `kernels`, as catalogs say it.
    kind: String,
    name: String,
    from: PathBuf,
    into: PathBuf,
    key: PathBuf,
    distro: String,
    kernel: Option<String>,
    description: String,
}

/// Makes a bundle, and enters it into the catalog beside it.
pub fn run(words: &[&str]) -> Result<()> {
    let order = order(words)?;
    let bundle = make(&order)?;
    println!("{}", bundle.display());
    Ok(())
}

fn order(words: &[&str]) -> Result<Order> {
    let [kind @ ("images" | "kernels"), name, from, options @ ..] = words else { bail!("usage: {USAGE}") };
    let mut found = std::collections::BTreeMap::new();
    for pair in options.chunks(2) {
        let [option @ ("--into" | "--key" | "--distro" | "--kernel" | "--description"), value] = pair else {
            bail!("unexpected: {}\nusage: {USAGE}", pair.join(" "));
        };
        found.insert(*option, (*value).to_owned());
    }
    let mut needed =
        |option| found.remove(option).with_context(|| format!("{option} is missing\nusage: {USAGE}"));
    let (into, key) = (needed("--into")?.into(), needed("--key")?.into());
    Ok(Order {
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
        from: from.into(),
        into,
        key,
        distro: found.remove("--distro").unwrap_or_default(),
        kernel: found.remove("--kernel"),
        description: found.remove("--description").unwrap_or_default(),
    })
}

fn make(order: &Order) -> Result<PathBuf> {
    let manifest = order.from.join("manifest.json");
    let text = fs::read(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let manifest: Value = serde_json::from_slice(&text).context("manifest.json is no JSON")?;
    let arch = manifest["arch"].as_str().context("manifest.json names no arch")?;
    let unfinished = order.into.join(format!(".{}.new", order.name));
    pack(&order.from, &unfinished)?;
    let digest = shell::output(Command::new("sha256sum").arg("--binary").arg(&unfinished))?;
    let digest = String::from_utf8(digest).context("sha256sum printed something that is not UTF-8")?;
    let digest = digest.trim_start_matches('\\').get(..64).context("sha256sum printed no digest")?;
    let file = format!("{}-{arch}-{}.tar.zst", order.name, &digest[..PREFIX]);
    let bundle = order.into.join(&file);
    fs::rename(&unfinished, &bundle).with_context(|| format!("cannot write {}", bundle.display()))?;

    let mut entry = json!({
        "name": order.name, "distro": order.distro, "arch": arch, "url": file, "sha256": digest,
        "size": bundle.metadata()?.len(), "description": order.description,
    });
    if let Some(kernel) = &order.kernel {
        entry["kernel"] = json!(kernel);
    }
    let catalog = order.into.join(format!("{}.json", order.kind));
    let before = match fs::read(&catalog) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.with_context(|| format!("cannot read {}", catalog.display()))?),
    };
    let text = entered(before.as_deref(), &order.kind, entry)?;
    fs::write(&catalog, text).with_context(|| format!("cannot write {}", catalog.display()))?;
    // It asks for the key's password, where that has one.
    shell::run(Command::new("minisign").arg("-S").arg("-s").arg(&order.key).arg("-m").arg(&catalog))?;
    Ok(bundle)
}

/// Packs the files in `from`, the manifest first. The same files give the same bytes.
fn pack(from: &Path, to: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let name = entry?.file_name().into_string().ok().context("a name is not UTF-8")?;
        if name != "manifest.json" {
            names.push(name);
        }
    }
    names.sort();
    let mut tar = Command::new("tar");
    // At level 10 a window has 4 MiB; banger takes up to 32.
    tar.args(["--create", "--format=gnu", "--use-compress-program=zstd -10 -T0", "--dereference"])
        .args(["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=644", "--file"])
        .arg(to)
        .arg("--directory")
        .arg(from)
        .args(["--", "manifest.json"]);
    shell::run(tar.args(names))
}

/// The catalog `before` of `kind`, with `entry` in the place of one of the same name and arch, and a new serial.
fn entered(before: Option<&[u8]>, kind: &str, entry: Value) -> Result<String> {
    let mut catalog: Value = match before {
        // The program was built with one of serial 1.
        None => json!({ "version": 1, "kind": kind, "serial": 1, "entries": [] }),
        Some(text) => serde_json::from_slice(text).context("the catalog there is no JSON")?,
    };
    ensure!(catalog["kind"] == kind, "the catalog there is of {}", catalog["kind"]);
    let serial = catalog["serial"].as_u64().context("the catalog there has no serial")?;
    catalog["serial"] = json!(serial + 1);
    let entries = catalog["entries"].as_array_mut().context("the catalog there has no entries")?;
    entries.retain(|other| other["name"] != entry["name"] || other["arch"] != entry["arch"]);
    entries.push(entry);
    Ok(serde_json::to_string_pretty(&catalog)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_the_place_of_the_one_before_and_the_serial_grows() -> Result<()> {
        let one = |sha: &str| json!({ "name": "a", "arch": "x86_64", "sha256": sha });
        let other = json!({ "name": "a", "arch": "aarch64" });
        let first = entered(None, "images", one("1"))?;
        let second = entered(Some(first.as_bytes()), "images", other.clone())?;
        let third: Value = serde_json::from_str(&entered(Some(second.as_bytes()), "images", one("2"))?)?;
        let expected = json!({ "version": 1, "kind": "images", "serial": 4, "entries": [other, one("2")] });
        assert_eq!(third, expected);
        let error = entered(Some(first.as_bytes()), "kernels", one("1")).unwrap_err();
        assert_eq!(error.to_string(), "the catalog there is of \"images\"");
        Ok(())
    }

    #[test]
    fn words_are_an_order() {
        let words = ["kernels", "k", "/d", "--into", "/i", "--key", "/s", "--distro", "debian"];
        let order = order(&words).unwrap();
        assert_eq!(
            (order.kind.as_str(), order.name.as_str(), order.distro.as_str()),
            ("kernels", "k", "debian")
        );
        for wrong in [&words[..5], &words[1..], &[&words[..], &["--x", "y"]].concat(), &words[..8]] {
            assert!(super::order(wrong).is_err(), "{wrong:?}");
        }
    }
}
