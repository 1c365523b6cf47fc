//! Effects: real files, real tools as oracles, a real kernel.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests run the tools that they compare with, and fail where they stand"
)]

mod kernel_deb;
mod kernel_distributions;
mod kernel_forge;
mod kernel_import;
mod kernel_initramfs;
mod kernel_support;
mod oci_import;
mod oci_refusals;
mod oci_support;
mod rootfs_directory;
mod rootfs_grow;
mod rootfs_import;
mod rootfs_property;
mod rootfs_refusals;
mod rootfs_support;
mod rootfs_template;
