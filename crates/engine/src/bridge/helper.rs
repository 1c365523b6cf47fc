//! Asking root's helper. Each question may be asked again, so one whose answer was lost is.
//!
//! # Locking
//! `Inner::connection` is a leaf, held for one question and its answer, which have a deadline: the helper does one thing after
//! the other anyway.

use std::{
    fmt,
    io::ErrorKind,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use host::packet::{Packet, Packets};
use model::{OperationId, network::Subnet};
use wire::helper::{Answer, Ask, MAX_ANSWER, Malformed, Refusal, Request, Status};

/// How long an answer may take. The helper gives nft ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a question is asked whose connection ends: an old one may be a former helper's, and one may be started anew.
const ATTEMPTS: usize = 3;

/// The helper. Clones are the same.
#[derive(Debug, Clone)]
pub struct Helper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    /// Whose sake things are for that nobody asked for.
    own: OperationId,
    connection: Mutex<Option<Packets>>,
}

/// Why the helper did not do something.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It cannot be asked.
    #[error("cannot ask banger's helper")]
    Reach(#[source] host::Error),
    /// Somebody else listens there.
    #[error("who listens in place of banger's helper is not root but user {0}")]
    Stranger(u32),
    /// It does not answer.
    #[error("banger's helper did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// It ends before it answers, again and again.
    #[error("banger's helper ends before it answers")]
    Ended,
    /// What it says makes no sense, as of another version.
    #[error("what banger's helper answers is not understood: it may be of another version")]
    Answer(#[source] Option<Malformed>),
    /// It must not.
    #[error("banger's helper refuses to {}: {refusal}", .ask.0)]
    Refused {
        /// What.
        ask: Words,
        /// Why.
        refusal: Refusal,
    },
    /// It cannot.
    #[error("banger's helper could not {}: {why}", .ask.0)]
    Failed {
        /// What.
        ask: Words,
        /// Why not.
        why: String,
    },
    /// Root chose other addresses since this daemon began.
    #[error(
        "the bridge has the subnet {found}, and this daemon began with {known}: `banger daemon stop`, and it begins with that"
    )]
    OtherSubnet {
        /// What there is.
        found: Subnet,
        /// What the daemon knows.
        known: Subnet,
    },
}

impl HelperError {
    /// Whether there is no helper at all.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Reach(cause) if cause.is_missing())
    }
}

/// What was asked, in words.
#[derive(Debug)]
pub struct Words(&'static str);

impl Words {
    fn of(ask: Ask) -> Self {
        Self(match ask {
            Ask::EnsureBridge => "make the bridge",
            Ask::RemoveBridge => "remove the bridge",
            Ask::CreateTap(_) => "make the tap",
            Ask::RemoveTap(_) => "remove the tap",
            Ask::ApplyRules(_) => "apply the rules",
            Ask::RemoveRules(_) => "remove the rules",
            Ask::DnsSockets => "give the sockets for names",
            Ask::RouteNames(_) => "tell the host's resolver of names",
            Ask::UnrouteNames => "have the host's resolver forget names",
            Ask::Status => "say how things are",
            Ask::Jail(_) => "start Firecracker in a jail",
            Ask::FindJailed(_) => "say which process is jailed",
            Ask::Unjail(_) => "remove the jail",
            Ask::SignalJailed(..) => "signal what is jailed",
        })
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Helper {
    /// The one that listens at `socket`; nothing is asked yet.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        let own = OperationId::from_uuid(host::rand::bytes());
        Self(Arc::new(Inner { socket, own, connection: Mutex::default() }))
    }

    /// Whose sake things are for that nobody asked for.
    #[must_use]
    pub fn own(&self) -> &OperationId {
        &self.0.own
    }

    /// Has it do `ask`, for the sake of `operation`. Blocks.
    ///
    /// # Errors
    /// Where it does not; some of it may be done then.
    pub fn done(&self, operation: &OperationId, ask: Ask) -> Result<(), HelperError> {
        match self.exchange(operation, ask)? {
            (Answer::Done, _) => Ok(()),
            (answer, _) => Err(unexpected(ask, answer)),
        }
    }

    /// How things are. Blocks.
    ///
    /// # Errors
    /// Where it does not say.
    pub fn status(&self, operation: &OperationId) -> Result<Status, HelperError> {
        match self.exchange(operation, Ask::Status)? {
            (Answer::Status(status), _) => Ok(status),
            (answer, _) => Err(unexpected(Ask::Status, answer)),
        }
    }

    /// The sockets that guests send their questions for names to: datagrams, streams. Blocks.
    ///
    /// # Errors
    /// Where it does not give them.
    pub fn dns_sockets(&self, operation: &OperationId) -> Result<[OwnedFd; 2], HelperError> {
        match self.exchange(operation, Ask::DnsSockets)? {
            (Answer::Sockets, sockets) => sockets.try_into().map_err(|_| HelperError::Answer(None)),
            (answer, _) => Err(unexpected(Ask::DnsSockets, answer)),
        }
    }

    /// The bridge is there with these addresses, and what passes it is filtered. Blocks.
    ///
    /// # Errors
    /// Where that cannot be, or it has other addresses.
    pub fn ensure_bridge(&self, operation: &OperationId, subnet: Subnet) -> Result<(), HelperError> {
        let status = self.status(operation)?;
        let found = Subnet::of(status.gateway, status.prefix);
        if found != subnet {
            return Err(HelperError::OtherSubnet { found, known: subnet });
        }
        if status.bridge && status.filtered { Ok(()) } else { self.done(operation, Ask::EnsureBridge) }
    }

    fn exchange(&self, operation: &OperationId, ask: Ask) -> Result<(Answer, Vec<OwnedFd>), HelperError> {
        let request = Request { operation: operation.clone(), ask }.encode();
        let mut kept = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            let connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect()?,
            };
            let Some(packet) = send(&connection, &request)? else { continue };
            let answer = Answer::decode(&packet.bytes).map_err(|why| HelperError::Answer(Some(why)))?;
            if !packet.whole {
                return Err(HelperError::Answer(None));
            }
            *kept = Some(connection);
            return Ok((answer, packet.descriptors));
        }
        Err(HelperError::Ended)
    }

    fn connect(&self) -> Result<Packets, HelperError> {
        let connection = Packets::connect(&self.0.socket, PATIENCE).map_err(HelperError::Reach)?;
        match connection.peer().map_err(HelperError::Reach)?.uid {
            0 => Ok(connection),
            uid => Err(HelperError::Stranger(uid)),
        }
    }
}

/// What is answered to `request`; nothing where the connection ends instead.
fn send(connection: &Packets, request: &[u8]) -> Result<Option<Packet>, HelperError> {
    if connection.send(request, &[]).is_err() {
        return Ok(None);
    }
    match connection.receive(MAX_ANSWER) {
        Ok(answer) => Ok(answer),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(HelperError::Silent),
        Err(_) => Ok(None),
    }
}

fn unexpected(ask: Ask, answer: Answer) -> HelperError {
    let ask = Words::of(ask);
    match answer {
        Answer::Refused(refusal) => HelperError::Refused { ask, refusal },
        Answer::Failed(why) => HelperError::Failed { ask, why },
        Answer::Done | Answer::Sockets | Answer::Status(_) | Answer::Jailed(_) => HelperError::Answer(None),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, thread};

    use host::packet::PacketListener;
    use model::VmId;

    use super::*;

    /// A helper that answers each connection's first question with the next of `answers`, or closes it.
    fn answering(name: &str, answers: Vec<Option<Answer>>) -> (Helper, thread::JoinHandle<()>) {
        let directory = std::env::temp_dir().join(format!("banger-asked-{name}-{}", std::process::id()));
        let _ = host::fs::remove_all(&directory);
        host::fs::create_dir(&directory).unwrap();
        let path = directory.join("s");
        let listener = PacketListener::bind(&path).unwrap();
        let served = thread::spawn(move || serve(&listener, answers, &directory));
        (Helper::at(path), served)
    }

    fn serve(listener: &PacketListener, answers: Vec<Option<Answer>>, directory: &Path) {
        for answer in answers {
            let connection = wait(|| listener.accept());
            let asked = wait(|| connection.receive(64)).unwrap();
            Request::decode(&asked.bytes).unwrap();
            if let Some(answer) = answer {
                connection.send(&answer.encode(), &[]).unwrap();
            }
        }
        host::fs::remove_all(directory).unwrap();
    }

    /// The other end of a connection does not wait.
    fn wait<T>(mut body: impl FnMut() -> host::Result<T>) -> T {
        loop {
            match body() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    }

    fn ask(helper: &Helper) -> Result<(), String> {
        let vm = VmId::from_bytes([1; 6]);
        helper.done(helper.own(), Ask::CreateTap(vm)).map_err(|error| crate::chain(&error))
    }

    #[test]
    fn one_that_is_not_there_is_absent_and_told_from_one_that_fails() {
        let helper = Helper::at("/nowhere/helper.sock".into());
        let error = helper.status(helper.own()).unwrap_err();
        assert!(error.is_absent() && error.to_string() == "cannot ask banger's helper", "{error}");
    }

    #[test]
    fn a_question_whose_answer_was_lost_is_asked_again() {
        // Only root answers as root.
        if host::proc::own_uid() != 0 {
            return testkit::need::missing("root", "no root, which is whom the helper must be").unwrap_or(());
        }
        let (helper, served) = answering("again", vec![None, Some(Answer::Done), None, Some(Answer::Done)]);
        assert_eq!(ask(&helper), Ok(()));
        // The connection that is kept is closed by now.
        assert_eq!(ask(&helper), Ok(()));
        served.join().unwrap();
        let (helper, served) = answering("never", vec![None, None, None]);
        assert_eq!(ask(&helper), Err("banger's helper ends before it answers".to_owned()));
        served.join().unwrap();
    }

    #[test]
    fn what_it_does_not_do_is_said_in_words() {
        if host::proc::own_uid() != 0 {
            return testkit::need::missing("root", "no root, which is whom the helper must be").unwrap_or(());
        }
        for (answer, expect) in [
            (
                Answer::Refused(Refusal::NoBridge),
                "banger's helper refuses to make the tap: the bridge is not there yet",
            ),
            (Answer::Failed("no room".to_owned()), "banger's helper could not make the tap: no room"),
            (Answer::Sockets, "what banger's helper answers is not understood: it may be of another version"),
        ] {
            let (helper, served) = answering("words", vec![Some(answer)]);
            assert_eq!(ask(&helper), Err(expect.to_owned()));
            served.join().unwrap();
        }
    }
}
