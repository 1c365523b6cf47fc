//! Streams into a running guest: commands, and connections to its ports.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::channel::Sender;
use model::{VmId, VmName, workspace::GuestPath};
use wire::control::Code;

use super::{Live, usage::Using};
use crate::{
    Engine, Error, Result,
    guest::{Ends, Guest, GuestError, Output},
    workspace::Base,
};

/// A stream into a guest, and out of it: frames of [`wire::exec`], or the bytes of a connection.
#[derive(Debug)]
pub struct GuestStream {
    input: Sender<Bytes, std::convert::Infallible>,
    output: Output,
    ending: Ending,
    /// Where a command runs that has no other directory.
    pub workspace: Option<Workplace>,
    /// Who runs a command for which no user is said; without it root.
    pub user: Option<String>,
}

/// A directory of a guest that a repository was shipped to.
#[derive(Debug, Clone)]
pub struct Workplace {
    /// The directory.
    pub path: GuestPath,
    /// Whether it pins the tools that are to be used there.
    pub pins_tools: bool,
}

/// Tells why a stream ended that had no end of its own.
#[derive(Debug)]
pub struct Ending {
    id: VmId,
    name: VmName,
    live: Arc<Live>,
    _using: Using,
}

/// How long the break of a channel may come before the news of its machine's end.
const NEWS: Duration = Duration::from_secs(2);

impl GuestStream {
    /// What is for the guest, what comes from it, and what to tell where that broke off.
    pub fn into_parts(self) -> (Sender<Bytes, std::convert::Infallible>, Output, Ending) {
        (self.input, self.output, self.ending)
    }

    /// Resolves when the VM ends, to the error that the stream is to end with.
    pub fn vm_ended(&self) -> impl Future<Output = Error> + use<> {
        self.ending.vm_ended()
    }
}

impl Ending {
    fn vm_ended(&self) -> impl Future<Output = Error> + use<> {
        let (name, live) = (self.name.clone(), self.live.clone());
        async move { Error::VmEnded { name, reason: live.ended().await } }
    }

    /// The error of a command's stream that the guest did not take.
    #[must_use]
    pub fn refused(self, cause: GuestError) -> Error {
        match cause {
            // It takes every command but while it is held.
            GuestError::Refused(body) if body.code == Code::Conflict => Error::Held(self.name.clone()),
            cause => {
                Error::Guest { name: self.name.clone(), action: "take a command", cause: Box::new(cause) }
            }
        }
    }

    /// The error of a stream that broke off: the VM's end, where that is the reason.
    pub async fn after_break(self) -> Error {
        let ended = tokio::time::timeout(NEWS, self.vm_ended()).await;
        ended.unwrap_or_else(|_| Error::Guest {
            name: self.name.clone(),
            action: "keep the stream",
            cause: "the connection to its agent broke".into(),
        })
    }
}

impl Engine {
    /// Opens the stream of a command in the VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run, or its agent cannot be reached.
    pub async fn vm_exec(&self, text: &str) -> Result<GuestStream> {
        let stream = self.stream(text, "take a command", async |guest| guest.exec().await).await?;
        // Whether it is still what was shipped is asked beside the command: that looks at every file of the repository.
        let id = stream.ending.id;
        let workspace = self.store().workspace_get(id)?.map(|found| {
            let pins_tools = Base::at(self.paths().workspace(id)).pins_tools();
            Workplace { path: found.guest_path, pins_tools }
        });
        let user = self.reread(id)?.user;
        Ok(GuestStream { workspace, user, ..stream })
    }

    /// Opens a connection to `port` of the loopback of the VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run, its agent cannot be reached, or nobody listens at the port.
    pub async fn vm_connect(&self, text: &str, port: NonZeroU16) -> Result<GuestStream> {
        self.stream(text, "take a connection", async |guest| guest.connect(port).await).await
    }

    async fn stream(
        &self,
        text: &str,
        action: &'static str,
        how: impl AsyncFnOnce(&Guest) -> Result<Ends, GuestError>,
    ) -> Result<GuestStream> {
        let id = self.resolve(text)?;
        let (name, live) = self.enter_known(id)?;
        let using = Using::new(live.clone());
        let opened = tokio::select! {
            opened = how(&live.guest) => opened,
            reason = live.ended() => return Err(Error::VmEnded { name, reason }),
        };
        match opened {
            Ok((input, output)) => {
                let ending = Ending { id, name, live, _using: using };
                Ok(GuestStream { input, output, ending, workspace: None, user: None })
            }
            Err(cause) => Err(Error::Guest { name, action, cause: Box::new(cause) }),
        }
    }
}
