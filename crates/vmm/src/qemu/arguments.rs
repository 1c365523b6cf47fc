//! QEMU's command line for a plan.

use std::os::fd::RawFd;

use model::{
    boot::{DiskAccess, DiskRole},
    config::Limits,
    network::Link,
};
use wire::session::PORT;

use crate::{Accelerator, MachinePlan, Nic, SpawnError, launch::plain_name};

/// The numbers of the listening sockets that QEMU gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sockets {
    pub(super) control: RawFd,
    pub(super) console: RawFd,
    pub(super) agent: RawFd,
    /// The tap, where the machine is in a namespace with one.
    pub(super) tap: Option<RawFd>,
    /// Where what was saved comes from, where the machine goes on from that.
    pub(super) saved: Option<RawFd>,
}

const MIB: u64 = 1 << 20;

/// What QEMU is started with.
pub(super) fn arguments(
    plan: &MachinePlan,
    accelerator: Accelerator,
    sockets: Sockets,
) -> Result<Vec<String>, SpawnError> {
    let mut out: Vec<String> = Vec::new();
    let mut put = |option: &str, value: String| out.extend([option.to_owned(), value]);
    // What is not needed is not there: less to probe for the kernel, less to attack for the guest.
    put("-machine", "q35,usb=off,sata=off,smbus=off,vmport=off,dump-guest-core=off".to_owned());
    match accelerator {
        Accelerator::Kvm => {
            put("-accel", "kvm".to_owned());
            put("-cpu", "host".to_owned());
        }
        Accelerator::Tcg => {
            // What is translated may take a quarter of a GiB; by itself it would take up to a whole one for each VM.
            put("-accel", "tcg,thread=multi,tb-size=256".to_owned());
            // Software walks the page tables, and a fifth level serves guests of more than 64 TiB.
            put("-cpu", "max,la57=off".to_owned());
        }
    }
    put("-smp", plan.vcpus.max(1).to_string());
    put("-m", format!("{}M", plan.memory / MIB));
    put("-name", plain_name("name", &plan.name)?.to_owned());
    put("-kernel", plain_name("kernel", &plan.kernel)?.to_owned());
    let Sockets { control, console, agent, tap, saved } = sockets;
    match saved {
        // The kernel is needed even so: what starts it is a device with memory of its own.
        Some(saved) => put("-incoming", format!("fd:{saved}")),
        None => put("-initrd", plain_name("initrd", &plan.initrd)?.to_owned()),
    }
    put("-append", plan.command_line.clone());

    let socket = |id: &str, fd: RawFd| format!("socket,id={id},fd={fd},server=on,wait=off");
    put("-chardev", socket("control", control));
    put("-mon", "chardev=control,mode=control".to_owned());
    put("-chardev", socket("console", console));
    put("-serial", "chardev:console".to_owned());
    put("-chardev", socket("agent", agent));
    put("-device", "virtio-serial-pci,max_ports=2".to_owned());
    put("-device", format!("virtserialport,chardev=agent,name={PORT}"));
    put("-device", "virtio-rng-pci".to_owned());

    let Limits { disk: disk_rate, network: network_rate } = plan.limits;
    for disk in &plan.disks {
        let file = plain_name("disk", &disk.file)?;
        let (node, access) = (disk.role.name(), access(disk.role));
        put(
            "-blockdev",
            format!(
                "driver=file,node-name={node}-file,filename={file},aio=threads,discard=unmap,cache.direct=off,\
                 cache.no-flush=off,{access}"
            ),
        );
        // What the device is given is always called as its role: it is by that name that it grows.
        match disk_rate {
            None => put(
                "-blockdev",
                format!("driver=raw,node-name={node},file={node}-file,discard=unmap,{access}"),
            ),
            Some(rate) => {
                let (raw, group) = (format!("{node}-raw"), format!("{node}-rate"));
                put(
                    "-blockdev",
                    format!("driver=raw,node-name={raw},file={node}-file,discard=unmap,{access}"),
                );
                put("-object", format!("throttle-group,id={group},x-bps-total={rate}"));
                let throttle = format!("driver=throttle,node-name={node},throttle-group={group},file={raw}");
                put("-blockdev", format!("{throttle},discard=unmap,{access}"));
            }
        }
        put("-device", format!("virtio-blk-pci,drive={node},serial={}", disk.role.serial()));
    }

    if let Some(Nic { card, link, .. }) = &plan.nic {
        if let Some(rate) = network_rate {
            return Err(SpawnError::Plan { field: "the network's rate", value: rate.to_string() });
        }
        put("-netdev", netdev(*link, tap)?);
        // Without its ROM: nothing boots from a network.
        let (mac, mtu) = (card.mac, card.mtu);
        put("-device", format!("virtio-net-pci,netdev=net,mac={mac},host_mtu={mtu},romfile="));
    }

    put("-display", "none".to_owned());
    put("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
    // A reset ends the process, which tells it; starting again is not QEMU's to decide.
    out.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    Ok(out)
}

/// What is behind the card.
fn netdev(link: Link, tap: Option<RawFd>) -> Result<String, SpawnError> {
    match (link, tap) {
        (Link::Namespace | Link::Bridge, Some(tap)) => Ok(format!("tap,id=net,fd={tap}")),
        (Link::Namespace | Link::Bridge, None) => {
            Err(SpawnError::Plan { field: "tap", value: "none".to_owned() })
        }
        // The host's other addresses cannot be closed here, and with `restrict` nothing else could be reached.
        (Link::BuiltIn, _) => Ok("user,id=net,ipv6=off".to_owned()),
    }
}

/// What may be read by many is not locked by any.
fn access(role: DiskRole) -> &'static str {
    match role.access() {
        DiskAccess::ReadOnly => "read-only=on",
        DiskAccess::ReadWrite => "read-only=off",
    }
}

#[cfg(test)]
mod tests {
    use model::{
        VmId,
        network::{BRIDGE_SUBNET, Card, Mac},
    };

    use super::*;
    use crate::{Disk, Place};

    fn plan() -> MachinePlan {
        MachinePlan {
            place: Place { run_dir: "/run".into(), log_dir: "/log".into() },
            name: "dev".to_owned(),
            kernel: "kernel".to_owned(),
            initrd: "initrd".to_owned(),
            command_line: "console=ttyS0".to_owned(),
            vcpus: 2,
            memory: 512 * MIB,
            disks: vec![
                Disk { file: "image".to_owned(), role: DiskRole::Image },
                Disk { file: "work".to_owned(), role: DiskRole::Work },
            ],
            nic: None,
            limits: Limits::default(),
            secret: wire::session::Secret::new([0; 16]),
            saved: None,
        }
    }

    const SOCKETS: Sockets = Sockets { control: 10, console: 11, agent: 12, tap: None, saved: None };

    #[test]
    fn disks_have_serials_and_flushes_and_only_private_ones_are_written() {
        let all = arguments(&plan(), Accelerator::Tcg, SOCKETS).unwrap();
        let drives: Vec<&str> = all
            .iter()
            .filter(|a| a.starts_with("driver=") || a.contains("-blk-"))
            .map(String::as_str)
            .collect();
        assert_eq!(
            drives,
            [
                "driver=file,node-name=image-file,filename=image,aio=threads,discard=unmap,cache.direct=off,cache.no-flush=off,read-only=on",
                "driver=raw,node-name=image,file=image-file,discard=unmap,read-only=on",
                "virtio-blk-pci,drive=image,serial=banger-image",
                "driver=file,node-name=work-file,filename=work,aio=threads,discard=unmap,cache.direct=off,cache.no-flush=off,read-only=off",
                "driver=raw,node-name=work,file=work-file,discard=unmap,read-only=off",
                "virtio-blk-pci,drive=work,serial=banger-work",
            ]
        );
    }

    #[test]
    fn a_disk_with_a_rate_is_throttled_under_its_name_and_a_card_with_one_is_refused() {
        let limits = |disk, network| MachinePlan { limits: Limits { disk, network }, ..plan() };
        let all = arguments(&limits(Some(MIB), None), Accelerator::Kvm, SOCKETS).unwrap();
        let of_work: Vec<&str> =
            all.iter().filter(|a| a.contains("work")).skip(1).map(String::as_str).collect();
        assert_eq!(
            of_work,
            [
                "driver=raw,node-name=work-raw,file=work-file,discard=unmap,read-only=off",
                "throttle-group,id=work-rate,x-bps-total=1048576",
                "driver=throttle,node-name=work,throttle-group=work-rate,file=work-raw,discard=unmap,read-only=off",
                "virtio-blk-pci,drive=work,serial=banger-work",
            ]
        );
        let alone = limits(None, Some(MIB));
        assert!(arguments(&alone, Accelerator::Kvm, SOCKETS).is_ok(), "there is nothing to limit");
        let card = Card::in_namespace(Mac([2; 6]));
        let nic = Nic { vm: VmId::from_bytes([2; 6]), card, link: Link::Namespace };
        let error = arguments(
            &MachinePlan { nic: Some(nic), ..alone },
            Accelerator::Kvm,
            Sockets { tap: Some(9), ..SOCKETS },
        );
        assert_eq!(error.unwrap_err().to_string(), "the network's rate of the machine cannot be \"1048576\"");
    }

    #[test]
    fn there_is_a_card_only_where_the_plan_has_one() {
        let words = |plan: &MachinePlan, tap| {
            let all = arguments(plan, Accelerator::Tcg, Sockets { tap, ..SOCKETS }).unwrap();
            all.into_iter().filter(|a| a.contains("net")).collect::<Vec<_>>()
        };
        assert_eq!(words(&plan(), None), ["-netdev"; 0]);
        let on = |card: fn(Mac) -> Card, link| {
            let nic = Nic { vm: VmId::from_bytes([2; 6]), card: card(Mac([2; 6])), link };
            MachinePlan { nic: Some(nic), ..plan() }
        };
        let bridge: fn(Mac) -> Card = |mac| Card::on_bridge(mac, BRIDGE_SUBNET, 7).unwrap();
        assert_eq!(
            words(&on(Card::in_namespace, Link::Namespace), Some(9)),
            [
                "-netdev",
                "tap,id=net,fd=9",
                "virtio-net-pci,netdev=net,mac=02:02:02:02:02:02,host_mtu=65520,romfile="
            ]
        );
        assert_eq!(words(&on(Card::built_in, Link::BuiltIn), None)[1], "user,id=net,ipv6=off");
        assert_eq!(
            words(&on(bridge, Link::Bridge), Some(7))[1..],
            ["tap,id=net,fd=7", "virtio-net-pci,netdev=net,mac=02:02:02:02:02:02,host_mtu=1500,romfile="]
        );
        for plan in [on(Card::in_namespace, Link::Namespace), on(bridge, Link::Bridge)] {
            assert!(arguments(&plan, Accelerator::Tcg, SOCKETS).is_err(), "a tap is needed");
        }
    }

    #[test]
    fn what_was_saved_takes_the_place_of_the_initramfs() {
        let words = |saved| arguments(&plan(), Accelerator::Tcg, Sockets { saved, ..SOCKETS }).unwrap();
        let has = |words: &[String], word: &str| words.iter().any(|w| w == word);
        let (boots, goes_on) = (words(None), words(Some(13)));
        assert!(has(&boots, "-initrd") && !has(&boots, "-incoming"));
        assert!(!has(&goes_on, "-initrd") && has(&goes_on, "fd:13") && has(&goes_on, "-kernel"));
    }

    #[test]
    fn names_that_would_be_options_or_paths_are_refused() {
        for bad in ["", "a,b", "../x", "a/b", "-x", ".x", "a b", "ä"] {
            for field in ["kernel", "disk", "name"] {
                let mut plan = plan();
                match field {
                    "kernel" => plan.kernel = bad.to_owned(),
                    "disk" => plan.disks[0].file = bad.to_owned(),
                    _ => plan.name = bad.to_owned(),
                }
                let error = arguments(&plan, Accelerator::Kvm, SOCKETS).unwrap_err();
                assert_eq!(error.to_string(), format!("{field} of the machine cannot be {bad:?}"));
            }
        }
    }
}
