//! The program that banger puts into every guest, static, as `/init` of its initramfs.
#![expect(clippy::print_stderr, reason = "where this is no guest there is only stderr")]

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        agent::boot::run()
    }
    eprintln!("banger-agent: this is the init of a banger guest; it does nothing elsewhere");
    ExitCode::from(2)
}
