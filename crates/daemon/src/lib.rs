//! Puts the engine behind a socket: HTTP/1.1 and JSON, one handler per request, no decisions.
//!
//! | module | |
//! | --- | --- |
//! | `server` | the socket, who may connect, the end |
//! | `api` | routes and their handlers |
//! | `events` | an operation as a stream of lines, and what its end means |
//! | `exec`, `connect` | a command's stream, a connection into a guest |
//! | `files` | files into a guest and out of it |
//! | `extract`, `upload` | parts of requests, a body to read from |
//! | `fail` | errors as answers |
//! | `config`, `settings` | what the user set, and showing it |
//! | `openapi` | the document of it all |

mod api;
pub mod config;
mod connect;
mod events;
mod exec;
mod extract;
mod fail;
mod files;
pub mod openapi;
pub mod server;
pub mod settings;
mod upload;
