//! A new, empty directory that is to take the place of a leg, which is away or serves: looked at, judged,
//! locked, and given what makes it a leg. Nothing is changed in it before all that can be refused has been
//! looked at, and nothing is changed on the survivor here.
//!
//! ```text
//!   check        what it is, where it lies, whether it is empty and has room
//!   lock         its .mirrorfs; looked at once more
//!   bitmap       written in full, synced
//!   superblock   the target of a recovery that has not begun; refused alone, and with the survivor
//! ```
//!
//! A crash in between leaves a directory that is still fit to take that place.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::bitmap_files;
use super::open::{in_time, open_store, read_superblock};
use super::waits::{BackingLeg, Waits};
use crate::bitmap::{Bitmap, ChunkSize, PageStore};
use crate::cli::create::space;
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::timed::TimedPages;
use crate::legs::{LegId, PerLeg};
use crate::ops::{LegState, Returning};
use crate::owner::Owner;
use crate::shell::quoted;
use crate::superblock::{self, BitmapPlace, Found, Refusal, Superblock, Unfit};

/// The directory at `path` as the new `leg` of the mirror of which `survivor` is the other one, with its lock.
///
/// # Errors
/// It is not an empty directory, lies where no leg may, has no room, is in use, or cannot be written.
pub fn open(
    leg: LegId,
    path: &Path,
    survivor: (&Path, &Superblock),
    waits: &Waits,
) -> Result<(Returning<BackingLeg>, Owner)> {
    let (source, says) = (LegDir::open(survivor.0), survivor.1);
    let missing = |id, error: io::Error| {
        let paths = PerLeg::from_fn(|id| if id == leg { path } else { survivor.0 });
        Refusal::Missing(id, error.raw_os_error().unwrap_or(libc::EIO)).explain(&paths)
    };
    let dir = LegDir::open(path).map_err(|error| missing(leg, error))?;
    let source = source.map_err(|error| missing(leg.other(), error))?;
    let pair = if leg == LegId::A { PerLeg::new(&dir, &source) } else { PerLeg::new(&source, &dir) };
    layout::check_pair(pair)?;
    layout::check_outside_legs(leg, &dir)?;
    check_fit(leg, &dir, says)?;
    layout::check_writable(leg, &dir)?;
    let state_bytes = match says.bitmap_place {
        BitmapPlace::Leg => image(says)?.len() as u64,
        BitmapPlace::Elsewhere => 0,
    };
    if !layout::has_content(dir.as_fd()).map_err(|e| failed("read", leg, &dir, e))? {
        // Of what is there already a part will do.
        space::check_new(leg, &dir, &source, state_bytes)?;
    }
    make(leg, &dir, says, waits)
}

/// Everything after the checks: from here on the directory is changed.
fn make(
    leg: LegId,
    dir: &LegDir,
    says: &Superblock,
    waits: &Waits,
) -> Result<(Returning<BackingLeg>, Owner)> {
    let state = layout::make_state_dir(dir.as_fd()).map_err(|e| failed("make .mirrorfs on", leg, dir, e))?;
    let mut owner = Owner::exclusive(state.as_fd(), leg, dir.path())?;
    // Once more, now that nobody else can be doing the same.
    check_fit(leg, dir, says)?;
    owner.record();
    let bitmap = match says.bitmap_place {
        BitmapPlace::Leg => Some(bitmap_files::make_on_leg(leg, dir, &image(says)?)?),
        BitmapPlace::Elsewhere => None,
    };
    // ORDER: all is durable before the superblock says that there is a leg.
    rustix::fs::syncfs(&state).map_err(|e| failed("sync", leg, dir, e.into()))?;
    superblock::store::create(state.as_fd(), &says.new_peer())
        .map_err(|e| failed("write the superblock of", leg, dir, e))?;
    let Found::Leg { superblock, .. } = read_superblock(leg, dir)? else {
        return Err(Error::new(format!(
            "the superblock of leg {leg} at {} was written and is not there",
            dir.path().display()
        ))
        .hint("See in the system log what is wrong with that filesystem."));
    };
    let directory = waits.open(dir.path(), leg)?;
    let bitmap = bitmap.map(|store| timed(store, &directory)).transpose()?;
    let store = in_time(open_store(leg, dir, &superblock, false)?, &directory);
    let superblock = (superblock, store);
    Ok((Returning { leg, directory, superblock, bitmap, compare_all: true, is_new: true }, owner))
}

/// The bitmap's copy, waited for as its leg is.
fn timed(store: Box<dyn PageStore>, leg: &BackingLeg) -> Result<Box<dyn PageStore>> {
    let store = TimedPages::new(store, leg);
    Ok(Box::new(store.map_err(|cause| Error::new("there is no memory for a bitmap").because(cause))?))
}

fn image(says: &Superblock) -> Result<Vec<u8>> {
    let chunk = ChunkSize::new(says.chunk_size).ok_or_else(|| bitmap_files::bad_chunk(says.chunk_size))?;
    Ok(Bitmap::create_image(says.mirror, says.bitmap_slots, chunk))
}

fn check_fit(leg: LegId, dir: &LegDir, survivor: &Superblock) -> Result<()> {
    let has_files = layout::has_content(dir.as_fd()).map_err(|e| failed("read", leg, dir, e))?;
    superblock::fits(&read_superblock(leg, dir)?, has_files, survivor)
        .map_err(|unfit| unfit_is(leg, dir, unfit))
}

fn unfit_is(leg: LegId, dir: &LegDir, unfit: Unfit) -> Error {
    let path = dir.path().display();
    let what = |why: &str| Error::new(format!("{path} cannot take the place of leg {leg}: {why}"));
    let give_up = format!(
        "To give that up (its files stay, and must go as well): rm -r {}",
        quoted(dir.path().join(layout::STATE_DIR))
    );
    match unfit {
        Unfit::HasFiles => {
            what("it holds files").hint("Give an empty directory; what it holds is not touched.")
        }
        Unfit::IsTheLeg => what("it is that leg").hint(format!(
            "To take it back, with what it missed: mirrorfs re-add DIR {leg} {}",
            quoted(dir.path())
        )),
        Unfit::IsALeg(mirror) => what(&format!("it is, or was, a leg of mirror {mirror}")).hint(give_up),
        Unfit::Damaged([first, second]) => {
            what(&format!("it has a superblock that is damaged (slot 0 {first}, slot 1 {second})"))
                .hint(give_up)
        }
        Unfit::NewerVersion(version) => {
            what(&format!("it is a leg of a mirror of format version {version}")).hint(give_up)
        }
    }
}

/// Why a leg is not replaced that is neither away nor one of two that are up to date. `other` is how the other one is.
pub fn not_now(leg: LegId, state: LegState, other: LegState, mountpoint: &Path) -> Error {
    let at = quoted(mountpoint);
    let why = match state {
        LegState::Resyncing => format!("leg {leg} is being made equal"),
        _ => format!("leg {leg} is the only one that is up to date"),
    };
    Error::new(format!("{why}, and is not replaced now")).hint(match other {
        LegState::InSync => {
            format!("Wait for that: mirrorfs wait {at}; or take it out first: mirrorfs fail {at} {leg}")
        }
        LegState::Resyncing => format!("Wait for leg {}: mirrorfs wait {at}", leg.other()),
        LegState::Lost(_) => format!("Replace leg {} or take it back first, and wait for it.", leg.other()),
    })
}

fn failed(what: &str, leg: LegId, dir: &LegDir, error: io::Error) -> Error {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let error = Error::new(format!("cannot {what} leg {leg} at {}", dir.path().display())).because(error);
    error.hint(match full {
        true => "Make room there and run it again.",
        false => "See in the system log what is wrong with that filesystem, then run it again.",
    })
}
