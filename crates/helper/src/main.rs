//! `banger-helper`: the part of banger that is root. It has one socket, asks of nobody, and is told nothing but ids and numbers.

use std::{path::Path, process::ExitCode};

use helper::{places::Places, serve};

const USAGE: &str = "usage: banger-helper [--root DIRECTORY | --version | --help]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let places = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Places::below(Path::new("/")),
        ["--root", root] => Places::below(Path::new(root)),
        ["--version"] => return print(concat!("banger-helper ", env!("CARGO_PKG_VERSION"))),
        ["--help"] => return print(USAGE),
        _ => {
            complain(USAGE);
            return ExitCode::from(model::exit::USAGE);
        }
    };
    match serve::run(&places) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("banger-helper: {}", host::chain(&error)));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a one-shot mode")]
fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "there is no other place for it")]
fn complain(text: &str) {
    eprintln!("{text}");
}
