//! A leg that comes back while its mirror is mounted: looked at, judged, locked and opened. Nothing on
//! either leg is changed here, but for the bitmap's file, which is made anew if it is damaged.

use std::os::fd::AsFd;
use std::path::Path;

use super::bitmap_files;
use super::events::Events;
use super::open::{in_time, open_store, own, read_superblock, refused, tell_of_comparing};
use super::service::StartError;
use super::waits::{BackingLeg, Waits};
use crate::bitmap::PageStore;
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::timed::TimedPages;
use crate::legs::{LegId, PerLeg};
use crate::ops::Returning;
use crate::owner::Owner;
use crate::superblock::{self, BitmapPlace, Found, Plan, Refusal, Superblock, Work};

/// The leg that is at `path`, ready to be taken in by the mirror of which `survivor` is the other leg, with
/// its lock.
///
/// # Errors
/// What is there is not this leg, has changed without the other one, is in use, or cannot be opened.
pub fn open(
    leg: LegId,
    path: &Path,
    survivor: (&Path, &Superblock),
    waits: &Waits,
    events: &Events,
) -> Result<(Returning<BackingLeg>, Owner)> {
    let paths = PerLeg::from_fn(|id| if id == leg { path } else { survivor.0 });
    let refuse = |refusal: Refusal| refused(&refusal, &paths, events);
    let dir = LegDir::open(path)
        .map_err(|error| refuse(Refusal::Missing(leg, error.raw_os_error().unwrap_or(libc::EIO))))?;
    let other = LegDir::open(survivor.0)
        .map_err(|error| refuse(Refusal::Missing(leg.other(), error.raw_os_error().unwrap_or(libc::EIO))))?;
    layout::check_pair(if leg == LegId::A { PerLeg::new(&dir, &other) } else { PerLeg::new(&other, &dir) })?;
    judge(leg, read_superblock(leg, &dir)?, survivor.1).map_err(refuse)?;
    layout::check_writable(leg, &dir)?;
    let mut owner = own(leg, &dir, false).map_err(|refused| match refused {
        StartError::Held { error, .. } | StartError::Failed(error) => error,
    })?;
    // What was read before the lock was held may have been changed since.
    let (superblock, plan) = judge(leg, read_superblock(leg, &dir)?, survivor.1).map_err(refuse)?;
    let directory = waits.open(path, leg)?;
    let bitmap = match survivor.1.bitmap_place {
        BitmapPlace::Leg => {
            let store = TimedPages::new(bitmap_files::to_be_filled(leg, &dir, &superblock)?, &directory);
            let store =
                store.map_err(|cause| Error::new("there is no memory for a bitmap").because(cause))?;
            Some(Box::new(store) as Box<dyn PageStore>)
        }
        BitmapPlace::Elsewhere => None,
    };
    let store = in_time(open_store(leg, &dir, &superblock, false)?, &directory);
    owner.record();
    let compare_all = plan.work == Work::CompareAll;
    if compare_all {
        tell_of_comparing(leg);
    }
    let superblock = (superblock, store);
    Ok((Returning { leg, directory, superblock, bitmap, compare_all, is_new: false }, owner))
}

/// Whether what was found at a path is the leg that the other one goes on without.
pub fn is_it(leg: LegId, path: &Path, survivor: &Superblock) -> bool {
    let Ok(dir) = LegDir::open(path) else { return false };
    superblock::store::read(dir.as_fd()).is_ok_and(|found| judge(leg, found, survivor).is_ok())
}

fn judge(
    leg: LegId,
    found: Found,
    survivor: &Superblock,
) -> std::result::Result<(Superblock, Plan), Refusal> {
    let other = Found::Leg { superblock: survivor.clone(), damaged_slot: None };
    let both = match leg {
        LegId::A => PerLeg::new(found, other),
        LegId::B => PerLeg::new(other, found),
    };
    let plan = superblock::plan(&both)?;
    match &both[leg] {
        Found::Leg { superblock, .. } if plan.stale == Some(leg) => Ok((superblock.clone(), plan)),
        _ => Err(Refusal::NotPeers),
    }
}

/// For an error of the mirror when it takes the leg in.
pub fn not_taken(leg: LegId, cause: std::io::Error) -> Error {
    let hint = match cause.raw_os_error() {
        Some(libc::EBUSY) => "It is not away: \"mirrorfs status\" shows it.",
        Some(libc::EROFS) => "The mirror is read-only: unmount it, see to the legs and mount it again.",
        _ => "See to that leg's disk and try again; nothing has been lost.",
    };
    Error::new(format!("leg {leg} cannot be taken in")).because(cause).hint(hint)
}
