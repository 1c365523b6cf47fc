//! The program `banger`.

fn main() -> std::process::ExitCode {
    cli::main()
}
