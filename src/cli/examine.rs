//! `mirrorfs examine LEG`: what a leg that is not mounted says of itself.
//!
//! Changes nothing. Says what a mount would find, of this leg alone: which leg would be the source is
//! decided by both together.

mod dirty;
mod text;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};
use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::bitmap::{ChunkSize, CopyId, Expect, Loaded};
use crate::daemon::waiting;
use crate::error::{Error, Result, errno};
use crate::layout::{self, LegDir};
use crate::legs::LegId;
use crate::owner::Owner;
use crate::superblock::{self, BitmapPlace, Found, PeerState, SlotFault, Superblock};

/// The version of the JSON: raised when a key changes its meaning.
const JSON_VERSION: u32 = 1;

/// Show what a leg that is not mounted says about its mirror
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The leg
    #[arg(value_name = "LEG")]
    pub leg: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// All there is to say of a leg.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    path: String,
    mirror: String,
    leg: String,
    peer: String,
    role: char,
    /// clean, unclean, resync unfinished
    state: &'static str,
    clean: bool,
    generation: String,
    ancestors: Vec<String>,
    events: u64,
    events_cleared: u64,
    /// in sync, stale, recovering
    peer_state: &'static str,
    peer_stale_since_events: Option<u64>,
    peer_errno: Option<i32>,
    resync_source: Option<char>,
    chunk_size: u64,
    /// What is wrong with one of the two superblock slots.
    damaged_slot: Option<String>,
    bitmap: Bitmap,
}

/// What the leg's copy of the bitmap says.
#[derive(Debug, Serialize)]
pub struct Bitmap {
    /// leg or elsewhere
    place: &'static str,
    slots: u32,
    /// good, or what is wrong with it; nothing when it is elsewhere.
    verdict: Option<String>,
    /// Everything would be compared: the copy does not tell all.
    compare_all: bool,
    dirty: Vec<dirty::Dirty>,
}

/// Prints the report.
pub(super) fn run(args: &Args) -> std::result::Result<Exit, Failure> {
    let report = examine(&args.leg)?;
    if args.json {
        let json = serde_json::to_string_pretty(&report)
            .map_err(|e| Error::new("cannot write the report").because(e.into()))?;
        super::print(&format!("{json}\n"))?;
    } else {
        super::print(&text::report(&report))?;
    }
    Ok(Exit::Success)
}

fn read_superblock(leg: &LegDir, path: &Path) -> Result<(Superblock, Option<SlotFault>)> {
    match superblock::store::read(leg.as_fd()).map_err(|e| cannot(path).because(e))? {
        Found::Leg { superblock, damaged_slot } => Ok((superblock, damaged_slot)),
        other => Err(not_a_leg(path, other)),
    }
}

/// Reads a leg. An error when it is none, or is in use.
pub fn examine(path: &Path) -> Result<Report> {
    let leg = LegDir::open(path).map_err(|e| cannot(path).because(e).hint("Check the path."))?;
    read_superblock(&leg, path)?;
    let state_dir = leg.state_dir().map_err(|e| cannot(path).because(e))?;
    let _owner = waiting::own(path, || Owner::shared(state_dir.as_fd(), path))?;
    // What was read before the lock was held may have been changed by the last owner since.
    let (superblock, damaged_slot) = read_superblock(&leg, path)?;
    let bitmap = read_bitmap(&leg, state_dir.as_fd(), &superblock).map_err(|e| cannot(path).because(e))?;
    let (since, peer_errno) = match superblock.peer_state {
        PeerState::Stale { since_events, errno } => (Some(since_events), Some(errno)),
        PeerState::InSync | PeerState::Recovering => (None, None),
    };
    Ok(Report {
        version: JSON_VERSION,
        path: path.display().to_string(),
        mirror: superblock.mirror.to_string(),
        leg: superblock.leg.to_string(),
        peer: superblock.peer.to_string(),
        role: letter(superblock.role),
        state: state_of(&superblock),
        clean: superblock.clean,
        generation: hex(superblock.generation),
        ancestors: superblock.ancestors.iter().filter(|&&one| one != 0).map(|&one| hex(one)).collect(),
        events: superblock.events,
        events_cleared: superblock.events_cleared,
        peer_state: match superblock.peer_state {
            PeerState::InSync => "in sync",
            PeerState::Stale { .. } => "stale",
            PeerState::Recovering => "recovering",
        },
        peer_stale_since_events: since,
        peer_errno,
        resync_source: superblock.source.map(letter),
        chunk_size: superblock.chunk_size,
        damaged_slot: damaged_slot.map(|fault| fault.to_string()),
        bitmap,
    })
}

fn state_of(superblock: &Superblock) -> &'static str {
    match (superblock.source, superblock.clean) {
        (Some(_), _) => "resync unfinished",
        (None, true) => "clean",
        (None, false) => "unclean",
    }
}

fn read_bitmap(leg: &LegDir, state_dir: BorrowedFd<'_>, superblock: &Superblock) -> io::Result<Bitmap> {
    let slots = superblock.bitmap_slots;
    if superblock.bitmap_place == BitmapPlace::Elsewhere {
        let (place, verdict) = ("elsewhere", None);
        return Ok(Bitmap { place, slots, verdict, compare_all: false, dirty: Vec::new() });
    }
    let chunk = ChunkSize::new(superblock.chunk_size).ok_or_else(|| errno(libc::EINVAL))?;
    let expect = Expect { mirror: superblock.mirror, slots, chunk, file: uuid::Uuid::nil(), stale: None };
    let loaded = Loaded::from_images(vec![(CopyId::Leg(superblock.role), read_image(state_dir))], &expect);
    let verdict = loaded.verdicts.first().map(|(_, verdict)| verdict.to_string());
    let dirty = dirty::describe(leg, superblock.role, chunk, &loaded.dirty())?;
    Ok(Bitmap { place: "leg", slots, verdict, compare_all: loaded.compare_all, dirty })
}

/// The bitmap file for reading only, so that this works on a leg that is mounted read-only.
pub(super) fn read_image(state_dir: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(state_dir, layout::BITMAP, flags, Mode::empty())?);
    let len = file.metadata()?.len();
    if rustix::fs::seek(&file, SeekFrom::Hole(0)).is_ok_and(|hole| hole < len) {
        return Err(errno(libc::EUCLEAN));
    }
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    let mut image = Vec::new();
    file.read_to_end(&mut image)?;
    Ok(image)
}

fn not_a_leg(path: &Path, found: Found) -> Error {
    match found {
        Found::Damaged([first, second]) => cannot(path).hint(format!(
            "Its superblock is damaged: slot 0 {first}, slot 1 {second}. Restore it from a backup."
        )),
        Found::NewerVersion(version) => Error::new(format!(
            "{} has format version {version}; this mirrorfs knows versions up to {}",
            path.display(),
            superblock::VERSION
        ))
        .hint("Use the newer mirrorfs that wrote it."),
        _ => Error::new(format!("{} is not a leg of a mirror", path.display()))
            .hint("A leg has a .mirrorfs directory. Is the disk that belongs there mounted?"),
    }
}

fn cannot(path: &Path) -> Error {
    Error::new(format!("cannot examine {}", path.display()))
}

fn letter(leg: LegId) -> char {
    match leg {
        LegId::A => 'A',
        LegId::B => 'B',
    }
}

fn hex(generation: u64) -> String {
    format!("{generation:016x}")
}
