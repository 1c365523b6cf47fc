//! What only the fake does: fail when it is told to.

use model::end::MachineEnd;
use tokio::io::AsyncReadExt;
use vmm::fake::{Fake, Fault, PowerButton};

use crate::subject::{Subject, kill, processes_in, within};

fn subject(name: &str, button: PowerButton, fault: Option<Fault>) -> Subject {
    let fake = Fake::new(|_, _| Box::pin(std::future::pending())).with_power_button(button);
    if let Some(fault) = fault {
        fake.fail_next(fault);
    }
    Subject::new(&format!("fake-{name}"), Box::new(fake), None)
}

#[tokio::test]
async fn a_fault_comes_once_and_leaves_nothing() {
    for fault in [Fault::Spawn, Fault::Release] {
        let subject = subject(&format!("fault-{fault:?}"), PowerButton::Heard, Some(fault));
        let plan = subject.plan();
        match subject.backend.spawn(plan.clone()).await {
            Err(_) => assert_eq!(fault, Fault::Spawn),
            Ok(spawned) => {
                assert_eq!(fault, Fault::Release);
                assert!(spawned.release().await.is_err());
            }
        }
        assert_eq!(processes_in(&plan.place.run_dir), Vec::<u32>::new());
        kill(&*subject.start(&plan).await).await;
    }
}

#[tokio::test]
async fn a_guest_hears_the_power_button_or_does_not() {
    let deaf = subject("deaf", PowerButton::Ignored, None);
    let machine = deaf.start(&deaf.plan()).await;
    machine.powerdown().await.unwrap();
    assert!(machine.id().open().unwrap().is_some());
    kill(&*machine).await;
    let hearing = subject("hearing", PowerButton::Heard, None);
    let machine = hearing.start(&hearing.plan()).await;
    let mut channel = within("a channel", machine.connect_agent()).await.unwrap();
    machine.powerdown().await.unwrap();
    assert_eq!(within("the end", machine.ended()).await.what, MachineEnd::Poweroff);
    assert_eq!(within("the channel's end", channel.read_to_end(&mut Vec::new())).await.unwrap(), 0);
}
