//! Create: resolve, reserve, start.

use std::{collections::HashMap, panic::resume_unwind};

use model::{
    GroupName, VmId, VmName,
    boot::Machine,
    network::{HostLoopback, Nat, Network},
    sizing,
    undo::Undo,
    vm::State,
};
use tokio::sync::oneshot;
use wire::control::{self, CreateVm, Event, Outcome};

use super::boot::{Aim, Failure};
use crate::{
    Engine, Error, Operation, Result, blocking,
    config::host_size,
    payload::KernelFiles,
    saga::{Saga, and_then},
    view,
    vmms::Choice,
};

/// How often a made-up name is tried before the creation gives up.
const NAMES: usize = 64;
/// The most bytes of a user's and a group's name: twice `LOGIN_NAME_MAX` (limits.h(0P)), and the colon.
const MAX_USER: usize = 513;

/// When a VM that is made is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// At once: the creation is through when it has.
    Now,
    /// When somebody asks for it.
    Later,
}

impl Engine {
    /// Makes a VM and, unless the request says otherwise, starts it and waits until it is ready.
    ///
    /// # Errors
    /// Everything is as before then, except where the guest ran and never became ready ([`Error::NotReady`]): that VM is
    /// kept in `error` for its logs.
    pub async fn vm_create(self, operation: Operation, request: CreateVm) -> Result<Outcome> {
        // Resolve: no lock, nothing taken.
        let name = request.name.as_deref().map(vm_name).transpose()?;
        if let Some(name) = &name
            && self.store().vm_is_named(name)?
        {
            return Err(store::Error::Taken(name.to_string()).into());
        }
        let snapshot = request.snapshot.as_deref().map(|name| self.snapshot_called(name)).transpose()?;
        let wish = match &snapshot {
            Some(snapshot) => self.wish_of(snapshot, &request)?,
            None => sizing::Wish {
                vcpu: request.vcpu,
                memory: request.memory,
                disk: request.disk_size,
                overlay: request.overlay_size,
            },
        };
        let sizes = sizing::resolve(wish, self.0.config.sizes, host_size()?)?;
        let loopback = if request.allow_host_loopback { HostLoopback::Allowed } else { HostLoopback::Closed };
        let own = snapshot.as_ref().map_or(self.0.config.nat, |snapshot| snapshot.nat);
        let nat = request.nat.map_or(own, Nat::of);
        let network = Network { nat, loopback, ..Network::default() };
        let user = request.user.as_deref().map(user).transpose()?;
        // That it can be had is known before anything is made; what it is then is found out at the start.
        let vmm = match &snapshot {
            Some(snapshot) => {
                let vmm = self.0.vmms.only(&snapshot.vmm).await?;
                let link = self.link_to_restore(snapshot, network, vmm.report()).await?;
                self.0.vmms.for_link(vmm, link).await?
            }
            None => {
                let vmm = self.0.vmms.choose(request.vmm.as_deref()).await?;
                self.0.vmms.for_link(vmm, self.link_for(network).await?).await?
            }
        };
        let group = request.group.as_deref().map(|text| self.group(text)).transpose()?;
        let (image, kernel) = match &snapshot {
            Some(snapshot) => self.sources_of(snapshot)?,
            None => {
                let image = self.image_for(&operation, &request).await?;
                let kernel = self.kernel_for(&operation, &image).await?;
                (image, kernel)
            }
        };
        let vmm = match vmm.machine() {
            // Imports refuse what does not run there, but for kernels that are made for Firecracker.
            Machine::Pc => vmm,
            Machine::Firecracker => self.vmm_for_kernel(&operation, vmm, &kernel).await?,
        };
        let image_run = self.entry(&image)?;
        let has_secrets = !request.env.is_empty() || snapshot.as_ref().is_some_and(|own| own.has_secrets);
        let own = match &snapshot {
            // It was written by this program.
            Some(snapshot) => serde_json::from_str(&snapshot.env).unwrap_or_default(),
            None => view::environment(&image_run),
        };
        let env = [own, request.env].concat();
        // That they can be copied is known before anything is made; they are read again when it starts.
        let _ = self.packed_files().await?;
        operation.checkpoint()?;
        let summary = format!(
            "{} vCPU · {} · {} disk · {} · {}{}{}",
            sizes.vcpu.0,
            model::size::human(sizes.memory.0),
            model::size::human(sizes.disk.0),
            image.name,
            vmm.label(),
            if nat.is_on() { " · NAT" } else { "" },
            snapshot.as_ref().map(|snapshot| format!(" · from {}", snapshot.name)).unwrap_or_default()
        );
        operation.emit(Event::Plan { summary });

        // Reserve: the turn is ours before anybody can see the VM.
        let id = VmId::from_bytes(host::rand::bytes());
        let cell = self.cell(id);
        let turn = cell.turns.take().await;
        let machine_id = model::hex::encode(&host::rand::bytes::<16>());
        let record = store::Vm {
            id,
            name: name.clone().unwrap_or_else(made_up_name),
            state: State::Created,
            reason: None,
            image: image.id.clone(),
            kernel: kernel.id.clone(),
            vmm: vmm.name().to_owned(),
            sizes,
            network,
            group,
            user,
            env: serde_json::to_string(&env).expect("words are strings"),
            ready: request.wait.map(view::ready),
            rm: request.rm,
            machine_id,
            secret: None,
            build: None,
            has_secrets,
            snapshot: snapshot.map(|snapshot| snapshot.id),
            created_ms: host::clock::now_ms(),
            started_ms: None,
            timeline: "[]".to_owned(),
        };
        let start = if request.no_start { Start::Later } else { Start::Now };
        let (reserved, record) = match self.reserve(record, name.is_some(), start, &operation).await {
            Ok(reserved) => reserved,
            Err(error) => {
                self.forget(id);
                return Err(error);
            }
        };
        let Some(entry) = reserved.entry else {
            // It is as it was inserted, and holds nothing of the host yet.
            return Ok(Outcome::Vm(Box::new(self.view(record, &[image], &[kernel], &HashMap::new()))));
        };

        // Start, under this VM's own turn only.
        let mut saga = Saga::new(&self.0.world, id, operation.id());
        let _until_it_started = saga.adopt(entry, Undo::Record);
        turn.interruptible_by_kill(operation.token().clone());
        let result = self.boot(&operation, &record, &mut saga, Aim::First).await;
        match result {
            Ok(()) => {
                drop(turn);
                let run = Some(view::run(image_run)).filter(|run| !run.command().is_empty());
                Ok(Outcome::Vm(Box::new(control::Vm { run, ..self.vm_view(id)? })))
            }
            Err(Failure::Before(error)) => {
                // While the name is still taken: with its record it is free.
                self.unpin_vm(&record.name).await;
                let error = saga.unwind(error).await;
                self.forget(id);
                Err(error)
            }
            Err(Failure::After(error)) => {
                let reason = error.to_string();
                let error = saga.release(error).await;
                Err(and_then(error, self.store().vm_failed(id, reason)))
            }
        }
    }

    /// The group that `text` names.
    fn group(&self, text: &str) -> Result<GroupName> {
        let refused = |why: &'static str| Error::invalid("--group", text, why);
        if self.0.bridge.is_none() {
            return Err(refused("machines see each other on a bridge only: sudo banger system install"));
        }
        GroupName::try_from(text).map_err(|why| Error::invalid("--group", text, why))
    }

    /// `choice`, or what can run `kernel` where that cannot and nobody asked for it.
    async fn vmm_for_kernel(
        &self,
        operation: &Operation,
        choice: Choice,
        kernel: &store::Kernel,
    ) -> Result<Choice> {
        let directory = self.paths().kernels().join(&kernel.id);
        match blocking(move || Ok(KernelFiles::read(&directory))).await? {
            Ok(files) => self.0.vmms.for_kernel(operation, choice, &files, kernel.name.as_str()).await,
            // What is wrong with it, its boot tells.
            Err(_) => Ok(choice),
        }
    }

    /// Inserts the record under its name, or under a free made-up one, and on the bridge with an address of its own. Gives the
    /// entry that undoes that, if it is to start.
    async fn reserve(
        &self,
        record: store::Vm,
        named: bool,
        start: Start,
        operation: &Operation,
    ) -> Result<(store::Reserved, store::Vm)> {
        let mut record = record;
        let made = (start == Start::Now).then_some(operation.id());
        let numbers = self.0.bridge.as_ref().map(|bridge| bridge.subnet.guests());
        for _ in 0..NAMES {
            let (sender, answer) = oneshot::channel();
            self.store().vm_insert(record.clone(), numbers.clone(), made, |answer| drop(sender.send(answer)));
            let answer = answer.await.map_err(|_| Error::ShuttingDown)?;
            match answer.unwrap_or_else(|panic| resume_unwind(panic)) {
                Err(store::Error::Taken(_)) if !named => record.name = made_up_name(),
                Err(error) => return Err(error.into()),
                Ok(reserved) => {
                    record.network.number = reserved.number;
                    record.network.group = reserved.group;
                    return Ok((reserved, record));
                }
            }
        }
        Err(store::Error::Taken(record.name.to_string()).into())
    }
}

fn vm_name(text: &str) -> Result<VmName> {
    VmName::try_from(text).map_err(|why| Error::invalid("VM name", text, why))
}

/// Two words, like `brave-otter`.
/// The user that `text` names, whom only the guest knows.
fn user(text: &str) -> Result<String> {
    let refused = |why: &'static str| Error::invalid("--user", text, why);
    match text {
        "" => Err(refused("a user has a name or a number")),
        _ if text.len() > MAX_USER => Err(refused("it is longer than any user's name")),
        _ if text.contains(char::is_control) => Err(refused("no user's name has control characters")),
        _ => Ok(text.to_owned()),
    }
}

fn made_up_name() -> VmName {
    let [a, b] = host::rand::bytes::<2>();
    let pick = |words: &[&'static str], byte: u8| words[usize::from(byte) % words.len()];
    let name = format!("{}-{}", pick(ADJECTIVES, a), pick(ANIMALS, b));
    VmName::try_from(name.as_str()).expect("the words are letters")
}

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "azure", "bold", "brave", "brisk", "calm", "civil", "clear", "clever", "cool",
    "coral", "crisp", "deft", "eager", "early", "fair", "fancy", "fast", "fine", "fleet", "fresh", "gentle",
    "glad", "golden", "grand", "green", "happy", "hardy", "jolly", "keen", "kind", "lively", "loyal",
    "lucky", "lunar", "merry", "mild", "neat", "nimble", "noble", "polar", "proud", "quick", "quiet",
    "rapid", "ready", "royal", "sharp", "silent", "smart", "solar", "solid", "steady", "sunny", "swift",
    "tidy", "vivid", "warm", "wise", "witty", "young", "zesty",
];

const ANIMALS: &[&str] = &[
    "adder", "ant", "badger", "bat", "bear", "bee", "bison", "boar", "camel", "carp", "cat", "cobra", "crab",
    "crane", "crow", "deer", "dingo", "dove", "duck", "eagle", "eel", "elk", "falcon", "ferret", "finch",
    "fox", "frog", "gecko", "goat", "goose", "hare", "hawk", "heron", "horse", "ibex", "ibis", "jay",
    "koala", "lark", "lemur", "lion", "llama", "lynx", "mole", "moose", "mouse", "newt", "otter", "owl",
    "panda", "perch", "pike", "pony", "puma", "quail", "raven", "robin", "seal", "shark", "stork", "swan",
    "tiger", "trout", "wolf",
];
