//! What the engine is told about its installation; reading the file is the daemon's business.

use std::{path::PathBuf, time::Duration};

use model::sizing::Wish;

/// The settings of one installation.
#[derive(Debug, Clone)]
pub struct Config {
    /// The image of a VM for which none was named.
    pub default_image: String,
    /// The kernel of an image that names none.
    pub default_kernel: String,
    /// QEMU's program, where it is not the one in `PATH`.
    pub qemu_bin: Option<PathBuf>,
    /// How long a stop may take before the VMM ends.
    pub stop_timeout: Duration,
    /// How long a guest may take until its agent answers.
    pub boot_timeout: Duration,
    /// Sizes of VMs for which none were said.
    pub sizes: Wish,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_image: "debian-bookworm".to_owned(),
            default_kernel: "debian-cloud".to_owned(),
            qemu_bin: None,
            stop_timeout: Duration::from_secs(10),
            boot_timeout: Duration::from_secs(120),
            sizes: Wish::default(),
        }
    }
}
