//! `mirrorfs re-add DIR LEG [PATH]`: a leg that was away is back.

use std::path::{Path, PathBuf};

use super::client::{self, Patience};
use super::exit::{Exit, Failure};
use super::size;
use crate::daemon::request::Request;
use crate::error::Error;
use crate::legs::LegId;
use crate::shell::quoted;

/// Take a leg back that was away
///
/// What it missed is copied to it while the mirror serves; "mirrorfs wait DIR" returns when that is
/// done. Refused when the directory is not that leg, or has been changed on its own.
#[derive(clap::Args)]
pub struct Args {
    /// Where the mirror is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// The leg that is back
    #[arg(value_name = "A|B", value_parser = size::leg)]
    leg: LegId,
    /// Where it is now, when that is not where it was
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mount = client::find(&args.mountpoint)?;
    let mut request = Request::new("re-add").with_leg(args.leg);
    if let Some(path) = &args.path {
        request = request.with_path(&absolute(path)?);
    }
    client::ask(&mount, &request, Patience::Unlimited)?;
    super::print(&format!(
        "Leg {} is back; what it missed is being copied.\nTo wait for that, type: mirrorfs wait {}\n",
        args.leg,
        quoted(&mount.mountpoint)
    ))?;
    Ok(Exit::Success)
}

/// As the daemon can find it, who has another current directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path);
    Ok(absolute.map_err(|cause| {
        Error::new(format!("cannot make {} an absolute path", path.display())).because(cause)
    })?)
}
