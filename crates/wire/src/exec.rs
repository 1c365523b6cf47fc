//! Running a command in a guest: frames both ways on one stream.
//!
//! ```text
//! frame = kind: u8 · length: u32, big endian · payload
//! client → agent: Spec, then any of Stdin, StdinEnd, Resize, Signal
//! agent → client: Started or Failed, then any of Stdout, Stderr, then Exited or Failed as the last
//! ```
//! The same frames go over both hops, so the daemon only watches the boundaries. Each direction has the flow control of
//! the stream that carries it. A stream that ends without `Exited` or `Failed` was cut. A client that goes away is HUP,
//! then KILL, to the command.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{Word, control::ErrorBody};

/// The name of the upgrade on the control socket (RFC 9110, section 7.8).
pub const UPGRADE: &str = "banger-exec";
/// The header of the answer that says where the VM's workspace is in its guest, as a string of JSON: there a command runs that
/// has no other directory.
pub const WORKSPACE: &str = "banger-workspace";
/// The header beside it that says that this workspace pins tools, by which a command there is to be run.
pub const TOOLS: &str = "banger-tools";
/// The header of the answer that says who runs a command for which no user is said, as a string of JSON; without it root.
pub const USER: &str = "banger-user";
/// The most payload bytes of a frame that carries data.
pub const MAX_DATA: usize = 64 << 10;
/// The most payload bytes of any frame; a [`Spec`] may carry as much as Linux takes for a command line.
pub const MAX_FRAME: usize = 2 << 20;
const HEADER: usize = 5;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Spec {
    /// The program and its arguments; the program is looked up in the guest's `PATH`. Empty: a login shell.
    #[serde(default)]
    pub argv: Vec<Word>,
    /// Variables set on top of the guest's environment, in order.
    #[serde(default)]
    pub env: Vec<(Word, Word)>,
    /// The working directory; without it the user's home.
    #[serde(default)]
    pub cwd: Option<Word>,
    /// User name or number, also `user:group`; without it root.
    #[serde(default)]
    pub user: Option<String>,
    /// A terminal of this size instead of pipes.
    #[serde(default)]
    pub terminal: Option<Size>,
    /// Words before a command where the guest has the first of them as a program, such as `mise exec --`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<Word>,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
    /// It is there but cannot be executed.
    NotExecutable,
    /// It is not there.
    NotFound,
}

impl From<Exit> for model::exit::Outcome {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Exited(code),
            Exit::Signal(signal) => Self::Signalled(signal),
            Exit::NotExecutable => Self::NotExecutable,
            Exit::NotFound => Self::NotFound,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What to run; the first frame of a client.
    Spec(Box<Spec>),
    /// Bytes for the command's standard input.
    Stdin(Bytes),
    /// The end of standard input.
    StdinEnd,
    /// The client's terminal has a new size.
    Resize(Size),
    /// A signal for the command's process group, by its Linux number.
    Signal(u8),
    /// The command runs as this process.
    Started(u32),
    /// Bytes of its standard output, or of its terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended; the last frame.
    Exited(Exit),
    /// It could not be started or watched to its end; the last frame.
    Failed(Box<ErrorBody>),
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A length over the limit.
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(usize),
    /// A payload that is not of its kind's form.
    #[error("a frame of kind {0} is malformed")]
    Payload(u8),
}

impl Frame {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// Where a payload is larger than [`MAX_FRAME`]; data is to be cut into pieces of at most [`MAX_DATA`].
    pub fn encode(&self, out: &mut BytesMut) {
        let json = |value: &dyn erased::Json| value.json();
        let (kind, payload): (u8, Bytes) = match self {
            Self::Spec(spec) => (0, json(spec)),
            Self::Stdin(data) => (1, data.clone()),
            Self::StdinEnd => (2, Bytes::new()),
            Self::Resize(size) => (3, json(size)),
            Self::Signal(number) => (4, Bytes::copy_from_slice(&[*number])),
            Self::Started(pid) => (16, Bytes::copy_from_slice(&pid.to_be_bytes())),
            Self::Stdout(data) => (17, data.clone()),
            Self::Stderr(data) => (18, data.clone()),
            Self::Exited(exit) => (19, json(exit)),
            Self::Failed(error) => (20, json(error)),
        };
        assert!(payload.len() <= MAX_FRAME, "frames are cut before they are encoded");
        out.reserve(HEADER + payload.len());
        out.put_u8(kind);
        out.put_u32(u32::try_from(payload.len()).expect("MAX_FRAME fits"));
        out.put_slice(&payload);
    }

    /// The frame as bytes.
    ///
    /// # Panics
    /// As [`Frame::encode`].
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    fn decode(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        fn json<T: for<'a> Deserialize<'a>>(kind: u8, payload: &[u8]) -> Result<T, FrameError> {
            serde_json::from_slice(payload).map_err(|_| FrameError::Payload(kind))
        }
        Ok(match kind {
            0 => Self::Spec(Box::new(json(kind, &payload)?)),
            1 => Self::Stdin(payload),
            2 => Self::StdinEnd,
            3 => Self::Resize(json(kind, &payload)?),
            4 => Self::Signal(*payload.first().ok_or(FrameError::Payload(kind))?),
            16 => {
                let pid = <[u8; 4]>::try_from(payload.as_ref()).map_err(|_| FrameError::Payload(kind))?;
                Self::Started(u32::from_be_bytes(pid))
            }
            17 => Self::Stdout(payload),
            18 => Self::Stderr(payload),
            19 => Self::Exited(json(kind, &payload)?),
            20 => Self::Failed(Box::new(json(kind, &payload)?)),
            _ => return Err(FrameError::Kind(kind)),
        })
    }
}

mod erased {
    use bytes::Bytes;

    /// What [`super::Frame::encode`] writes as JSON.
    pub trait Json {
        fn json(&self) -> Bytes;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> Bytes {
            serde_json::to_vec(self).expect("these types have no map with keys that are no strings").into()
        }
    }
}

/// Takes bytes as they come and gives frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`]; the stream cannot be read on after one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        Ok(self.next_with_bytes()?.map(|(frame, _)| frame))
    }

    /// The next whole frame together with its bytes, to be passed on as they came.
    ///
    /// # Errors
    /// As [`Decoder::next_frame`].
    pub fn next_with_bytes(&mut self) -> Result<Option<(Frame, Bytes)>, FrameError> {
        let Some(header) = self.buffer.get(..HEADER) else { return Ok(None) };
        let kind = header[0];
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(HEADER + length).freeze();
        Ok(Some((Frame::decode(kind, bytes.slice(HEADER..))?, bytes)))
    }

    /// Whether the bytes so far end at the end of a frame.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Spec(Box::new(Spec {
                argv: vec!["sh".into(), Word::from(b"\xff".to_vec())],
                env: vec![("A".into(), "b".into())],
                cwd: None,
                user: Some("root".to_owned()),
                terminal: Some(Size { rows: 24, cols: 80 }),
                through: vec!["mise".into(), "exec".into()],
            })),
            Frame::Stdin(Bytes::from_static(b"hello")),
            Frame::StdinEnd,
            Frame::Resize(Size { rows: 1, cols: 2 }),
            Frame::Signal(15),
            Frame::Started(70000),
            Frame::Stdout(Bytes::from(vec![0; MAX_DATA])),
            Frame::Stderr(Bytes::new()),
            Frame::Exited(Exit::Code(42)),
            Frame::Exited(Exit::NotFound),
        ]
    }

    #[test]
    fn frames_survive_any_cutting() {
        let mut all = BytesMut::new();
        frames().iter().for_each(|frame| frame.encode(&mut all));
        for step in [1, 7, 4096, all.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in all.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames());
            assert!(decoder.is_at_boundary());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_payload() {
        let mut decoder = Decoder::default();
        decoder.push(&[17, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
