//! `mirrorfs fail DIR LEG`: takes a leg out of a mounted mirror.

use std::path::PathBuf;

use super::client::{self, Patience};
use super::exit::{Exit, Failure};
use super::size;
use crate::daemon::request::Request;
use crate::legs::LegId;
use crate::shell::quoted;

/// Take a leg out of a mounted mirror
///
/// The other leg goes on alone, and what the leg misses is written down. Refused when the other one is
/// not up to date.
#[derive(clap::Args)]
pub struct Args {
    /// Where the mirror is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// The leg to take out
    #[arg(value_name = "A|B", value_parser = size::leg)]
    leg: LegId,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mount = client::find(&args.mountpoint)?;
    client::ask(&mount, &Request::new("fail").with_leg(args.leg), Patience::Unlimited)?;
    let at = quoted(&mount.mountpoint);
    super::print(&format!(
        "Leg {leg} is out, leg {} serves alone.\nTo take it back, type: mirrorfs re-add {at} {leg}\n",
        args.leg.other(),
        leg = args.leg
    ))?;
    Ok(Exit::Success)
}
