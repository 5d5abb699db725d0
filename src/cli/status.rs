//! `mirrorfs status DIR`: what a mounted mirror says about itself.

pub mod text;

use std::path::PathBuf;
use std::time::SystemTime;

use super::client;
use super::exit::{Exit, Failure};

/// Show the state of a mounted mirror
#[derive(clap::Args)]
pub struct Args {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let value = client::status(&client::find(&args.mountpoint)?)?;
    if args.json {
        super::print(&format!("{value:#}\n"))?;
    } else {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        super::print(&text::text(&client::understood(value)?, now.as_secs() as i64))?;
    }
    Ok(Exit::Success)
}
