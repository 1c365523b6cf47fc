//! What the programs say to each other: control API, guest API, session framing.
