//! The log of requests: each is noted before it is done, with who asked, and again with what became of it.

use std::{fs::File, io::Write, path::PathBuf};

use host::sock::Peer;
use wire::helper::{Answer, Request};

/// When the log becomes the old log, which there is one of: somebody who asks without end fills no disk.
const TURN: u64 = 8 << 20;

/// The log.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: File,
}

impl Audit {
    /// Goes on with the log at `path`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(path: PathBuf) -> host::Result<Self> {
        let file = host::fs::append(&path)?;
        Ok(Self { path, file })
    }

    /// Notes that `peer` asks for `request`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn asked(&mut self, peer: Peer, request: &Request) -> host::Result<()> {
        self.note(peer, &format!("{} asked", subject(request)))
    }

    /// Notes what became of it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn answered(&mut self, peer: Peer, request: &Request, answer: &Answer) -> host::Result<()> {
        let outcome = match answer {
            Answer::Done | Answer::Sockets | Answer::Status(_) | Answer::Jailed(_) => "done".to_owned(),
            Answer::Refused(refusal) => format!("refused: {refusal}"),
            Answer::Failed(why) => format!("failed: {why}"),
        };
        self.note(peer, &format!("{} {outcome}", subject(request)))
    }

    /// Notes something that was no request, or that nobody asked for.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&mut self, peer: Peer, what: &str) -> host::Result<()> {
        if host::fs::size(&self.path).is_ok_and(|size| size > TURN) {
            host::fs::rename(&self.path, &self.path.with_extension("log.old"))?;
            self.file = host::fs::append(&self.path)?;
        }
        let line = format!("{} uid={} pid={} {what}\n", host::clock::now_ms(), peer.uid, peer.pid);
        // One write, so that a line is there whole or not at all.
        self.file.write_all(line.as_bytes()).map_err(|e| host::Error::path("write", &self.path, e))
    }
}

fn subject(request: &Request) -> String {
    let vm = request.ask.vm().map(|vm| format!(" vm={vm}")).unwrap_or_default();
    format!("op={} {}{vm}", request.operation, request.ask.name())
}
