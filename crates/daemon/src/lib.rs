//! Puts the engine behind a socket.
