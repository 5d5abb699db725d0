//! `mirrorfs replace DIR LEG PATH`: a new, empty directory takes the place of a leg.

use std::path::PathBuf;

use super::client::{self, Patience};
use super::exit::{Exit, Failure};
use super::re_add::absolute;
use super::size;
use crate::daemon::request::Request;
use crate::legs::LegId;
use crate::shell::quoted;

/// Put a new, empty directory in the place of a leg
///
/// Everything is copied to it while the mirror serves; "mirrorfs wait DIR" returns when that is done.
/// It is the leg when it is complete; one that serves goes on until then, so there are two at any time.
/// The leg that was there is not a leg of the mirror any more then, and its directory is left as it is.
/// After an unmount or a crash before that, give the command again, with the same directory: what it
/// holds is not copied again.
/// Refused when the directory is not empty or has no room.
#[derive(clap::Args)]
pub struct Args {
    /// Where the mirror is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// The leg that gives way
    #[arg(value_name = "A|B", value_parser = size::leg)]
    leg: LegId,
    /// The directory that takes its place
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mount = client::find(&args.mountpoint)?;
    let path = absolute(&args.path)?;
    let request = Request::new("replace").with_leg(args.leg).with_path(&path);
    let (leg, at, path) = (args.leg, quoted(&mount.mountpoint), quoted(&path));
    client::ask(&mount, &request, Patience::Unlimited)?;
    super::print(&format!(
        "Everything is being copied to {path}, and it is leg {leg} when that is done. Until then the mirror is as it was.\n\
         To wait for that, type: mirrorfs wait {at}\n\
         Then name that directory wherever the mirror's legs are named, as in /etc/fstab.\n\
         Should the mirror be unmounted before, give the command again: what was copied is not copied again.\n"
    ))?;
    Ok(Exit::Success)
}
