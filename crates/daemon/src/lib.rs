//! Puts the engine behind a socket: HTTP/1.1 and JSON, one handler per request, no decisions.
//!
//! | module | |
//! | --- | --- |
//! | `server` | the socket, who may connect, the end |
//! | `api` | routes and their handlers |
//! | `events` | an operation as a stream of lines, and what its end means |
//! | `exec` | a command's stream |
//! | `extract` | parts of requests |
//! | `fail` | errors as answers |
//! | `config`, `settings` | what the user set, and showing it |
//! | `openapi` | the document of it all |

mod api;
pub mod config;
mod events;
mod exec;
mod extract;
mod fail;
pub mod openapi;
pub mod server;
pub mod settings;
