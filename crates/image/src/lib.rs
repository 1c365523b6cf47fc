//! From a reference to a verified, bootable image or kernel on disk.
//!
//! `rootfs` turns a tar or layers into an immutable ext4 image with the writer of `ext4`, which also makes the templates of the
//! writable disks; `oci` knows how images of containers are made of layers, and what they say of themselves; `kernel` turns a package, a directory or the host into a kernel of the store; `initramfs` makes the
//! boot payload; `catalog` is the list of images or kernels that can be had ready-made. Everything works without root, mounts or loop devices. Publishing is the engine's business: these
//! functions write into a staging directory that the caller made and owns.

mod aligned;
pub mod catalog;
pub mod ext4;
pub mod identity;
pub mod initramfs;
mod json;
pub mod kernel;
pub mod manifest;
pub mod oci;
pub mod rootfs;
pub mod template;
