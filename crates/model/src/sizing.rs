//! How large a VM is when nobody said so, and what is refused when somebody did.
//!
//! Per field the first hit wins: the request, the config, the host, the built-in value. Each value keeps its origin.

use std::fmt;

use crate::size::{GIB, MIB, human};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The user asked for it.
    Request,
    /// The config file or its environment override.
    Config,
    /// Derived from this host's size.
    Host,
    /// Built in.
    Default,
}

/// What somebody said about a VM's size; `None` is "not said", zero is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Virtual CPUs.
    pub vcpu: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// The work disk, `/root`, in bytes.
    pub disk: Option<u64>,
    /// The system overlay in bytes.
    pub overlay: Option<u64>,
}

/// What this host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// CPUs this process may use.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// A VM's size with the origin of each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Virtual CPUs.
    pub vcpu: (u32, Origin),
    /// Memory in bytes, a whole number of MiB.
    pub memory: (u64, Origin),
    /// The work disk in bytes, a whole number of MiB.
    pub disk: (u64, Origin),
    /// The system overlay in bytes, a whole number of MiB.
    pub overlay: (u64, Origin),
}

/// The work disk, and the system overlay, of a VM for which nobody said it.
pub const DISK: u64 = 8 * GIB;
/// The most virtual CPUs a VM may have.
pub const MAX_VCPU: u32 = 64;
/// The least memory a guest boots with.
pub const MIN_MEMORY: u64 = 96 * MIB;
/// The smallest writable disk.
pub const MIN_DISK: u64 = 64 * MIB;
/// The largest writable disk.
pub const MAX_DISK: u64 = 8 << 40;

/// A size that no VM can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SizingError {
    /// The number of virtual CPUs is zero or too large.
    Vcpu {
        /// The flag, or the setting, in question.
        said: &'static str,
        /// What was asked for.
        asked: u32,
        /// The most that goes here.
        max: u32,
    },
    /// The memory is too small, or more than the host has.
    Memory {
        /// The flag, or the setting, in question.
        said: &'static str,
        /// What was asked for, in bytes.
        asked: u64,
        /// The most that goes here, in bytes.
        max: u64,
    },
    /// A disk is too small or too large.
    Disk {
        /// The flag, or the setting, in question.
        said: &'static str,
        /// What was asked for, in bytes.
        asked: u64,
    },
    /// A disk would shrink.
    Shrink {
        /// The flag in question.
        said: &'static str,
        /// What was asked for, in bytes.
        asked: u64,
        /// What it has, in bytes.
        has: u64,
    },
}

impl fmt::Display for SizingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpu { said, asked, max } => write!(f, "{said} {asked} is out of range: 1 to {max}"),
            Self::Memory { said, asked, max } => {
                write!(
                    f,
                    "{said} {} is out of range: {} to {}",
                    human(*asked),
                    human(MIN_MEMORY),
                    human(*max)
                )
            }
            Self::Shrink { said, asked, has } => {
                write!(f, "{said} {}: a disk only grows, and it has {}", human(*asked), human(*has))
            }
            Self::Disk { said, asked } => {
                write!(
                    f,
                    "{said} {} is out of range: {} to {}",
                    human(*asked),
                    human(MIN_DISK),
                    human(MAX_DISK)
                )
            }
        }
    }
}

impl std::error::Error for SizingError {}

/// The size of a VM for which `request` was said, on `host`, where the config says `config`.
///
/// # Errors
/// [`SizingError`] when a value that somebody said is out of range; derived values never are.
pub fn resolve(request: Wish, config: Wish, host: Host) -> Result<Sizing, SizingError> {
    fn pick<T>(request: Option<T>, config: Option<T>, otherwise: (T, Origin)) -> (T, Origin) {
        request.map(|v| (v, Origin::Request)).or(config.map(|v| (v, Origin::Config))).unwrap_or(otherwise)
    }
    let whole = |(bytes, origin): (u64, Origin)| (bytes.div_ceil(MIB).saturating_mul(MIB), origin);
    let vcpu = pick(
        request.vcpu,
        config.vcpu,
        match host.cpus {
            0 => (2, Origin::Default),
            cpus => ((cpus / 4).clamp(1, 4), Origin::Host),
        },
    );
    let memory = whole(pick(
        request.memory,
        config.memory,
        match host.memory {
            0 => (GIB, Origin::Default),
            memory => ((memory / 8 / MIB * MIB).clamp(512 * MIB, 8 * GIB), Origin::Host),
        },
    ));
    let disk = whole(pick(request.disk, config.disk, (DISK, Origin::Default)));
    let overlay = whole(pick(request.overlay, config.overlay, (DISK, Origin::Default)));

    let max_vcpu = MAX_VCPU.min((host.cpus * 4).max(8));
    if !(1..=max_vcpu).contains(&vcpu.0) {
        let said = name(vcpu.1, "--vcpu", "vm_defaults.vcpu");
        return Err(SizingError::Vcpu { said, asked: vcpu.0, max: max_vcpu });
    }
    let max_memory = if host.memory == 0 { 1 << 42 } else { host.memory };
    if said(memory.1) && !(MIN_MEMORY..=max_memory).contains(&memory.0) {
        let said = name(memory.1, "--memory", "vm_defaults.memory");
        return Err(SizingError::Memory { said, asked: memory.0, max: max_memory });
    }
    for (flag, setting, (asked, origin)) in [
        ("--disk-size", "vm_defaults.disk_size", disk),
        ("--overlay-size", "vm_defaults.overlay_size", overlay),
    ] {
        if !(MIN_DISK..=MAX_DISK).contains(&asked) {
            return Err(SizingError::Disk { said: name(origin, flag, setting), asked });
        }
    }
    Ok(Sizing { vcpu, memory, disk, overlay })
}

/// The size of a VM of size `now`, for which `wish` is said on `host`.
///
/// # Errors
/// [`SizingError`] where a value is out of range or a disk would shrink.
pub fn change(now: Sizing, wish: Wish, host: Host) -> Result<Sizing, SizingError> {
    for (said, wish, (has, _)) in
        [("--disk-size", wish.disk, now.disk), ("--overlay-size", wish.overlay, now.overlay)]
    {
        if let Some(asked) = wish.filter(|asked| *asked < has) {
            return Err(SizingError::Shrink { said, asked, has });
        }
    }
    // What is not asked for is not looked at again either: this host may be a smaller one.
    let asked = resolve(wish, Wish::default(), host)?;
    Ok(Sizing {
        vcpu: wish.vcpu.map_or(now.vcpu, |_| asked.vcpu),
        memory: wish.memory.map_or(now.memory, |_| asked.memory),
        disk: wish.disk.map_or(now.disk, |_| asked.disk),
        overlay: wish.overlay.map_or(now.overlay, |_| asked.overlay),
    })
}

/// What the user has to change.
fn name(origin: Origin, flag: &'static str, setting: &'static str) -> &'static str {
    match origin {
        Origin::Config => setting,
        Origin::Request | Origin::Host | Origin::Default => flag,
    }
}

fn said(origin: Origin) -> bool {
    match origin {
        Origin::Request | Origin::Config => true,
        Origin::Host | Origin::Default => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { cpus: 16, memory: 32 * GIB };

    #[test]
    fn the_first_hit_wins_per_field() {
        let request = Wish { vcpu: Some(3), ..Wish::default() };
        let config = Wish { vcpu: Some(1), memory: Some(GIB), ..Wish::default() };
        let sizing = resolve(request, config, HOST).unwrap();
        assert_eq!(sizing.vcpu, (3, Origin::Request));
        assert_eq!(sizing.memory, (GIB, Origin::Config));
        assert_eq!(sizing.disk, (8 * GIB, Origin::Default));
    }

    #[test]
    fn the_host_scales_the_defaults_within_bounds() {
        let of = |cpus, memory| {
            let s = resolve(Wish::default(), Wish::default(), Host { cpus, memory }).unwrap();
            (s.vcpu.0, s.memory.0)
        };
        assert_eq!(of(16, 32 * GIB), (4, 4 * GIB));
        assert_eq!(of(2, 2 * GIB), (1, 512 * MIB));
        assert_eq!(of(128, 1024 * GIB), (4, 8 * GIB));
        assert_eq!(of(0, 0), (2, GIB));
    }

    #[test]
    fn a_size_out_of_range_names_who_said_it() {
        let much = Wish { memory: Some(64 * GIB), ..Wish::default() };
        let told = |request, config| resolve(request, config, HOST).unwrap_err().to_string();
        assert_eq!(told(much, Wish::default()), "--memory 64 GiB is out of range: 96 MiB to 32 GiB");
        assert_eq!(
            told(Wish::default(), much),
            "vm_defaults.memory 64 GiB is out of range: 96 MiB to 32 GiB"
        );
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_never_shrinks_a_disk() {
        let now = resolve(Wish { vcpu: Some(7), ..Wish::default() }, Wish::default(), HOST).unwrap();
        let more = change(now, Wish { disk: Some(9 * GIB), ..Wish::default() }, HOST).unwrap();
        assert_eq!(more, Sizing { disk: (9 * GIB, Origin::Request), ..now });
        assert_eq!(change(more, Wish::default(), Host { cpus: 1, memory: GIB }).unwrap(), more);
        let told = |wish| change(more, wish, HOST).unwrap_err().to_string();
        assert_eq!(
            told(Wish { disk: Some(8 * GIB), ..Wish::default() }),
            "--disk-size 8 GiB: a disk only grows, and it has 9 GiB"
        );
        assert_eq!(told(Wish { vcpu: Some(0), ..Wish::default() }), "--vcpu 0 is out of range: 1 to 64");
    }

    #[test]
    fn zero_is_not_omitted() {
        let zero = Wish { vcpu: Some(0), ..Wish::default() };
        assert!(matches!(resolve(zero, Wish::default(), HOST), Err(SizingError::Vcpu { asked: 0, .. })));
        let zero = Wish { memory: Some(0), ..Wish::default() };
        assert!(matches!(resolve(zero, Wish::default(), HOST), Err(SizingError::Memory { asked: 0, .. })));
        let zero = Wish { overlay: Some(0), ..Wish::default() };
        assert!(matches!(
            resolve(Wish::default(), zero, HOST),
            Err(SizingError::Disk { said: "vm_defaults.overlay_size", .. })
        ));
    }
}
