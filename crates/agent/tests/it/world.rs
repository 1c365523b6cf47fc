//! What the tests run in.

use std::{
    cell::RefCell,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use agent::{
    configure::Standing,
    serve::{Guest, block_on, connection},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::{JoinHandle, spawn_local},
    time::{Instant, sleep, timeout},
};
use wire::session::Secret;

use crate::client::{Client, open};

/// No test takes longer, however slow the machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs `test` with an agent.
pub fn with_agent<F: Future<Output = ()>>(test: impl FnOnce(Port) -> F) {
    block_on(async { timeout(DEADLINE, test(Port::new())).await.expect("the test is over in time") })
        .unwrap();
}

/// The host's side of a port that stays while those who use it come and go, as a VMM's does.
#[derive(Clone)]
pub struct Port {
    pub secret: Secret,
    port: Rc<RefCell<Option<UnixStream>>>,
}

impl Port {
    fn new() -> Self {
        let secret = Secret::new(host::rand::bytes());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let standing = Standing::new(&[("GUEST".into(), "yes".into())], None);
        let guest = Rc::new(Guest { booted: None, standing });
        let own = secret.clone();
        spawn_local(async move {
            let handler = |stream| connection(stream, Rc::clone(&guest));
            agent::channel::serve(OwnedFd::from(theirs), &own, handler).await
        });
        Self { secret, port: Rc::new(RefCell::new(Some(UnixStream::from_std(ours).unwrap()))) }
    }

    /// The port itself.
    pub fn bare(&self) -> UnixStream {
        self.port.borrow_mut().take().expect("one user at a time")
    }

    /// Connects to the port. What is on its way when the connection ends is lost, or arrives at the next one.
    pub fn connect(&self) -> (UnixStream, JoinHandle<()>) {
        let (client, relay) = UnixStream::pair().unwrap();
        let port = Rc::clone(&self.port);
        let task = spawn_local(async move {
            let stream = port.borrow_mut().take().expect("one user at a time");
            let mut held = Held { port, stream: Some(stream) };
            relay_bytes(held.stream.as_mut().expect("it is held"), relay).await;
        });
        (client, task)
    }

    /// A client of the agent, in a session of its own.
    pub async fn client(&self) -> Client {
        let (socket, _relay) = self.connect();
        Client::new(open(socket, &self.secret).await.unwrap()).await.unwrap()
    }
}

/// A port in use; dropped, it is free again.
struct Held {
    port: Rc<RefCell<Option<UnixStream>>>,
    stream: Option<UnixStream>,
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.port.borrow_mut() = self.stream.take();
    }
}

/// Both ways until the client is gone.
async fn relay_bytes(port: &mut UnixStream, client: UnixStream) {
    let (mut from_port, mut to_port) = port.split();
    let (mut from_client, mut to_client) = client.into_split();
    let up = async {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            to_port.write_all(&buffer[..count]).await.unwrap();
        }
    };
    let down = async {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from_port.read(&mut buffer).await {
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// Waits until `state` holds.
pub async fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !state() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Whether process `pid` runs.
pub fn runs(pid: u32) -> bool {
    let stat = host::fs::read_text(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// A directory that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("banger-agent-{name}-{}", std::process::id()));
        host::fs::remove_all(&dir).unwrap();
        host::fs::private_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        host::fs::remove_all(&self.0).unwrap();
    }
}

/// Bytes that look like nothing else.
pub fn random(count: usize) -> Vec<u8> {
    let mut state = u64::from_ne_bytes(host::rand::bytes()) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    };
    (0..count.div_ceil(8)).flat_map(|_| next()).take(count).collect()
}
