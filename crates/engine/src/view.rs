//! Records as they are shown.

use std::collections::HashMap;

use image::manifest::RunConfig;
use model::{VmId, network::Link, sizing, vm::State, workspace::GuestPath};
use wire::{
    Word,
    control::{self, Sized},
};

use crate::Engine;

impl Engine {
    /// A VM as it is shown, with what is live of it.
    pub(crate) fn view(
        &self,
        vm: store::Vm,
        images: &[store::Image],
        kernels: &[store::Kernel],
        workspaces: &HashMap<VmId, GuestPath>,
    ) -> control::Vm {
        let live = self.live(vm.id);
        let address = self.card(vm.id, vm.network).map(|card| card.address.to_string());
        let image = images.iter().find(|image| image.id == vm.image);
        let kernel = kernels.iter().find(|kernel| kernel.id == vm.kernel);
        control::Vm {
            id: vm.id.to_string(),
            name: vm.name.to_string(),
            state: state(vm.state),
            reason: vm.reason,
            image: image.map(|image| image.name.to_string()).unwrap_or_default(),
            run: None,
            kernel: kernel.map(|kernel| kernel.name.to_string()).unwrap_or_default(),
            vmm: vm.vmm,
            ip: live.as_ref().filter(|_| vm.network.link == Some(Link::Bridge)).and(address.clone()),
            nat: vm.network.nat.is_on(),
            group: vm.group.map(|group| group.to_string()),
            user: vm.user,
            network: live.as_ref().and_then(|live| {
                let link = vm.network.link?;
                let address = address.unwrap_or_default();
                Some(control::VmNetwork { mode: link.name().to_owned(), address, trouble: live.trouble() })
            }),
            vcpu: sized(vm.sizes.vcpu),
            memory: sized(vm.sizes.memory),
            disk: sized(vm.sizes.disk),
            overlay: sized(vm.sizes.overlay),
            rm: vm.rm,
            workspace: workspaces.get(&vm.id).map(GuestPath::to_string),
            created_ms: vm.created_ms,
            started_ms: vm.started_ms,
            pid: live.as_ref().map(|live| live.machine.id().pid),
            boot_id: live.and_then(|live| live.boot_id.get().cloned()),
            // It is ours, but an older version may have written it.
            timeline: serde_json::from_str(&vm.timeline).unwrap_or_default(),
        }
    }
}

/// A state as it is shown.
pub fn state(state: State) -> control::State {
    match state {
        State::Created => control::State::Created,
        State::Starting => control::State::Starting,
        State::Running => control::State::Running,
        State::Stopping => control::State::Stopping,
        State::Stopped => control::State::Stopped,
        State::Error => control::State::Error,
        State::Deleting => control::State::Deleting,
    }
}

fn sized<T>((value, origin): (T, sizing::Origin)) -> Sized<T> {
    let origin = match origin {
        sizing::Origin::Request => control::Origin::Request,
        sizing::Origin::Config => control::Origin::Config,
        sizing::Origin::Host => control::Origin::Host,
        sizing::Origin::Default => control::Origin::Default,
    };
    Sized { value, origin }
}

/// What makes a VM ready, as it is shown.
pub fn wait(ready: store::Ready) -> control::Wait {
    match ready {
        store::Ready::Agent => control::Wait::Agent,
        store::Ready::Init => control::Wait::Init,
    }
}

/// What makes a VM ready, as it is recorded.
pub fn ready(wait: control::Wait) -> store::Ready {
    match wait {
        control::Wait::Agent => store::Ready::Agent,
        control::Wait::Init => store::Ready::Init,
    }
}

/// How an image wants to be run.
pub fn run(run: RunConfig) -> control::ImageRun {
    let RunConfig { entrypoint, cmd, env, user, workdir } = run;
    control::ImageRun { entrypoint, cmd, env, user, workdir }
}

/// The variables of an image that say what they are worth.
pub fn environment(run: &RunConfig) -> Vec<(Word, Word)> {
    let pairs = run.env.iter().filter_map(|text| text.split_once('='));
    pairs.filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.into(), value.into())).collect()
}
