//! `mirrorfs replace DIR LEG PATH`: a new directory takes a leg's place.

use std::path::PathBuf;

use super::client::{self, Patience};
use super::exit::{Exit, Failure};
use super::re_add::absolute;
use super::shell::quoted;
use super::size;
use crate::daemon::request::Request;
use crate::legs::LegId;

/// Let a new, empty directory take a leg's place
///
/// Everything is copied to it while the mirror serves; "mirrorfs wait DIR" returns when that is done.
/// What is in the leg's old directory stays there, and is a leg of this mirror no more.
#[derive(clap::Args)]
pub struct Args {
    /// Where the mirror is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// The leg whose place is taken
    #[arg(value_name = "A|B", value_parser = size::leg)]
    leg: LegId,
    /// The empty directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mount = client::find(&args.mountpoint)?;
    let path = absolute(&args.path)?;
    let request = Request::new("replace").with_leg(args.leg).with_path(&path);
    client::ask(&mount, &request, Patience::Unlimited)?;
    println!("{} is leg {} now; everything is being copied to it.", path.display(), args.leg);
    println!("To wait for that, type: mirrorfs wait {}", quoted(&mount.mountpoint));
    Ok(Exit::Success)
}
