//! SSH keys and pins as OpenSSH writes them. Making keys and files is not here.
//!
//! A VM is known to SSH as `NAME.banger`, a name that no DNS gives to anybody.

use crate::{VmName, base64};

/// What follows a VM's name in its name for SSH.
pub const SUFFIX: &str = ".banger";

/// The name of a VM for SSH.
#[must_use]
pub fn host_name(vm: &VmName) -> String {
    format!("{vm}{SUFFIX}")
}

/// An ed25519 key (RFC 8032).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The secret half.
    pub seed: [u8; 32],
    /// The public half that follows from it.
    pub public: [u8; 32],
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

const KIND: &[u8] = b"ssh-ed25519";
/// How long a line of a private key's file is.
const LINE: usize = 70;

impl KeyPair {
    /// The file of the private key (PROTOCOL.key of OpenSSH), without a passphrase.
    #[must_use]
    pub fn private_text(&self, comment: &str) -> String {
        let mut secret = Vec::new();
        // Twice the same number tells a right passphrase from a wrong one; here is none.
        secret.extend([self.public[..4].to_vec(), self.public[..4].to_vec()].concat());
        string(&mut secret, KIND);
        string(&mut secret, &self.public);
        string(&mut secret, &[self.seed, self.public].concat());
        string(&mut secret, comment.as_bytes());
        (1..=8).take((8 - secret.len() % 8) % 8).for_each(|byte| secret.push(byte));
        let mut file = b"openssh-key-v1\0".to_vec();
        string(&mut file, b"none");
        string(&mut file, b"none");
        string(&mut file, b"");
        file.extend(1_u32.to_be_bytes());
        string(&mut file, &self.public_blob());
        string(&mut file, &secret);
        let mut text = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
        for (at, digit) in base64::encode(&file).chars().enumerate() {
            if at > 0 && at % LINE == 0 {
                text.push('\n');
            }
            text.push(digit);
        }
        text + "\n-----END OPENSSH PRIVATE KEY-----\n"
    }

    /// The public key as `authorized_keys` and `known_hosts` have it: kind and key.
    #[must_use]
    pub fn public_text(&self) -> String {
        format!("ssh-ed25519 {}", base64::encode(&self.public_blob()))
    }

    fn public_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        string(&mut blob, KIND);
        string(&mut blob, &self.public);
        blob
    }
}

/// Appends a string as SSH encodes it (RFC 4251).
fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).expect("keys are short").to_be_bytes());
    to.extend(bytes);
}

/// `known_hosts` with exactly this key for `host`.
#[must_use]
pub fn pin(known_hosts: &str, host: &str, key: &KeyPair) -> String {
    unpin(known_hosts, |other| other == host) + &format!("{host} {}\n", key.public_text())
}

/// `known_hosts` without the keys of the hosts that are `gone`.
#[must_use]
pub fn unpin(known_hosts: &str, gone: impl Fn(&str) -> bool) -> String {
    let stays = |line: &&str| !gone(line.split(' ').next().unwrap_or_default());
    known_hosts.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test key of RFC 8032, 7.1, as `ssh-keygen -y` and `-e` read it.
    fn key() -> KeyPair {
        let bytes = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        };
        KeyPair {
            seed: bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
            public: bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
        }
    }

    #[test]
    fn a_pin_replaces_that_of_the_same_name_only() {
        let (a, b) = (key(), KeyPair { public: [7; 32], ..key() });
        let first = pin("", "dev.banger", &a);
        assert_eq!(
            first,
            "dev.banger ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea\n"
        );
        let both = pin(&first, "dev2.banger", &b);
        let other = pin(&both, "dev.banger", &b);
        assert_eq!(other.lines().count(), 2);
        assert_eq!(unpin(&other, |host| host == "dev.banger"), pin("", "dev2.banger", &b));
        assert_eq!(unpin(&other, |host| host.ends_with(SUFFIX)), "");
    }

    #[test]
    fn a_private_key_is_padded_and_has_both_halves() {
        for comment in ["", "a", "banger", "longer than eight"] {
            let text = key().private_text(comment);
            let middle: String = text.lines().filter(|line| !line.starts_with('-')).collect();
            let file = base64::decode(&middle).unwrap();
            let whole = [key().seed, key().public].concat();
            assert!(file.windows(64).any(|window| window == whole), "{comment}");
            // Fixed parts, then the length of the secret part, which is a multiple of the cipher's block of eight.
            let secret = file.len() - (15 + 8 + 8 + 4 + 4 + 4 + 51 + 4);
            assert_eq!(secret % 8, 0, "{comment}");
            assert!(text.lines().all(|line| line.len() <= LINE));
        }
    }
}
