//! What the programs say to each other. Types, framing, versions and limits; no sockets, no files.
//!
//! | module | between | carried by |
//! | --- | --- | --- |
//! | [`control`] | `banger` and `bangerd` | HTTP/1.1 + JSON on a unix socket |
//! | [`dns`] | whoever asks for names and `bangerd` | datagrams and streams |
//! | [`doctor`] | `bangerd --doctor` and `banger` | JSON on a pipe |
//! | [`exec`] | `banger`, `bangerd` and the agent | frames on an upgraded connection, or on an HTTP/2 stream |
//! | [`guest`] | `bangerd` and `banger-agent` | HTTP/2 on one byte stream |
//! | [`tree`] | the same | bodies of these requests |
//! | [`pieces`] | whoever streams a body | function calls |
//! | [`helper`] | `bangerd` and `banger-helper` | packets of a unix socket |
//! | [`session`] | the two ends of a virtio-serial port | the port |
//!
//! Reading is tolerant within a major version: unknown fields are ignored, missing ones have defaults. An unknown major
//! version is refused.

pub mod control;
pub mod dns;
pub mod doctor;
pub mod exec;
pub mod guest;
pub mod helper;
pub mod pieces;
pub mod session;
pub mod tree;
mod word;

pub use word::Word;
