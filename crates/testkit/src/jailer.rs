//! Stands in for Firecracker's jailer where there is none or no KVM: its arguments, its directories, its order.
//!
//! A Firecracker that stands in is linked to libraries, which the jail shows it; the real one needs none.
#![expect(clippy::disallowed_methods, reason = "it puts programs where a test needs them")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// As `src/jailer/src/env.rs` of its source does it, with coreutils.
const JAILER: &str = r#"#!/bin/sh
set -eu
while [ "$1" != -- ]; do
    case $1 in
        --id) id=$2 ;;
        --uid) uid=$2 ;;
        --gid) gid=$2 ;;
        --exec-file) program=$2 ;;
        --chroot-base-dir) base=$2 ;;
        *) echo "unknown argument $1" >&2; exit 1 ;;
    esac
    shift 2
done
shift
name=${program##*/}
root=$base/$name/$id/root
mkdir -p "$root"
cp "$program" "$root/$name"
chown "$uid:$gid" "$root/$name"
for place in /usr /lib /lib64; do
    if [ -L "$place" ]; then
        cp -d "$place" "$root$place"
    elif [ -d "$place" ]; then
        mkdir "$root$place"
        mount --bind "$place" "$root$place"
    fi
done
for folder in / /dev /run; do
    mkdir -p "$root$folder"
    chmod 700 "$root$folder"
    chown "$uid:$gid" "$root$folder"
done
exec chroot --userspec="+$uid:+$gid" --groups= "$root" "/$name" --id "$id" "$@"
"#;

/// Puts the jailer, and `firecracker` as the Firecracker that it starts, into the directory `programs`.
///
/// # Panics
/// Where there is no room for them.
pub fn install(programs: &Path, firecracker: &Path) {
    fs::create_dir_all(programs).expect("there is room for it");
    fs::copy(firecracker, programs.join("firecracker")).expect("it was built");
    fs::write(programs.join("jailer"), JAILER).expect("there is room for it");
    for path in ["", "firecracker", "jailer"] {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(programs.join(path), mode).expect("it is this user's");
    }
}
