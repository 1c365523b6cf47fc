//! The stamps of files, for whoever asks later whether they were touched.

use host::stamp;
use rustix::fs::Stat;
use wire::tree::Stamped;

/// The stamps of what was unpacked. Its times of modification are those of the tar, so that no later write leaves the same.
#[derive(Debug, Default)]
pub struct Stamps(Vec<Stamped>);

impl Stamps {
    /// Notes the stamp of the file at `path`, where there is room for it.
    pub fn note(&mut self, path: &std::path::Path, stat: &Stat) {
        if self.0.len() < wire::tree::MAX_STAMPS {
            let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec().into();
            self.0.push(Stamped { path, stamp: stamp::of(stat) });
        }
    }

    /// A JSON line for each.
    #[must_use]
    pub fn lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        for stamped in &self.0 {
            serde_json::to_writer(&mut lines, stamped).expect("two texts");
            lines.push(b'\n');
        }
        lines
    }
}
