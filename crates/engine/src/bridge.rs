//! The bridge that root's helper keeps, where it is installed for this user.
//!
//! Whether VMs are on it says `mode` below `[network]`; which addresses it has, the settings that only root can have written.

mod helper;
pub(crate) mod naming;

use std::path::PathBuf;

use host::dirs::Dirs;
use model::{
    config::NetworkMode,
    network::{BRIDGE_SUBNET, NoSubnet, Subnet, bridge_subnet},
    system::{INSTALL, Installation, SOCKET},
};

pub use helper::{Helper, HelperError};

use crate::chain;

/// A bridge that is installed for this user.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// The addresses of host and guests.
    pub subnet: Subnet,
    /// Where the helper is asked.
    pub socket: PathBuf,
}

/// Why VMs cannot be on a bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// There is none, or it is somebody else's.
    #[error(
        "`mode` below [network] is `bridge`, and none is installed for this user: sudo banger system install"
    )]
    NotInstalled,
    /// Its settings cannot be read, or others than root can have written them.
    #[error("cannot use the settings of the bridge")]
    Settings(#[source] host::Error),
    /// They are not understood.
    #[error("{INSTALL} is not understood; `sudo banger system install` writes it anew")]
    Content,
    /// The subnet is none.
    #[error("`subnet` in {INSTALL} cannot be {0:?}")]
    Subnet(String, #[source] NoSubnet),
}

impl Bridge {
    /// The bridge that VMs are on, where `installed` finds it.
    ///
    /// # Errors
    /// Where it must be one and there is none that can be used.
    pub fn by(
        mode: NetworkMode,
        installed: impl FnOnce() -> Result<Option<Self>, BridgeError>,
    ) -> Result<Option<Self>, BridgeError> {
        match mode {
            NetworkMode::User => Ok(None),
            NetworkMode::Bridge => installed()?.ok_or(BridgeError::NotInstalled).map(Some),
            NetworkMode::Auto => Ok(installed().unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "VMs are connected without the bridge");
                None
            })),
        }
    }

    /// The one that root installed for this user, where VMs of the installation in `dirs` may be on it: by itself only the daemon
    /// that was installed with it takes it, so that another one of the same user does not lease the same addresses.
    ///
    /// # Errors
    /// Where that cannot be known.
    pub fn installed_for(dirs: &Dirs, mode: NetworkMode) -> Result<Option<Self>, BridgeError> {
        match mode {
            NetworkMode::Auto if !dirs.is_system() => Ok(None),
            NetworkMode::Auto | NetworkMode::User | NetworkMode::Bridge => Self::installed(),
        }
    }

    /// The one that root installed for this user, if there is one.
    ///
    /// # Errors
    /// Where that cannot be known.
    pub fn installed() -> Result<Option<Self>, BridgeError> {
        let bytes = host::dirs::installation_file().map_err(BridgeError::Settings)?;
        let Some(bytes) = bytes else { return Ok(None) };
        let text = str::from_utf8(&bytes).map_err(|_| BridgeError::Content)?;
        Self::of(text, host::proc::own_uid())
    }

    /// The one that the settings `text` have for the user `uid`.
    fn of(text: &str, uid: u32) -> Result<Option<Self>, BridgeError> {
        let installation = Installation::read(text).ok_or(BridgeError::Content)?;
        if installation.owner != uid {
            return Ok(None);
        }
        let subnet = match installation.subnet {
            None => BRIDGE_SUBNET,
            Some(text) => bridge_subnet(&text).map_err(|why| BridgeError::Subnet(text, why))?,
        };
        Ok(Some(Self { subnet, socket: PathBuf::from(SOCKET) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Result<Option<String>, String> {
        let bridge = Bridge::of(text, 1000).map_err(|error| chain(&error))?;
        Ok(bridge.map(|bridge| bridge.subnet.to_string()))
    }

    #[test]
    fn a_bridge_is_there_for_whom_root_installed_it() {
        for (text, expect) in [
            ("owner = 1000\n", Ok(Some("172.30.0.0/24"))),
            ("owner = 1000\nsubnet = \"10.9.0.0/20\"\n", Ok(Some("10.9.0.0/20"))),
            ("owner = 1001\n", Ok(None)),
            ("owner = 1001\nsubnet = \"8.8.8.8/1\"\n", Ok(None)),
            (
                "",
                Err(
                    "/etc/banger/install.toml is not understood; `sudo banger system install` writes it anew",
                ),
            ),
            (
                "owner = 1000\nsubnet = \"8.8.8.0/24\"\n",
                Err("`subnet` in /etc/banger/install.toml cannot be \"8.8.8.0/24\": \
                     it is a private network of 20 to 30 bits, like 172.30.0.0/24"),
            ),
        ] {
            let expect = expect.map(|found| found.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(subnet(text), expect, "{text:?}");
        }
    }

    #[test]
    fn by_itself_the_bridge_is_taken_by_the_daemon_of_the_system_alone() {
        let own = Dirs { runtime: PathBuf::from("/home/alice/run"), ..Dirs::of_system() };
        assert!(Bridge::installed_for(&own, NetworkMode::Auto).unwrap().is_none());
        // What there is on the host of this test is for both the same.
        let is_there =
            |dirs: &Dirs, mode| Bridge::installed_for(dirs, mode).map(|found| found.is_some()).ok();
        let installed = is_there(&own, NetworkMode::Bridge);
        assert_eq!(is_there(&Dirs::of_system(), NetworkMode::Auto), installed);
    }

    #[test]
    fn the_mode_says_whether_vms_are_on_it() {
        let bridge = || Bridge { subnet: BRIDGE_SUBNET, socket: PathBuf::new() };
        let by = |mode, installed| match Bridge::by(mode, || installed) {
            Ok(bridge) => Ok(bridge.is_some()),
            Err(error) => Err(error.to_string()),
        };
        use NetworkMode::{Auto, Bridge as On, User};
        assert_eq!(by(User, Ok(Some(bridge()))), Ok(false));
        assert_eq!(by(Auto, Ok(Some(bridge()))), Ok(true));
        assert_eq!(by(Auto, Ok(None)), Ok(false));
        assert_eq!(by(Auto, Err(BridgeError::Content)), Ok(false));
        assert_eq!(by(On, Ok(Some(bridge()))), Ok(true));
        assert!(by(On, Ok(None)).unwrap_err().contains("sudo banger system install"));
        assert!(by(On, Err(BridgeError::Content)).unwrap_err().contains("is not understood"));
    }
}
