//! Looks into a running guest, which do not count as using it.

use wire::guest::{Health, Ports};

use crate::{Engine, Error, Result};

impl Engine {
    /// The sockets that listen in the guest of the VM that `text` refers to.
    ///
    /// # Errors
    /// Where there is no such VM, it does not run, or its guest does not answer.
    pub async fn vm_ports(&self, text: &str) -> Result<Ports> {
        let (name, live) = self.enter(text)?;
        let asked = live.guest.ports().await;
        asked.map_err(|cause| Error::Guest { name, action: "say what listens in it", cause: Box::new(cause) })
    }

    /// How the agent of the VM that `text` refers to is.
    ///
    /// # Errors
    /// As [`Engine::vm_ports`].
    pub async fn vm_health(&self, text: &str) -> Result<Health> {
        let (name, live) = self.enter(text)?;
        let asked = live.guest.health().await;
        asked.map_err(|cause| Error::Guest { name, action: "say how it is", cause: Box::new(cause) })
    }
}
