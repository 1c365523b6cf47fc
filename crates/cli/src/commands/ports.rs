//! `vm ports` and `vm forward`.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use wire::{
    control::{CONNECT, Code, Happened, Happening, State, Vm, Vms},
    guest::{Health, Port, Ports},
};

use super::Context;
use crate::{
    args::{Forward, ForwardArgs, Output, PortsArgs},
    client::{Client, Upgraded, path, with},
    error::Error,
    signals::Signals,
    talk::{print, print_json},
    text::table,
};

/// What `vm ports -o json` prints, for each machine.
#[derive(Debug, serde::Serialize)]
struct PortsOfVm {
    id: String,
    name: String,
    ports: Vec<Port>,
}

/// `vm ports`.
///
/// # Errors
/// Where the daemon cannot be asked, there is no such machine, or it does not run.
pub async fn list(context: &Context, args: PortsArgs) -> Result<(), Error> {
    let vms: Vec<Vm> = if args.refs.is_empty() {
        let all: Vms = context.client.get(&path(&["vms"])).await?;
        all.vms.into_iter().filter(|vm| vm.state == State::Running).collect()
    } else {
        let mut found = Vec::new();
        for word in &args.refs {
            found.push(context.client.get(&path(&["vms", word])).await?);
        }
        found
    };
    let mut all = Vec::new();
    for vm in vms {
        let Ports { ports } = context.client.get(&path(&["vms", &vm.id, "ports"])).await?;
        all.push(PortsOfVm { id: vm.id, name: vm.name, ports });
    }
    match args.format.output {
        Output::Json => print_json(&all),
        Output::Text => {
            let rows: Vec<_> =
                all.iter().flat_map(|vm| vm.ports.iter().map(|port| row(&vm.name, port))).collect();
            print(&table(["VM", "PROTO", "ADDRESS", "PORT", "PROCESS"], &rows))
        }
    }
}

fn row(vm: &str, port: &Port) -> [String; 5] {
    let process = match (&port.process, port.pid) {
        (Some(name), Some(pid)) => format!("{name} ({pid})"),
        (Some(name), None) => name.clone(),
        (None, _) => "-".to_owned(),
    };
    [vm.to_owned(), port.proto.clone(), port.address.clone(), port.port.to_string(), process]
}

/// `vm forward`: until Ctrl-C, or until the machine does not run any more.
///
/// # Errors
/// Where a port of this host cannot be had, there is no such machine, or it does not run (any more).
pub async fn forward(context: &Context, args: ForwardArgs) -> Result<(), Error> {
    let vm: Vm = context.client.get(&path(&["vms", &args.reference])).await?;
    let _: Health = context.client.get(&path(&["vms", &vm.id, "health"])).await?;
    let mut listeners = Vec::new();
    for wanted in &args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.host)).await;
        let address = format!("127.0.0.1:{}", wanted.host);
        let listener = listener.map_err(|e| host::Error::new("listen at", &address, e))?;
        let port = listener.local_addr().map_err(|e| host::Error::new("listen at", &address, e))?.port();
        listeners.push((listener, Forward { host: port, guest: wanted.guest }));
    }
    for (_, forward) in &listeners {
        print(&format!("127.0.0.1:{} leads to port {} of {}\n", forward.host, forward.guest, vm.name))?;
    }
    let mut serving = JoinSet::new();
    for (listener, forward) in listeners {
        serving.spawn(serve(listener, context.client.clone(), vm.id.clone(), forward, context.talk.clone()));
    }
    let ended = async {
        tokio::select! {
            Some(Ok(ended)) = serving.join_next() => ended,
            ended = until_it_stops(&context.client, &vm.id) => ended,
        }
    };
    Signals::ending()?.unless(ended).await
}

/// Ends with the error of asking a machine that does not run any more.
async fn until_it_stops(client: &Client, id: &str) -> Result<(), Error> {
    let mut events = client.listen().await?;
    let health = path(&["vms", id, "health"]);
    loop {
        let _: Health = client.get(&health).await?;
        let is_about_it = |happening: &Happening| match &happening.what {
            Happened::Vm { id: about, state, .. } => about == id && *state != State::Running,
            Happened::VmRemoved { id: about, .. } => about == id,
            Happened::Missed { .. } => true,
            Happened::Begun { .. } | Happened::Ended { .. } | Happened::Unknown => false,
        };
        loop {
            match events.next().await? {
                Some(happening) if is_about_it(&happening) => break,
                Some(_) => {}
                None => return Err(Error::Cut("a port was being forwarded", None)),
            }
        }
    }
}

/// Serves one port. Ends where nothing can be forwarded any more.
async fn serve(
    listener: TcpListener,
    client: Client,
    vm: String,
    forward: Forward,
    talk: crate::talk::Talk,
) -> Result<(), Error> {
    let target = with(path(&["vms", &vm, "connect"]), "tcp", &forward.guest.to_string());
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = open.join_next() => match ended {
                Ok(Err(error)) if is_over(&error) => return Err(error),
                // Nobody listens at the port just now: whoever asked sees a connection that ends at once.
                Ok(Err(error)) => {
                    talk.say(&in_a_line(&error));
                    continue;
                }
                Ok(Ok(())) | Err(_) => continue,
            },
        };
        let (stream, _) = accepted.map_err(|e| host::Error::new("take", "a connection", e))?;
        open.spawn(carry(client.clone(), target.clone(), stream));
    }
}

async fn carry(client: Client, target: String, mut stream: TcpStream) -> Result<(), Error> {
    let Upgraded { socket: mut guest, first: early, .. } = client.upgrade(&target, CONNECT).await?;
    // A connection that breaks is for its two ends to notice.
    if stream.write_all(&early).await.is_ok() {
        let _ = copy_bidirectional(&mut stream, &mut guest).await;
    }
    Ok(())
}

fn in_a_line(error: &Error) -> String {
    match error {
        Error::Daemon(body) => [std::slice::from_ref(&body.message), &body.causes].concat().join(": "),
        error => error.to_string(),
    }
}

/// Whether an error says that there is nothing to forward to any more.
fn is_over(error: &Error) -> bool {
    match error {
        Error::Daemon(body) => matches!(body.code, Code::NotFound | Code::NotRunning | Code::VmEnded),
        error => error.means_no_daemon(),
    }
}
