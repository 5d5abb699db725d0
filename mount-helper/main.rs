//! mount.mirrorfs: lets mount(8) and fstab mount a mirror.

mod arguments;
mod helper;

use std::process::ExitCode;

fn main() -> ExitCode {
    helper::main(std::env::args_os().skip(1).collect(), mirrorfs::daemon::open::mirror)
}
