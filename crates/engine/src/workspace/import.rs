//! Taking files into a repository of ours as a tree: their bytes as they are, through no filter, in one stream and one pack.

use std::{
    io::{Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};
use wire::tree::{Kind, Known};

use super::{error::WorkspaceError, git::Call};

type Result<T, E = WorkspaceError> = std::result::Result<T, E>;

/// The call that reads what an [`Import`] writes, into `git_dir`.
pub fn call(git_dir: &Path) -> Call {
    Call::inside("take in the files", git_dir).args([
        "fast-import",
        "--quiet",
        "--done",
        "--date-format=raw",
        // What was taken in before is replaced.
        "--force",
    ])
}

/// A tree being taken in.
pub struct Import<'a> {
    out: &'a mut dyn Write,
    marks: u64,
    /// What becomes of the tree, to be said after all contents.
    changes: Vec<u8>,
}

impl<'a> Import<'a> {
    /// Writes to `out`, the input of [`call`].
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, marks: 0, changes: Vec::new() }
    }

    /// The file at `path` is gone.
    pub fn remove(&mut self, path: &[u8]) {
        self.changes.extend_from_slice(b"D ");
        quote(path, &mut self.changes);
        self.changes.push(b'\n');
    }

    /// The file at `path` has the `size` bytes of `content`, which `also` gets too; one that has fewer is filled with zeros.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub fn file(
        &mut self,
        path: &[u8],
        kind: Kind,
        size: u64,
        content: &mut dyn Read,
        mut also: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Known> {
        self.marks += 1;
        self.write(format!("blob\nmark :{}\ndata {size}\n", self.marks).as_bytes())?;
        let mut hasher = Sha256::new();
        let mut content = content.chain(std::io::repeat(0)).take(size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = content.read(&mut buffer).map_err(|e| host::Error::new("read", "a file", e))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            self.write(&buffer[..count])?;
            also(&buffer[..count])?;
        }
        self.write(b"\n")?;
        self.changes.extend_from_slice(format!("M {} :{} ", mode(kind), self.marks).as_bytes());
        quote(path, &mut self.changes);
        self.changes.push(b'\n');
        Ok(Known { kind, sha256: model::hex::encode(&hasher.finalize()), size: Some(size) })
    }

    /// Makes all of it the tree `target`, on top of the tree `base` where that is said.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(self, target: &str, base: Option<&str>) -> Result<()> {
        let head = format!("commit {target}\ncommitter banger <banger@localhost> 0 +0000\ndata 0\n");
        let root = base.map(|tree| format!("M 040000 {tree} \"\"\n")).unwrap_or_default();
        for part in [head.as_bytes(), root.as_bytes(), &self.changes, b"\ndone\n"] {
            self.out.write_all(part).map_err(WorkspaceError::Unread)?;
        }
        self.out.flush().map_err(WorkspaceError::Unread)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(WorkspaceError::Unread)
    }
}

/// What git calls something of kind `kind`.
fn mode(kind: Kind) -> &'static str {
    match kind {
        Kind::File | Kind::Other => "100644",
        Kind::Executable => "100755",
        Kind::Link => "120000",
    }
}

/// `path` as git reads it: in quotes, with escapes.
fn quote(path: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in path {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_what_git_reads() {
        let mut out = Vec::new();
        let mut import = Import::new(&mut out);
        import.remove(b"old \"x\"");
        let mut seen = Vec::new();
        let known = import.file(b"\xff\n", Kind::Executable, 4, &mut &b"abc"[..], |bytes| {
            seen.extend_from_slice(bytes);
            Ok(())
        });
        import.finish("refs/x", Some("1234")).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "blob\nmark :1\ndata 4\nabc\0\ncommit refs/x\ncommitter banger <banger@localhost> 0 +0000\ndata 0\n\
             M 040000 1234 \"\"\nD \"old \\\"x\\\"\"\nM 100755 :1 \"\\377\\012\"\n\ndone\n"
        );
        assert_eq!(seen, b"abc\0", "a file that shrank is filled");
        // printf 'abc\0' | sha256sum
        let sha256 = "dc1114cd074914bd872cc1f9a23ec910ea2203bc79779ab2e17da25782a624fc".to_owned();
        assert_eq!(known.unwrap(), Known { kind: Kind::Executable, sha256, size: Some(4) });
    }
}
