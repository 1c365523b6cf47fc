//! What only QEMU does: words of its own when it fails, and sockets that are left alone.

use std::{fs, time::Duration};

use model::{boot::DiskRole, end::MachineEnd};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmm::{Disk, LaunchError, MachinePlan};

use crate::subject::{Subject, console, kill, processes_in, session, within};

async fn launch_error(subject: &Subject, plan: &MachinePlan) -> LaunchError {
    let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
    let id = spawned.id().clone();
    let Err(error) = within("the failure", spawned.release()).await else { panic!("it came up") };
    assert!(id.open().unwrap().is_none(), "{error}");
    assert_eq!(processes_in(&plan.place.run_dir), Vec::<u32>::new());
    error
}

#[tokio::test]
async fn a_launch_error_has_the_words_of_qemu() {
    let Some(subject) = Subject::qemu("launch") else { return };
    let mut plan = subject.plan();
    plan.disks.push(Disk { file: "missing".to_owned(), role: DiskRole::Modules });
    let error = launch_error(&subject, &plan).await;
    let text = error.to_string();
    assert!(text.starts_with("the VMM ended at once with exit code 1\n"), "{text}");
    assert!(text.contains("Could not open 'missing': No such file or directory"), "{text}");
    assert_eq!(error.hint(), None);
}

#[tokio::test]
async fn too_much_memory_has_a_hint() {
    let Some(subject) = Subject::qemu("memory") else { return };
    let mut plan = subject.plan();
    plan.memory = 1 << 55;
    let error = launch_error(&subject, &plan).await;
    let hint = error.hint().unwrap_or_else(|| panic!("{error}"));
    assert!(hint.contains("--memory"), "{hint}");
}

#[tokio::test]
async fn two_machines_do_not_write_one_disk() {
    let Some(subject) = Subject::qemu("lock") else { return };
    let (first, mut second) = (subject.plan(), subject.plan());
    let machine = subject.start(&first).await;
    second.disks.truncate(1);
    std::os::unix::fs::symlink(first.place.run_dir.join("work"), second.place.run_dir.join("theirs"))
        .unwrap();
    second.disks.push(Disk { file: "theirs".to_owned(), role: DiskRole::Work });
    let error = launch_error(&subject, &second).await;
    assert!(error.hint().is_some_and(|hint| hint.contains("disk")), "{error}");
    // What is read-only is shared.
    let third = subject.plan();
    fs::remove_file(third.place.run_dir.join("image")).unwrap();
    std::os::unix::fs::symlink(first.place.run_dir.join("image"), third.place.run_dir.join("image")).unwrap();
    kill(&*subject.start(&third).await).await;
    kill(&*machine).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let Some(subject) = Subject::qemu("given-up") else { return };
    let plan = subject.plan();
    let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
    let process = spawned.id().open().unwrap().unwrap();
    let mut release = spawned.release();
    // Far enough that QEMU is executed, not so far that it has answered.
    let executed = async {
        let own = std::env::current_exe().unwrap();
        while fs::read_link(format!("/proc/{}/exe", process.id().pid)).is_ok_and(|program| program == own) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = executed => {}
        _ = &mut release => {}
    }
    drop(release);
    let gone = tokio::task::spawn_blocking(move || process.wait_exit(Duration::from_secs(30)));
    assert!(gone.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_vmm_that_does_not_answer_is_killed() {
    let Some(subject) = Subject::qemu("stuck") else { return };
    let machine = subject.start(&subject.plan()).await;
    let pid = Pid::from_raw(machine.id().pid.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    within("the quit", machine.quit(Duration::from_millis(200))).await.unwrap();
    assert_eq!(machine.ended().await.what, MachineEnd::VmmDied);
}

#[tokio::test]
async fn a_guest_does_not_wait_for_readers_of_its_console() {
    let Some(subject) = Subject::qemu("flood") else { return };
    let plan = subject.plan();
    let machine = subject.start(&plan).await;
    let id = machine.id().clone();
    // More than any socket holds, and nobody there to read it: the one who would is told only afterwards.
    let mut channel = session(&*machine, "say-later 20000").await;
    channel.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the end", channel.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"said\n");
    drop((machine, channel));
    let adopted = subject.backend.adopt(id, plan.place.clone(), plan.secret.clone());
    let machine = within("the adoption", adopted).await.unwrap().unwrap();
    let mut channel = session(&*machine, "say 3").await;
    within("the answer", channel.read_u8()).await.unwrap();
    drop(channel);
    within("the quit", machine.quit(Duration::from_secs(30))).await.unwrap();
    assert!(console(&plan).replace('\r', "").ends_with("guest: line 0\nguest: line 1\nguest: line 2\n"));
}
