//! Where the daemon meets the mirror: what a request names becomes a [`Service`].
//!
//! ```text
//!   directories -> checks -> locks -> superblocks -> plan -> bitmap -> Mirror
//!   `------------- refused: nothing has been changed on either leg -------'
//! ```

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::MountFlags;

use super::bitmap_files::{self, Files};
use super::events::Events;
use super::service::StartError;
use super::{MountRequest, Service};
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::{DirectoryLeg, LegId, PerLeg, Timestamp};
use crate::ops::{Mirror, Options, Parts};
use crate::owner::{Owner, Refused};
use crate::superblock::{self, Found, Plan, Refusal, Superblock, SuperblockStore};

use super::served::Served;

/// How long the sweeper leaves what was written in peace before it looks again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Directories kept open over both legs, if the limit of descriptors allows.
const PINNED_DIRECTORIES: usize = 4096;

/// Opens the mirror of `request`.
pub fn mirror(request: &MountRequest, _events: &Events) -> std::result::Result<Arc<dyn Service>, StartError> {
    let paths = request.both()?;
    let dirs = PerLeg::from_fn(|leg| open_dir(leg, paths[leg])).transpose()?;
    layout::check_pair(&dirs)?;
    let read_only = request.options.flags.contains(MountFlags::RDONLY);
    let found = PerLeg::from_fn(|leg| read_superblock(leg, &dirs[leg])).transpose()?;
    judge(&found, &dirs)?;
    if !read_only {
        for leg in LegId::ALL {
            layout::check_writable(leg, &dirs[leg])?;
        }
    }
    let mut owners = PerLeg::from_fn(|leg| own(leg, &dirs[leg], read_only)).transpose()?;
    // What was read before the locks were held may have been changed by the last owner since.
    let found = PerLeg::from_fn(|leg| read_superblock(leg, &dirs[leg])).transpose()?;
    let (plan, mut superblocks) = judge(&found, &dirs)?;
    check_chunk(request, &superblocks[LegId::A])?;
    let files = Files { dirs: &dirs, elsewhere: request.options.bitmap.as_deref(), read_only, plan };
    let (bitmap, compare_all) = bitmap_files::open(&files, &mut superblocks)?;
    let legs = PerLeg::from_fn(|leg| DirectoryLeg::open(paths[leg], leg).map(Arc::new)).transpose()?;
    let stores =
        PerLeg::from_fn(|leg| open_store(leg, &dirs[leg], &superblocks[leg], read_only)).transpose()?;
    let parts = Parts { legs, bitmap, compare_all, superblocks, stores, plan };
    let mirror = Mirror::assemble(parts, options(read_only)).map_err(|cause| {
        Error::new("cannot start the mirror")
            .because(cause)
            .hint("See the log for the leg; nothing has been lost.")
    })?;
    if !read_only {
        LegId::ALL.into_iter().for_each(|leg| owners[leg].record());
    }
    Ok(Arc::new(Served::new(mirror, request, owners)))
}

fn options(read_only: bool) -> Options {
    let descriptors =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    Options {
        read_only,
        sweep_interval: SWEEP_INTERVAL,
        // Open files need descriptors too: at most a quarter for directories.
        pinned_directories: PINNED_DIRECTORIES.min(usize::try_from(descriptors / 4).unwrap_or(usize::MAX)),
        clock: now,
    }
}

fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: now.tv_nsec as u32 }
}

fn paths(dirs: &PerLeg<LegDir>) -> PerLeg<&Path> {
    PerLeg::from_fn(|leg| dirs[leg].path())
}

/// A leg's directory. One that is not there is told as the plan tells it.
fn open_dir(leg: LegId, path: &Path) -> Result<LegDir> {
    LegDir::open(path).map_err(|error| {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        Refusal::Missing(leg, number).explain(&PerLeg::new(path, path))
    })
}

fn read_superblock(leg: LegId, dir: &LegDir) -> Result<Found> {
    superblock::store::read(dir.as_fd()).map_err(|cause| {
        Error::new(format!("cannot read the superblock of leg {leg} at {}", dir.path().display()))
            .because(cause)
            .hint("See in the system log what is wrong with that filesystem.")
    })
}

/// What the superblocks mean together, and the superblocks.
fn judge(found: &PerLeg<Found>, dirs: &PerLeg<LegDir>) -> Result<(Plan, PerLeg<Superblock>)> {
    let refuse = |refusal: Refusal| refusal.explain(&paths(dirs));
    let plan = superblock::plan(found).map_err(refuse)?;
    let superblocks = PerLeg::from_fn(|leg| match &found[leg] {
        Found::Leg { superblock, .. } => Ok(superblock.clone()),
        _ => Err(refuse(Refusal::NotAMirror(leg))),
    });
    Ok((plan, superblocks.transpose()?))
}

fn own(leg: LegId, dir: &LegDir, read_only: bool) -> std::result::Result<Owner, StartError> {
    let state_dir = dir.state_dir().map_err(|cause| cannot_open(leg, dir, cause))?;
    let owner = match read_only {
        true => Owner::exclusive_without_a_trace(state_dir.as_fd(), leg, dir.path()),
        false => Owner::exclusive(state_dir.as_fd(), leg, dir.path()),
    };
    owner.map_err(|refused| match refused {
        Refused::InUse(holder, error) => StartError::Held { holder, error },
        Refused::Failed(error) => StartError::Failed(error),
    })
}

fn open_store(
    leg: LegId,
    dir: &LegDir,
    found: &Superblock,
    read_only: bool,
) -> Result<Box<dyn SuperblockStore>> {
    if read_only {
        return Ok(Box::new(Unwritten));
    }
    let state_dir = dir.state_dir().map_err(|cause| cannot_open(leg, dir, cause))?;
    match superblock::FileStore::open(state_dir.as_fd(), found) {
        Ok(store) => Ok(Box::new(store)),
        Err(cause) => Err(cannot_open(leg, dir, cause)),
    }
}

/// Stands where a read-only mount has nothing to write to.
struct Unwritten;

impl SuperblockStore for Unwritten {
    fn write(&self, _: &Superblock) -> std::io::Result<()> {
        Err(crate::error::errno(libc::EROFS))
    }
}

fn cannot_open(leg: LegId, dir: &LegDir, cause: std::io::Error) -> Error {
    Error::new(format!("cannot open leg {leg} at {}", dir.path().display()))
        .because(cause)
        .hint("Run as the directory's owner or as root; see in the system log whether the disk is well.")
}

/// A mirror keeps the chunk size it was made with; an option that says otherwise is a mistake.
fn check_chunk(request: &MountRequest, superblock: &Superblock) -> Result<()> {
    match request.options.chunk {
        Some(wanted) if wanted != superblock.chunk_size => Err(Error::new(format!(
            "this mirror has chunks of {} bytes, not of {wanted} as chunk= says",
            superblock.chunk_size
        ))
        .hint("Leave chunk= out. The size is chosen by `mirrorfs create --chunk`.")),
        _ => Ok(()),
    }
}
