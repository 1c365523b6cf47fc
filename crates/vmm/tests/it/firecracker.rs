//! What only Firecracker does, on the program that stands in for it: words of its own, and what it says of itself.

use std::fs;

use model::boot::DiskRole;
use vmm::{Disk, LaunchError, SpawnError};

use crate::subject::{Subject, ask, kill, processes_in, within};

/// What its log may have.
const LIMIT: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_error_has_the_words_of_firecracker() {
    let Some(subject) = Subject::stand_in("words") else { return };
    let mut plan = subject.plan();
    plan.disks.push(Disk { file: "missing".to_owned(), role: DiskRole::Modules });
    let spawned = subject.backend.spawn(plan.clone()).await.unwrap();
    let process = spawned.id().open().unwrap().unwrap();
    let Err(error) = within("the failure", spawned.release()).await else { panic!("it came up") };
    let LaunchError::Control { cause, .. } = error else { panic!("{error:?}") };
    let text = cause.to_string();
    assert!(text.starts_with("the VMM refused /drives/modules: Unable to open the backing file"), "{text}");
    drop(process);
    let gone = async {
        while !processes_in(&plan.place.run_dir).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the end of what failed", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_of_firecracker_do_not_write_one_disk() {
    let Some(subject) = Subject::stand_in("lock") else { return };
    let (first, second) = (subject.plan(), subject.plan());
    let machine = subject.start(&first).await;
    for disk in ["work", "image"] {
        fs::remove_file(second.place.run_dir.join(disk)).unwrap();
        let theirs = first.place.run_dir.join(disk);
        std::os::unix::fs::symlink(theirs, second.place.run_dir.join(disk)).unwrap();
    }
    let Err(SpawnError::Prepare(error)) = subject.backend.spawn(second.clone()).await else {
        panic!("both have it")
    };
    assert!(error.to_string().contains("cannot lock") && error.to_string().contains("work"), "{error}");
    assert_eq!(processes_in(&second.place.run_dir), Vec::<u32>::new());
    // It is free with the end of the first one, and what is read-only always was.
    kill(&*machine).await;
    let third = subject.plan();
    fs::remove_file(third.place.run_dir.join("work")).unwrap();
    std::os::unix::fs::symlink(first.place.run_dir.join("work"), third.place.run_dir.join("work")).unwrap();
    kill(&*subject.start(&third).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_firecracker_says_of_itself_is_in_its_log_and_a_flood_is_not() {
    let Some(subject) = Subject::stand_in("said") else { return };
    let plan = subject.plan();
    let log = plan.place.log_dir.join("vmm.log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let until = async |what: &str| {
        let there = async {
            while !read().contains(what) {
                tokio::task::yield_now().await;
            }
        };
        within("a line of the log", there).await;
    };
    let machine = subject.start(&plan).await;
    assert_eq!(ask(&*machine, "complain 3").await, "said");
    until("fc_vcpu 0] complaint 2\n").await;
    until("counted since the last time: block.event_fails 2\n").await;

    // Whoever has it now reads what came while nobody did.
    let id = machine.id().clone();
    drop(machine);
    let adopted = subject.backend.adopt(id, plan.place.clone(), plan.secret.clone());
    let machine = within("the adoption", adopted).await.unwrap().unwrap();
    for _ in 0..100 {
        assert_eq!(ask(&*machine, "complain 1000").await, "said");
        assert!(read().len() <= LIMIT);
    }
    assert_eq!(ask(&*machine, "complain 0").await, "said");
    kill(&*machine).await;
    assert!(!read().is_empty());
}
