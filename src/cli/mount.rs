//! `mirrorfs mount A B DIR`: mounts a mirror.

use std::ffi::OsString;
use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::daemon::{self, LegPlace, MountRequest, Start};
use crate::legs::PerLeg;
use crate::options::{self, MountOptions, Unknown};

/// Mount a mirror
///
/// Ends with exit code 0 once the mirror is mounted. After a crash the legs are made equal behind
/// the mount; "mirrorfs status DIR" shows how far that is. Unmount with umount(8), or as an
/// ordinary user with "fusermount3 -u DIR".
#[derive(clap::Args)]
#[command(after_long_help = options::help())]
pub struct Args {
    /// Leg A, or "missing" to mount without it
    #[arg(value_name = "A")]
    leg_a: LegPlace,
    /// Leg B, or "missing" to mount without it
    #[arg(value_name = "B")]
    leg_b: LegPlace,
    /// Where to mount
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// Mount options, separated by commas; may be given more than once
    #[arg(short, value_name = "OPTS")]
    options: Vec<OsString>,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    foreground: bool,
}

pub(super) fn run(args: Args, start: Start) -> Result<Exit, Failure> {
    let mut options = MountOptions::default();
    for text in &args.options {
        options.apply(text, Unknown::Refuse).map_err(|error| Failure::new(Exit::Usage, error))?;
    }
    let mut request = MountRequest::new(PerLeg::new(args.leg_a, args.leg_b), &args.mountpoint, options)?;
    request.foreground = args.foreground;
    daemon::run(&request, start)?;
    Ok(Exit::Success)
}
