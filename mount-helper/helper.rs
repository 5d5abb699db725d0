//! What mount.mirrorfs does: reads mount(8)'s way of saying it, then mounts as `mirrorfs mount`
//! does, by the same function.

use std::ffi::OsString;
use std::process::ExitCode;

use mirrorfs::cli::exit::{Exit, Failure};
use mirrorfs::daemon::{self, MountRequest, Start, spec};
use mirrorfs::error::Error;

use crate::arguments::{self, Arguments, USAGE};

/// Exit codes of mount(8).
mod code {
    pub const SUCCESS: u8 = 0;
    /// Wrong call or missing permission.
    pub const USAGE: u8 = 1;
    /// The system refused what has nothing to do with the mount: no process, no memory.
    pub const SYSTEM: u8 = 2;
    pub const MOUNT_FAILED: u8 = 32;
}

/// Runs it; `words` do not hold the program's name.
pub fn main(words: Vec<OsString>, start: Start) -> ExitCode {
    if let [word] = &words[..] {
        if word == "-V" || word == "--version" {
            println!("mount.mirrorfs {}", env!("CARGO_PKG_VERSION"));
            return code::SUCCESS.into();
        }
        if word == "-h" || word == "--help" {
            println!("{USAGE}\n\n{}", mirrorfs::options::help());
            return code::SUCCESS.into();
        }
    }
    let result = arguments::parse(words)
        .map_err(|error| Failure::new(Exit::Usage, error))
        .and_then(|arguments| mount(arguments, start));
    match result {
        Ok(()) => code::SUCCESS.into(),
        Err(failure) => {
            eprintln!("mount.mirrorfs: {failure}");
            code_of(failure.exit).into()
        }
    }
}

fn mount(arguments: Arguments, start: Start) -> Result<(), Failure> {
    let usage = |error: Error| Failure::new(Exit::Usage, error);
    let legs = spec::split(&arguments.spec).map_err(usage)?;
    let request = MountRequest::new(legs, &arguments.mountpoint, arguments.options)?;
    if arguments.verbose {
        let (source, target) = (spec::join(&request.legs), &request.mountpoint);
        eprintln!("mount.mirrorfs: {} on {}", source.display(), target.display());
    }
    if arguments.fake && request.options.remount {
        return Ok(());
    }
    if arguments.fake { daemon::check(&request) } else { daemon::run(&request, start) }
}

fn code_of(exit: Exit) -> u8 {
    match exit {
        Exit::Success => code::SUCCESS,
        Exit::Usage => code::USAGE,
        Exit::System => code::SYSTEM,
        Exit::Different
        | Exit::Failed
        | Exit::NotMounted
        | Exit::NoAnswer
        | Exit::InUse
        | Exit::Interrupted
        | Exit::Degraded
        | Exit::ReadOnly
        | Exit::Gone
        | Exit::TimedOut
        | Exit::NotDivergent => code::MOUNT_FAILED,
    }
}
