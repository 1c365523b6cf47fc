//! The keys by which a VM's sshd and its owner's ssh know each other, and the file of pins.
//!
//! ```text
//! state/ssh/  secret         every key below follows from it
//!             id_ed25519     banger's own key, which every guest lets in
//!             known_hosts    NAME.banger and its host key, one line per VM that was started
//!             config         what ssh is to know of all this; the command line writes it
//! ```
//! A guest gets its host key from here, so what ssh sees first is checked already. Where the pins cannot be written, ssh finds
//! none and refuses: it never trusts what it merely sees.

use std::path::{Path, PathBuf};

use host::dirs::Dirs;
use model::{
    VmId, VmName,
    ssh::{self, KeyPair},
};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use wire::guest::Ssh;

use crate::{Engine, Result, blocking, chain};

/// The longest file of pins that is read.
const MAX_PINS: u64 = 16 << 20;
/// Longer than the file of any key of ours.
const MAX_KEY: u64 = 4 << 10;

/// The keys of one installation.
///
/// # Locking
/// `pins` is a leaf, held while the file of pins is read and written.
#[derive(Debug)]
pub struct Keys {
    secret: hmac::Key,
    /// Banger's own key as a line of `authorized_keys`.
    identity: String,
    known_hosts: PathBuf,
    pins: std::sync::Mutex<()>,
}

impl Keys {
    /// The keys of the installation in `dirs`, made where they are missing.
    ///
    /// # Errors
    /// Where they cannot be read or written.
    pub fn ensure(dirs: &Dirs) -> Result<Self> {
        host::fs::private_dir(&dirs.ssh())?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret(&dirs.ssh().join("secret"))?);
        let pair = derive(&secret, "identity");
        let path = dirs.ssh_identity();
        let identity = format!("{} banger", pair.public_text());
        let private = pair.private_text("banger");
        if host::fs::read_limited(&path, MAX_KEY).ok().as_deref() != Some(private.as_bytes()) {
            host::fs::write_atomic(&path.with_extension("pub"), format!("{identity}\n").as_bytes())?;
            host::fs::write_atomic(&path, private.as_bytes())?;
        }
        Ok(Self { secret, identity, known_hosts: dirs.ssh_known_hosts(), pins: std::sync::Mutex::default() })
    }

    /// The host key of VM `id`, the same at every start.
    fn of_host(&self, id: VmId) -> KeyPair {
        derive(&self.secret, &format!("host {id}"))
    }

    /// What the guest of VM `id` is told.
    #[must_use]
    pub fn for_guest(&self, id: VmId) -> Ssh {
        let key = self.of_host(id);
        Ssh {
            authorized: vec![self.identity.clone()],
            host_key: key.private_text("banger"),
            host_key_public: key.public_text(),
        }
    }

    fn change(&self, change: impl FnOnce(&str) -> String) -> host::Result<()> {
        let _pins = self.pins.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = match host::fs::read_limited(&self.known_hosts, MAX_PINS) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.is_missing() => String::new(),
            Err(error) => return Err(error),
        };
        let changed = change(&found);
        if changed == found { Ok(()) } else { host::fs::write_atomic(&self.known_hosts, changed.as_bytes()) }
    }
}

/// What every key follows from. One that is damaged is made anew: guests get their keys at every start.
fn secret(path: &Path) -> Result<Vec<u8>> {
    match host::fs::read_limited(path, SECRET as u64) {
        Ok(bytes) if bytes.len() == SECRET => return Ok(bytes),
        Err(error) if !error.is_missing() && error.kind() != std::io::ErrorKind::FileTooLarge => {
            return Err(error.into());
        }
        Ok(_) | Err(_) => {}
    }
    let bytes = host::rand::bytes::<SECRET>();
    host::fs::write_atomic(path, &bytes)?;
    Ok(bytes.to_vec())
}

const SECRET: usize = 32;

fn derive(secret: &hmac::Key, purpose: &str) -> KeyPair {
    let tag = hmac::sign(secret, purpose.as_bytes());
    let seed: [u8; 32] = tag.as_ref().try_into().expect("SHA-256 has 32 bytes");
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed");
    KeyPair { seed, public: pair.public_key().as_ref().try_into().expect("a public key has 32 bytes") }
}

impl Engine {
    /// Pins the host key of VM `id`, so that ssh knows it under the VM's name.
    pub(crate) async fn pin(&self, id: VmId, name: &VmName) -> Result<()> {
        let (engine, host) = (self.clone(), ssh::host_name(name));
        blocking(move || {
            let keys = &engine.0.ssh;
            let key = keys.of_host(id);
            Ok(keys.change(|found| {
                let pinned = format!("{host} {}", key.public_text());
                // It mostly is there, and then nothing is to be written.
                if found.lines().any(|line| line == pinned) {
                    found.to_owned()
                } else {
                    ssh::pin(found, &host, &key)
                }
            })?)
        })
        .await
    }

    /// Forgets the host key of a VM that is gone.
    pub(crate) async fn unpin_vm(&self, name: &VmName) {
        let gone = ssh::host_name(name);
        self.unpin(move |host| host == gone).await;
    }

    /// Forgets the host keys of the names for which `is_gone` says so. A pin that stays is told in the log: the next VM of that
    /// name replaces it.
    async fn unpin(&self, is_gone: impl Fn(&str) -> bool + Send + 'static) {
        let engine = self.clone();
        let unpinned = blocking(move || Ok(engine.0.ssh.change(|found| ssh::unpin(found, is_gone))?)).await;
        if let Err(error) = unpinned {
            tracing::warn!(error = chain(&error), "cannot forget a host key");
        }
    }

    /// Forgets the host keys of VMs that are not there any more, which a crash may have left.
    pub(crate) async fn unpin_strangers(&self) -> Result<()> {
        let names = self.store().vm_list()?.into_iter().map(|vm| ssh::host_name(&vm.name));
        let names: std::collections::HashSet<String> = names.collect();
        self.unpin(move |host| !names.contains(host)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_the_same_and_differ_by_vm() {
        let home = std::env::temp_dir().join(format!("banger-ssh-{}", std::process::id()));
        let dirs = Dirs {
            state: home.clone(),
            cache: home.join("cache"),
            runtime: home.join("run"),
            config: home.join("config"),
        };
        let (a, b) = (VmId::from_bytes([1; 6]), VmId::from_bytes([2; 6]));
        let first = Keys::ensure(&dirs).unwrap();
        let private = host::fs::read_text(&dirs.ssh_identity()).unwrap();
        let again = Keys::ensure(&dirs).unwrap();
        assert_eq!(first.of_host(a), again.of_host(a));
        assert_ne!(first.of_host(a), first.of_host(b));
        assert_eq!(host::fs::read_text(&dirs.ssh_identity()).unwrap(), private);
        host::fs::write_atomic(&dirs.ssh().join("secret"), b"short").unwrap();
        let other = Keys::ensure(&dirs).unwrap();
        assert_ne!(other.of_host(a), first.of_host(a));
        let public = host::fs::read_text(&dirs.ssh_identity().with_extension("pub")).unwrap();
        assert_eq!(public.trim_end(), other.identity);
        host::fs::remove_all(&home).unwrap();
    }
}
