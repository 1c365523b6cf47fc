//! Writes the manual's pages, one for each command, into the directory that is named: `cargo run -p cli --example man -- DIR`.

use std::io;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: man DIR"))?;
    clap_mangen::generate_to(cli::command(), directory)
}
