//! The `mirrorfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirrorfs::cli::main(std::env::args_os(), mirrorfs::daemon::open::mirror)
}
