//! Puts the engine behind a socket: HTTP/1.1 and JSON, one handler per request, no decisions.
//!
//! | module | |
//! | --- | --- |
//! | `server` | the socket, who may connect, the end |
//! | `api` | routes and their handlers |
//! | `events` | an operation as a stream of lines, and what its end means |
//! | `exec` | a command's stream |
//! | `fail` | errors as answers |
//! | `openapi` | the document of it all |

mod api;
mod events;
mod exec;
mod fail;
pub mod openapi;
pub mod server;
