//! Files into a running guest and out of it, as tars. What is in them is a matter of the client's and the agent's.

use bytes::Bytes;
use http_body_util::channel::Channel;
use model::copy::CopyPath;

use super::usage::Using;
use crate::{Engine, Error, Result, guest::Content};

/// A tar that comes out of a guest. The VM is used as long as this is held.
#[derive(Debug)]
pub struct FilesOut {
    /// The tar. It breaks off where the guest cannot go on, or ends.
    pub body: Content,
    _using: Using,
}

impl Engine {
    /// What lies at `path` in the guest of the VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run, nothing lies there, or its guest does not answer.
    pub async fn vm_files_read(&self, text: &str, path: &CopyPath) -> Result<FilesOut> {
        let (name, live) = self.enter(text)?;
        let using = Using::new(live.clone());
        let asked = tokio::select! {
            asked = live.guest.files_read(path) => asked,
            reason = live.ended() => return Err(Error::VmEnded { name, reason }),
        };
        match asked {
            Ok(body) => Ok(FilesOut { body, _using: using }),
            Err(cause) => Err(Error::Guest { name, action: "give its files", cause: Box::new(cause) }),
        }
    }

    /// Puts the one thing of the tar `body` at `path` in the guest of the VM that `text` refers to: into the directory that is
    /// there, or as what is called so.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run or ends, there is no such place, or its guest does not answer.
    pub async fn vm_files_write(
        &self,
        text: &str,
        path: &CopyPath,
        body: Channel<Bytes, std::convert::Infallible>,
    ) -> Result<()> {
        let (name, live) = self.enter(text)?;
        let _using = Using::new(live.clone());
        let written = tokio::select! {
            written = live.guest.files_write(path, body) => written,
            reason = live.ended() => return Err(Error::VmEnded { name, reason }),
        };
        written.map_err(|cause| Error::Guest { name, action: "take the files", cause: Box::new(cause) })
    }
}
