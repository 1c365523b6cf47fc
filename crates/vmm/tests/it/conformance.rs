//! What every backend does. Each case runs on the fake and on the stand-in for Firecracker always, on QEMU in software where it and a
//! kernel are there, and on QEMU with KVM and on Firecracker where KVM runs their guests.

use std::{fs, time::Duration};

use model::{config::Limits, end::MachineEnd, network::TAP};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmm::{
    AgentError, ControlError, LaunchError, Machine, MachinePlan, MachineStatus, STATE, Saved, Snapshots,
};

use crate::subject::{Subject, ask, console, deadline, end_by, kill, processes_in, session, taps_of, within};

/// Runs a case on every backend.
macro_rules! conformance {
    ($($case:ident)*) => {$(
        mod $case {
            use crate::subject::Subject;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn fake() {
                super::cases::$case(Subject::fake(stringify!($case))).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn qemu() {
                let Some(subject) = Subject::qemu(stringify!($case)) else { return };
                super::cases::$case(subject).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn firecracker_stand_in() {
                let Some(subject) = Subject::stand_in(stringify!($case)) else { return };
                super::cases::$case(subject).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn firecracker() {
                let Some(subject) = Subject::firecracker(stringify!($case)) else { return };
                super::cases::$case(subject).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn qemu_kvm() {
                let Some(subject) = Subject::qemu_kvm(stringify!($case)) else { return };
                super::cases::$case(subject).await;
            }
        }
    )*};
}

conformance! {
    nothing_runs_before_the_release
    what_is_not_released_is_gone
    a_guest_boots_and_speaks
    a_guest_powers_off
    a_guest_reboots
    a_guest_panics
    a_vmm_is_killed
    a_machine_is_adopted
    a_machine_quits
    a_killed_machine_is_gone
    the_power_button_is_pressed
    sessions_wait_for_each_other
    sessions_are_killed_in_mid_transfer
    a_saved_machine_goes_on_in_others
    a_save_that_is_given_up_leaves_the_machine_running
    what_was_saved_and_changed_is_refused
    a_machine_with_a_card_is_alone_with_its_tap
    a_machine_with_rates_runs
    a_machine_has_no_more_of_the_host_than_it_needs
}

mod cases {
    use super::*;

    pub async fn nothing_runs_before_the_release(subject: Subject) {
        let plan = subject.plan();
        let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
        let id = spawned.id().clone();
        assert!(id.open().unwrap().is_some(), "its identity can be committed");
        let program = || fs::read_link(format!("/proc/{}/exe", id.pid)).unwrap();
        assert_eq!(program(), std::env::current_exe().unwrap(), "it has executed nothing");
        let machine = within("the release", spawned.release()).await.unwrap();
        assert_eq!(machine.id(), &id);
        assert_eq!(program(), subject.backend.report().program.canonicalize().unwrap());
        kill(&*machine).await;
    }

    pub async fn what_is_not_released_is_gone(subject: Subject) {
        let plan = subject.plan();
        let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
        let id = spawned.id().clone();
        drop(spawned);
        assert!(id.open().unwrap().is_none());
        assert_eq!(processes_in(&plan.place.run_dir), Vec::<u32>::new());
        assert!(subject.backend.adopt(id, plan.place, plan.secret).await.unwrap().is_none());
    }

    pub async fn a_guest_boots_and_speaks(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        assert_eq!(machine.status().await.unwrap(), MachineStatus::Running);
        let mut channel = session(&*machine, "say 200").await;
        let mut answer = [0; 5];
        within("the answer", channel.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"said\n");
        drop(channel);
        let mut channel = session(&*machine, "echo").await;
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
        echo(&mut channel, &sent).await;
        drop(channel);
        end_by(&*machine, "poweroff").await;
        let console = console(&plan);
        let expect: String = (0..200).map(|n| format!("guest: line {n}\n")).collect();
        assert!(console.replace('\r', "").contains(&expect), "{console}");
    }

    pub async fn a_guest_powers_off(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        let end = end_by(&*machine, "poweroff").await;
        assert_eq!(end.what, MachineEnd::Poweroff);
        assert_eq!(end, within("the end again", machine.ended()).await);
        assert!(matches!(machine.connect_agent().await, Err(AgentError::Ended)));
        assert!(matches!(machine.powerdown().await, Err(ControlError::Ended)));
        assert_eq!(machine.status().await.unwrap(), MachineStatus::Ended);
        kill(&*machine).await;
    }

    pub async fn a_guest_reboots(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        assert_eq!(end_by(&*machine, "reboot").await.what, MachineEnd::Reset);
    }

    pub async fn a_guest_panics(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        assert_eq!(end_by(&*machine, "panic").await.what, MachineEnd::Panic);
        let console = console(&plan);
        assert!(console.contains("Kernel panic - not syncing: Attempted to kill init!"), "{console}");
    }

    pub async fn a_vmm_is_killed(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        let mut channel = session(&*machine, "echo").await;
        let process = machine.id().open().unwrap().unwrap();
        process.signal(host::proc::Signal::Kill).unwrap();
        let end = within("the end", machine.ended()).await;
        assert_eq!((end.what, end.exit), (MachineEnd::VmmDied, Some(host::proc::Exit::Signal(9))));
        let mut rest = Vec::new();
        // An error or an end, never a wait.
        let _ = within("the end of the channel", channel.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }

    pub async fn a_machine_is_adopted(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        drop(session(&*machine, "echo").await);
        let id = machine.id().clone();
        // Also with a session open, as a daemon that is killed leaves it.
        let channel = session(&*machine, "echo").await;
        drop(machine);
        drop(channel);
        let adopt = || subject.backend.adopt(id.clone(), plan.place.clone(), plan.secret.clone());
        let machine = within("the adoption", adopt()).await.unwrap().expect("it lives");
        assert_eq!(machine.id(), &id);
        assert_eq!(machine.status().await.unwrap(), MachineStatus::Running);
        let mut channel = session(&*machine, "say 20").await;
        within("the answer", channel.read_u8()).await.unwrap();
        drop(channel);
        assert_eq!(end_by(&*machine, "poweroff").await.what, MachineEnd::Poweroff);
        assert!(console(&plan).contains("guest: line 19"), "the console is read again");
        drop(machine);
        assert!(within("the adoption of the dead", adopt()).await.unwrap().is_none());
    }

    pub async fn a_machine_quits(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        within("the quit", machine.quit(deadline())).await.unwrap();
        assert_eq!(machine.ended().await.what, MachineEnd::Quit);
        within("a second quit", machine.quit(deadline())).await.unwrap();
    }

    pub async fn a_killed_machine_is_gone(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        kill(&*machine).await;
        assert_eq!(machine.ended().await.what, MachineEnd::VmmDied);
        kill(&*machine).await;
    }

    pub async fn the_power_button_is_pressed(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        drop(session(&*machine, "echo").await);
        // What a guest makes of it is its own affair: that it is taken is what all have in common.
        machine.powerdown().await.unwrap();
        within("the quit", machine.quit(deadline())).await.unwrap();
        let end = machine.ended().await.what;
        assert!([MachineEnd::Quit, MachineEnd::Poweroff, MachineEnd::Reset].contains(&end), "{end}");
    }

    pub async fn sessions_wait_for_each_other(subject: Subject) {
        let machine = subject.start(&subject.plan()).await;
        let first = session(&*machine, "echo").await;
        let mut second = machine.connect_agent();
        tokio::select! {
            biased;
            _ = &mut second => panic!("two at once"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        let mut second = within("the second session", second).await.unwrap();
        second.write_all(b"echo\n").await.unwrap();
        echo(&mut second, b"hello").await;
        kill(&*machine).await;
    }

    pub async fn a_saved_machine_goes_on_in_others(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        assert_eq!(ask(&*machine, "remember before").await, "said");
        // One is open, as a daemon's always is.
        let mut open = session(&*machine, "echo").await;
        echo(&mut open, b"before").await;
        let saved = save(&subject, &*machine, "saved").await;
        echo(&mut open, b"and after").await;
        drop(open);
        assert_eq!(ask(&*machine, "recall").await, "before", "the origin goes on");
        assert_eq!(ask(&*machine, "remember origin").await, "said");

        let first = subject.start(&subject.clone_of(&plan, &saved)).await;
        let second = subject.start(&subject.clone_of(&plan, &saved)).await;
        for (clone, word) in [(&first, "first"), (&second, "second")] {
            assert_eq!(clone.status().await.unwrap(), MachineStatus::Running);
            assert_eq!(ask(&**clone, "recall").await, "before", "it goes on from there");
            assert_eq!(ask(&**clone, &format!("remember {word}")).await, "said");
        }
        for (machine, word) in [(&machine, "origin"), (&first, "first"), (&second, "second")] {
            assert_eq!(ask(&**machine, "recall").await, word, "each has its own memory");
        }
        // A clone is a machine like any other.
        let saved = save(&subject, &*first, "saved-again").await;
        kill(&*first).await;
        let third = subject.start(&subject.clone_of(&plan, &saved)).await;
        assert_eq!(ask(&*third, "recall").await, "first");
        assert_eq!(end_by(&*third, "poweroff").await.what, MachineEnd::Poweroff);
        kill(&*second).await;
        assert_eq!(end_by(&*machine, "poweroff").await.what, MachineEnd::Poweroff);
    }

    pub async fn a_save_that_is_given_up_leaves_the_machine_running(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        assert_eq!(ask(&*machine, "remember it").await, "said");
        let own = snapshots(&*machine);
        within("the pause", own.pause()).await.unwrap();
        // Given up at once, and in its midst.
        for name in ["at-once", "in-its-midst"] {
            let directory = subject.fresh(name);
            let begun = async {
                tokio::task::yield_now().await;
                while name == "in-its-midst" && !directory.join(STATE).exists() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = own.save(directory.clone(), LIMIT) => {}
                () = begun => {}
            }
            within("the resumption", own.resume()).await.unwrap();
            within("one that is not needed", own.resume()).await.unwrap();
            assert_eq!(ask(&*machine, "recall").await, "it");
            within("the pause", own.pause()).await.unwrap();
        }
        // Too large for what it may have; then whoever held the machine is gone.
        let refused = within("the save", own.save(subject.fresh("large"), 1)).await;
        assert!(matches!(refused, Err(vmm::SaveError::TooLarge(1))), "{refused:?}");
        let id = machine.id().clone();
        drop(machine);
        let adopted = subject.backend.adopt(id, plan.place.clone(), plan.secret.clone());
        let machine = within("the adoption", adopted).await.unwrap().expect("it lives");
        assert_eq!(machine.status().await.unwrap(), MachineStatus::Paused);
        within("the resumption", snapshots(&*machine).resume()).await.unwrap();
        assert_eq!(machine.status().await.unwrap(), MachineStatus::Running);
        let saved = save(&subject, &*machine, "saved").await;
        kill(&*machine).await;
        let clone = subject.start(&subject.clone_of(&plan, &saved)).await;
        assert_eq!(ask(&*clone, "recall").await, "it");
        kill(&*clone).await;
    }

    pub async fn what_was_saved_and_changed_is_refused(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        assert_eq!(ask(&*machine, "remember it").await, "said");
        let saved = save(&subject, &*machine, "saved").await;
        kill(&*machine).await;
        let path = saved.directory.join(STATE);
        let whole = fs::read(&path).unwrap();
        let refuse = async |what: &str| {
            let clone = subject.clone_of(&plan, &saved);
            let spawned = subject.backend.spawn(clone.clone()).await.unwrap();
            let Err(error) = within("the refusal", spawned.release()).await else {
                panic!("{what}: it came up")
            };
            assert!(matches!(error, LaunchError::Damaged(_)), "{what}: {error:?}");
            let gone = async {
                while !processes_in(&clone.place.run_dir).is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            within("the end of what was refused", gone).await;
        };
        let mut changed = whole.clone();
        // Both at its head, which a VMM reads closely, and in memory, of which it knows nothing.
        for at in [0, whole.len() / 2] {
            changed[at] ^= 0xff;
            fs::write(&path, &changed).unwrap();
            refuse("changed").await;
            changed[at] ^= 0xff;
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        refuse("cut").await;
        fs::remove_file(&path).unwrap();
        refuse("missing").await;
        fs::write(&path, &whole).unwrap();
        kill(&*subject.start(&subject.clone_of(&plan, &saved)).await).await;
    }

    pub async fn a_machine_with_a_card_is_alone_with_its_tap(subject: Subject) {
        let Some(plan) = subject.plan_with_card() else { return };
        let mac = plan.nic.unwrap().card.mac.to_string();
        let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
        let (pid, own) = (spawned.id().pid, network(std::process::id()));
        assert_ne!(network(pid), own, "before it executes, so that its rules can be there");
        let machine = within("the release", spawned.release()).await.unwrap();
        assert_ne!(network(pid), own);
        assert_eq!(ask(&*machine, "card").await, mac);
        let taps = taps_of(pid);
        if subject.backend.report().backend != "fake" {
            assert_eq!(taps, [TAP]);
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
            }
        }
        // One that goes on from there is alone with its own.
        let saved = save(&subject, &*machine, "saved").await;
        let clone = MachinePlan { nic: plan.nic, ..subject.clone_of(&plan, &saved) };
        let clone = subject.start(&clone).await;
        assert_ne!(network(clone.id().pid), network(pid));
        assert_eq!(taps_of(clone.id().pid), taps);
        kill(&*clone).await;
        kill(&*machine).await;
    }

    pub async fn a_machine_with_rates_runs(subject: Subject) {
        let limits = Limits { disk: Some(8 << 20), network: Some(8 << 20) };
        let plan = MachinePlan { limits, ..subject.plan() };
        let machine = subject.start(&plan).await;
        assert_eq!(ask(&*machine, "remember it").await, "said");
        // Its disks are still called by their roles.
        let work = plan.disks.last().unwrap().clone();
        within("the growth", machine.grow_disk(work, 2 << 20)).await.unwrap();
        kill(&*machine).await;
    }

    pub async fn a_machine_has_no_more_of_the_host_than_it_needs(subject: Subject) {
        let plan = subject.plan();
        let machine = subject.start(&plan).await;
        let text = fs::read_to_string(format!("/proc/{}/limits", machine.id().pid)).unwrap();
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().ok()
        };
        assert_eq!(of("Max core file size"), Some(0), "{text}");
        assert!(of("Max open files").is_some_and(|most| most <= 2048), "{text}");
        let memory = of("Max data size").unwrap();
        assert!((plan.memory..=plan.memory + (3 << 30)).contains(&memory), "{text}");
        assert_eq!(ask(&*machine, "remember it").await, "said", "it gets by on that");
        kill(&*machine).await;
    }

    pub async fn sessions_are_killed_in_mid_transfer(subject: Subject) {
        /// More than all buffers between here and the guest hold.
        const BULK: usize = 2 << 20;
        let machine = subject.start(&subject.plan()).await;
        // More than a port has buffers, each of which a careless end would cost.
        for round in 0..300u32 {
            let channel = session(&*machine, "echo").await;
            let (mut reader, mut writer) = tokio::io::split(channel);
            let byte = round as u8;
            let writing = tokio::spawn(async move {
                let _ = writer.write_all(&vec![byte; BULK]).await;
                writer
            });
            // Cut at another place each time, sometimes before anything came back.
            let mut got = vec![0; round as usize * 131 % 60_000];
            within("a part of the echo", reader.read_exact(&mut got)).await.unwrap();
            assert!(got.iter().all(|&b| b == byte), "round {round} heard another session");
            writing.abort();
            let _ = writing.await;
            drop(reader);
        }
        let mut channel = session(&*machine, "echo").await;
        echo(&mut channel, &vec![7; 100_000]).await;
        drop(channel);
        within("the quit", machine.quit(Duration::from_secs(10))).await.unwrap();
    }
}

/// What saves `machine`.
fn snapshots(machine: &dyn Machine) -> &dyn Snapshots {
    machine.snapshots().expect("every backend can")
}

/// More than any machine of the suite has to save.
const LIMIT: u64 = 1 << 30;

/// Saves `machine`, which goes on then.
async fn save(subject: &Subject, machine: &dyn Machine, name: &str) -> Saved {
    let snapshots = snapshots(machine);
    within("the pause", snapshots.pause()).await.unwrap();
    assert_eq!(machine.status().await.unwrap(), MachineStatus::Paused);
    let saved = within("the save", snapshots.save(subject.fresh(name), LIMIT)).await.unwrap();
    assert_eq!(machine.status().await.unwrap(), MachineStatus::Paused, "it is held until it is let go");
    within("the resumption", snapshots.resume()).await.unwrap();
    saved
}

/// Sends `bytes` to a session that echoes, and expects them back.
async fn echo(channel: &mut vmm::Channel, bytes: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(channel);
    let send = async {
        writer.write_all(bytes).await.unwrap();
        writer.flush().await.unwrap();
    };
    let mut got = vec![0; bytes.len()];
    let receive = async { reader.read_exact(&mut got).await.unwrap() };
    within("the echo", async { tokio::join!(send, receive) }).await;
    assert!(got == bytes, "the echo is what was sent");
}
