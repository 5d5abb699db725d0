//! Where the daemon meets the mirror: what a request names becomes a [`Service`].
//!
//! ```text
//!   directories -> checks -> locks -> superblocks -> plan -> bitmap -> Mirror
//!   `------------- refused: nothing has been changed on either leg -------'
//! ```

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

use super::bitmap_files::{self, Files};
use super::events::{Event, Events, Name};
use super::service::StartError;
use super::waits::{BackingLeg, Waits};
use super::{LegPlace, MountRequest, Service};
use crate::error::{Error, Result};
use crate::fuse::Caching;
use crate::layout::{self, LegDir};
use crate::legs::timed::TimedSuperblock;
use crate::legs::{LegId, PerLeg, Timestamp};
use crate::ops::{Mirror, Options, Parts, comes_later};
use crate::options::{Degraded, MountOptions};
use crate::owner::{Owner, Refused};
use crate::superblock::{self, Found, Plan, Refusal, Superblock, SuperblockStore, Work};

use super::served::Served;

/// How long the sweeper leaves what was written in peace before it looks again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait before looking again whether a leg is there.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Directories kept open over both legs, if the limit of descriptors allows.
const PINNED_DIRECTORIES: usize = 4096;

/// Opens the mirror of `request`.
pub fn mirror(request: &MountRequest, events: &Events) -> std::result::Result<Arc<dyn Service>, StartError> {
    let paths = request.legs.clone().map(|place| place.path().unwrap_or(Path::new("missing")).to_owned());
    let mut dirs = waited_for(request)?;
    check_apart(&dirs)?;
    let read_only = request.options.flags.contains(MountFlags::RDONLY);
    judge(&read_superblocks(&dirs)?, &paths, events)?;
    if !read_only {
        for (leg, dir) in there(&dirs) {
            layout::check_writable(leg, dir)?;
        }
    }
    let mut owners =
        PerLeg::from_fn(|leg| dirs[leg].as_ref().map(|dir| own(leg, dir, read_only)).transpose())
            .transpose()?;
    // What was read before the locks were held may have been changed by the last owner since.
    let (mut plan, mut superblocks) = judge(&read_superblocks(&dirs)?, &paths, events)?;
    check_passthrough(request, plan.source, &dirs)?;
    check_chunk(request, superblocks.iter().find_map(|(_, superblock)| superblock.as_ref()))?;
    let waits = Waits::start(request.options.leg_timeout)?;
    let mut legs =
        PerLeg::from_fn(|leg| dirs[leg].as_ref().map(|dir| waits.open(dir.path(), leg)).transpose())
            .transpose()?;
    let elsewhere = request.options.bitmap.as_deref();
    let files = Files { dirs: &dirs, elsewhere, read_only, plan, legs: &legs };
    let bitmap = bitmap_files::open(&files, &mut superblocks)?;
    let returns = comes_later(&plan, &legs, &bitmap).filter(|_| !read_only);
    if let Some(leg) = returns {
        // The other one goes on alone, and serves at once: this one is taken in from there, and nobody has to wait until it
        // is equal.
        plan = Plan { work: Work::Alone, stale: Some(leg), ..plan };
        bitmap.stop_using(leg);
        drop((bitmap.take_copy(leg), legs[leg].take(), owners[leg].take(), dirs[leg].take()));
    }
    if let (Work::CompareAll, Some(stale)) = (plan.work, plan.stale) {
        tell_of_comparing(stale);
    }
    let superblocks = PerLeg::from_fn(|leg| match (&dirs[leg], &superblocks[leg], &legs[leg]) {
        (Some(dir), Some(superblock), Some(there)) => {
            let store = open_store(leg, dir, superblock, read_only)?;
            Ok(Some((superblock.clone(), in_time(store, there))))
        }
        _ => Ok(None),
    });
    let calls = legs.as_ref().map(|leg| leg.as_ref().map(|leg| leg.calls()));
    let parts =
        Parts { legs, bitmap, superblocks: superblocks.transpose().map_err(StartError::Failed)?, plan };
    let mirror = Mirror::assemble(parts, options(&request.options)).map_err(|cause| {
        Error::new("cannot start the mirror")
            .because(cause)
            .hint("See the log for the leg; nothing has been lost.")
    })?;
    if !read_only {
        for leg in LegId::ALL {
            owners[leg].iter_mut().for_each(Owner::record);
        }
    }
    Ok(Served::new(mirror, request, (owners, calls), waits, events, returns))
}

/// The directories of the legs that are there, after waiting for them as the options say.
fn waited_for(request: &MountRequest) -> Result<PerLeg<Option<LegDir>>> {
    let patience = match request.options.degraded {
        Degraded::Wait(time) => time,
        Degraded::No | Degraded::Yes => Duration::ZERO,
    };
    let deadline = Instant::now() + patience;
    loop {
        let dirs = PerLeg::from_fn(|leg| match &request.legs[leg] {
            LegPlace::Missing => Ok(None),
            LegPlace::At(path) if request.options.degraded == Degraded::No => open_dir(leg, path).map(Some),
            LegPlace::At(path) => Ok(leg_at(path)),
        });
        let dirs = dirs.transpose()?;
        let wanted = |leg: LegId| request.legs[leg] != LegPlace::Missing;
        let awaited = LegId::ALL.into_iter().find(|&leg| wanted(leg) && dirs[leg].is_none());
        let Some(leg) = awaited else { return Ok(dirs) };
        if Instant::now() >= deadline {
            if dirs[leg.other()].is_none() {
                // Neither is there: say of the first one why.
                return open_dir(leg, request.legs[leg].path().unwrap_or(Path::new("missing")))
                    .and_then(|dir| read_superblock(leg, &dir).map(|_| dirs));
            }
            log::warn!("leg {leg} is not at {}: leg {} goes on alone", request.legs[leg], leg.other());
            return Ok(dirs);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A directory that is a leg of some mirror. An empty one, or one with other files, is where a disk belongs
/// that is not mounted.
pub(super) fn leg_at(path: &Path) -> Option<LegDir> {
    let dir = LegDir::open(path).ok()?;
    let found = superblock::store::read(dir.as_fd()).ok()?;
    (!matches!(found, Found::Empty | Found::NotAMirror)).then_some(dir)
}

fn there(dirs: &PerLeg<Option<LegDir>>) -> impl Iterator<Item = (LegId, &LegDir)> {
    dirs.iter().filter_map(|(leg, dir)| Some((leg, dir.as_ref()?)))
}

fn check_apart(dirs: &PerLeg<Option<LegDir>>) -> Result<()> {
    match (&dirs[LegId::A], &dirs[LegId::B]) {
        (Some(a), Some(b)) => layout::check_pair(PerLeg::new(a, b)),
        _ => Ok(()),
    }
}

fn read_superblocks(dirs: &PerLeg<Option<LegDir>>) -> Result<PerLeg<Option<Found>>> {
    PerLeg::from_fn(|leg| dirs[leg].as_ref().map(|dir| read_superblock(leg, dir)).transpose()).transpose()
}

fn options(asked: &MountOptions) -> Options {
    let descriptors =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    Options {
        read_only: asked.flags.contains(MountFlags::RDONLY),
        sweep_interval: SWEEP_INTERVAL,
        // Open files need descriptors too: at most a quarter for directories.
        pinned_directories: PINNED_DIRECTORIES.min(usize::try_from(descriptors / 4).unwrap_or(usize::MAX)),
        resync_limits: asked.resync_limits,
        writeback: asked.caching == Caching::Back,
        clock: now,
    }
}

fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { secs: now.tv_sec, nanos: now.tv_nsec as u32 }
}

/// A leg's directory. One that is not there is told as the plan tells it.
fn open_dir(leg: LegId, path: &Path) -> Result<LegDir> {
    LegDir::open(path).map_err(|error| {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        Refusal::Missing(leg, number).explain(&PerLeg::new(path, path))
    })
}

pub(super) fn read_superblock(leg: LegId, dir: &LegDir) -> Result<Found> {
    superblock::store::read(dir.as_fd()).map_err(|cause| {
        Error::new(format!("cannot read the superblock of leg {leg} at {}", dir.path().display()))
            .because(cause)
            .hint("See in the system log what is wrong with that filesystem.")
    })
}

/// A refusal as it is told; a split brain as an event, too.
pub(super) fn refused(refusal: &Refusal, paths: &PerLeg<&Path>, events: &Events) -> Error {
    if matches!(refusal, Refusal::Divergent(_)) {
        let [a, b] = LegId::ALL.map(|leg| paths[leg].display());
        events.tell(Event {
            name: Name::SplitBrain,
            leg: None,
            detail: format!("{a} and {b} have diverged"),
        });
    }
    refusal.explain(paths)
}

/// Says why a recovery reads everything.
pub(super) fn tell_of_comparing(stale: LegId) {
    log::warn!("leg {stale} is behind further than the bitmap tells: all files are compared");
}

/// What the superblocks of the legs that are there mean together, and the superblocks.
fn judge(
    found: &PerLeg<Option<Found>>,
    paths: &PerLeg<PathBuf>,
    events: &Events,
) -> Result<(Plan, PerLeg<Option<Superblock>>)> {
    let plan = match (&found[LegId::A], &found[LegId::B]) {
        (Some(a), Some(b)) => superblock::plan(&PerLeg::new(a.clone(), b.clone())),
        (Some(a), None) => superblock::plan_alone(LegId::A, a),
        (None, Some(b)) => superblock::plan_alone(LegId::B, b),
        (None, None) => Err(Refusal::NeitherIsAMirror),
    };
    let plan = plan.map_err(|refusal| refused(&refusal, &paths.as_ref().map(PathBuf::as_path), events))?;
    let superblocks = PerLeg::from_fn(|leg| match &found[leg] {
        Some(Found::Leg { superblock, .. }) => Some(superblock.clone()),
        _ => None,
    });
    Ok((plan, superblocks))
}

pub(super) fn own(leg: LegId, dir: &LegDir, read_only: bool) -> std::result::Result<Owner, StartError> {
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

pub(super) fn open_store(
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

/// The superblock of `leg`, waited for as that is.
pub(super) fn in_time(store: Box<dyn SuperblockStore>, leg: &BackingLeg) -> Box<dyn SuperblockStore> {
    Box::new(TimedSuperblock::new(store, leg))
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

/// What the kernel reads itself may be changed by nobody, and not by reading either.
fn check_passthrough(request: &MountRequest, source: LegId, dirs: &PerLeg<Option<LegDir>>) -> Result<()> {
    if request.options.caching != Caching::Passthrough {
        return Ok(());
    }
    if !request.options.flags.contains(MountFlags::RDONLY) {
        return Err(Error::new("mount option \"passthrough\" is for a mirror that is mounted read-only")
            .hint("Add ro, or leave passthrough out."));
    }
    let Some(dir) = &dirs[source] else { return Ok(()) };
    let quiet = StatVfsMountFlags::NOATIME | StatVfsMountFlags::RDONLY;
    match rustix::fs::fstatvfs(dir.as_fd()) {
        Ok(says) if says.f_flag.intersects(quiet) => Ok(()),
        Ok(_) => {
            let path = dir.path().display();
            Err(Error::new(format!("reading {path} by \"passthrough\" would raise its files' access times")).hint(format!(
                "Mount the filesystem of leg {source} with noatime (mount -o remount,noatime), or leave passthrough out."
            )))
        }
        Err(cause) => Err(cannot_open(source, dir, cause.into())),
    }
}

/// A mirror keeps the chunk size it was made with; an option that says otherwise is a mistake.
fn check_chunk(request: &MountRequest, superblock: Option<&Superblock>) -> Result<()> {
    match (request.options.chunk, superblock) {
        (Some(wanted), Some(superblock)) if wanted != superblock.chunk_size => Err(Error::new(format!(
            "this mirror has chunks of {} bytes, not of {wanted} as chunk= says",
            superblock.chunk_size
        ))
        .hint("Leave chunk= out. The size is chosen by `mirrorfs create --chunk`.")),
        _ => Ok(()),
    }
}
