//! `mirrorfs create`: makes two directories into a mirror.
//!
//! ```text
//!   check        both directories; nothing has been changed if this refuses
//!   lock         both legs' .mirrorfs
//!   copy         into .mirrorfs/incoming of the empty leg, then synced
//!   move         what was copied to where it belongs, then synced
//!   bitmap       written in full, synced
//!   superblocks  B's, then A's: from here on it is a mirror
//! ```
//!
//! A crash before the move leaves two directories that look as before: running it again starts over. One
//! during the move leaves the target with a mark that it holds copies only, and the next run says so.
//! One between the superblocks leaves one that has no peer and the mark "unfinished": running it again
//! replaces it.
//!
//! Never copies over a file, never deletes one that it has not made itself. What others change in
//! the source while it is copied may be missing: nobody may use it meanwhile.

pub(super) mod copy;
pub(crate) mod space;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::exit::{Exit, Failure};
use super::size;
use crate::bitmap::{self, Bitmap, ChunkSize, DEFAULT_SLOTS};
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::{LegId, PerLeg};
use crate::owner::Owner;
use crate::superblock::{self, BitmapPlace, Found, Geometry, Refusal, Superblock};
use crate::sys;

/// In `.mirrorfs` of both legs until both superblocks are written.
const UNFINISHED: &str = "unfinished";
/// In `.mirrorfs` of the leg that is being filled, while what was copied is moved into place.
const FILLING: &str = "filling";
/// In `.mirrorfs/incoming`: the copy of the source's root.
const COPIED: &str = "root";
/// In `.mirrorfs/incoming`: one name for each object with several, until all of them are made.
const LINKS: &str = "links";

/// Make two directories into a mirror
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Leg A: the one that is read when both are up to date.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Leg B.
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// The leg whose files are kept and copied to the other one, which must be empty.
    #[arg(long, value_name = "A|B", value_parser = size::leg)]
    pub source: Option<LegId>,
    /// How much one bit of the bitmap covers: a power of two from 64K to 1G.
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = size::chunk)]
    pub chunk: ChunkSize,
    /// Keep a single write-intent bitmap in FILE (on a fast disk) instead of one on each leg.
    #[arg(long, value_name = "FILE")]
    pub bitmap: Option<PathBuf>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The superblock of leg A.
    pub superblock: Superblock,
    /// The leg that was copied from, what there was, and the leg it was copied to.
    pub copied: Option<(LegId, copy::Copied)>,
    /// Legs whose lost+found holds something, which is not mirrored.
    pub left_alone: Vec<LegId>,
}

/// Makes the mirror and says so.
pub(super) fn run(args: &Args) -> std::result::Result<Exit, Failure> {
    let made = create(args)?;
    let mut out = io::stdout().lock();
    // Whether anybody reads this does not change what has been made.
    let _ = report(&mut out, args, &made);
    Ok(Exit::Success)
}

fn report(out: &mut impl Write, args: &Args, made: &Made) -> io::Result<()> {
    writeln!(out, "Mirror {} made of", made.superblock.mirror)?;
    writeln!(out, "  leg A  {}", args.a.display())?;
    writeln!(out, "  leg B  {}", args.b.display())?;
    if let Some((source, copied)) = &made.copied {
        let (objects, bytes) = (copied.objects, size::human(copied.bytes));
        let plural = if objects == 1 { "" } else { "s" };
        writeln!(
            out,
            "Copied {objects} object{plural}, {bytes}, from leg {source} to leg {}.",
            source.other()
        )?;
    }
    for leg in &made.left_alone {
        writeln!(
            out,
            "Note: lost+found of leg {leg} holds files. It is not mirrored, and hidden while mounted."
        )?;
    }
    let option =
        args.bitmap.as_ref().map(|file| format!(" -o bitmap={}", file.display())).unwrap_or_default();
    writeln!(out, "To mount it: mirrorfs mount {} {} MOUNTPOINT{option}", args.a.display(), args.b.display())
}

/// Makes the mirror.
pub fn create(args: &Args) -> Result<Made> {
    let paths = PerLeg::new(args.a.as_path(), args.b.as_path());
    let legs = PerLeg::from_fn(|leg| open(leg, &paths)).transpose()?;
    layout::check_pair(legs.as_ref())?;
    for (leg, dir) in legs.iter() {
        layout::check_writable(leg, dir)?;
    }
    if let Some(file) = &args.bitmap {
        for (leg, dir) in legs.iter() {
            layout::check_bitmap_file(leg, dir, file)?;
        }
    }
    let source = choose_source(args, &legs, &paths)?;
    let geometry = Geometry {
        chunk_size: args.chunk.bytes(),
        bitmap_slots: DEFAULT_SLOTS,
        bitmap_place: if args.bitmap.is_some() { BitmapPlace::Elsewhere } else { BitmapPlace::Leg },
    };
    let superblocks = Superblock::new_pair(geometry);
    let image = Bitmap::create_image(superblocks[LegId::A].mirror, DEFAULT_SLOTS, args.chunk);
    space::check(&legs, source, image.len() as u64)?;
    make(args, &legs, source, superblocks, &image)
}

fn open(leg: LegId, paths: &PerLeg<&Path>) -> Result<LegDir> {
    LegDir::open(paths[leg])
        .map_err(|e| Refusal::Missing(leg, e.raw_os_error().unwrap_or(libc::EIO)).explain(paths))
}

/// Everything after the checks: from here on the legs are changed.
fn make(
    args: &Args,
    legs: &PerLeg<LegDir>,
    source: LegId,
    superblocks: PerLeg<Superblock>,
    image: &[u8],
) -> Result<Made> {
    let roots =
        PerLeg::from_fn(|leg| legs[leg].view().map_err(|e| failed("open", leg, legs, e))).transpose()?;
    // Making .mirrorfs changes the times of the source's root, which the mirror is to keep.
    let times = copy::times_of(roots[source].as_fd()).map_err(|e| failed("read", source, legs, e))?;
    let state = PerLeg::from_fn(|leg| {
        layout::make_state_dir(roots[leg].as_fd()).map_err(|e| failed("make .mirrorfs on", leg, legs, e))
    })
    .transpose()?;
    let mut owners =
        PerLeg::from_fn(|leg| Owner::exclusive(state[leg].as_fd(), leg, legs[leg].path())).transpose()?;
    // Once more, now that nobody else can be doing the same.
    let paths = PerLeg::from_fn(|leg| legs[leg].path());
    if choose_source(args, legs, &paths)? != source {
        return Err(Error::new("the legs have changed while they were being looked at").hint("Run it again."));
    }
    LegId::ALL.into_iter().for_each(|leg| owners[leg].record());
    for (leg, dir) in state.iter() {
        mark(dir, UNFINISHED)
            .and_then(|()| superblock::store::remove(dir.as_fd()))
            .map_err(|e| failed("prepare", leg, legs, e))?;
    }
    let copied = fill(legs, source, &roots, &state)?;
    copy::root_metadata(&roots[source], &roots[source.other()], &times)
        .map_err(|e| failed("finish", source.other(), legs, e))?;
    copy::set_times(roots[source].as_fd(), &times).map_err(|e| failed("finish", source, legs, e))?;
    write_bitmaps(args, legs, &state, image)?;
    for leg in [LegId::B, LegId::A] {
        // ORDER: everything is durable before the superblock says that there is a mirror.
        rustix::fs::syncfs(&roots[leg]).map_err(|e| failed("sync", leg, legs, e.into()))?;
        superblock::store::create(state[leg].as_fd(), &superblocks[leg])
            .map_err(|e| failed("write the superblock of", leg, legs, e))?;
    }
    for (_, dir) in state.iter() {
        for name in [UNFINISHED, FILLING] {
            // The superblocks are there: what the marks say does not matter any more.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    }
    let left_alone = LegId::ALL.into_iter().filter(|&leg| lost_and_found(roots[leg].as_fd())).collect();
    let copied = (copied.objects > 0).then_some((source, copied));
    Ok(Made { superblock: superblocks[LegId::A].clone(), copied, left_alone })
}

/// Copies what the source holds, first aside and then into place.
fn fill(
    legs: &PerLeg<LegDir>,
    source: LegId,
    roots: &PerLeg<OwnedFd>,
    state: &PerLeg<OwnedFd>,
) -> Result<copy::Copied> {
    let target = source.other();
    let on_target = |e| failed("prepare", target, legs, e);
    let incoming = layout::open_dir_below(state[target].as_fd(), layout::INCOMING).map_err(on_target)?;
    copy::empty(&incoming).map_err(on_target)?;
    let [copied_root, links] = [COPIED, LINKS].map(|name| {
        rustix::fs::mkdirat(&incoming, name, Mode::RWXU)?;
        layout::open_dir_below(incoming.as_fd(), name)
    });
    let (copied_root, links) = (copied_root.map_err(on_target)?, links.map_err(on_target)?);
    let copied = copy::Copier::new(target, links).tree(&roots[source], &copied_root)?;
    rustix::fs::syncfs(&copied_root).map_err(|e| failed("sync", target, legs, e.into()))?;
    if copied.objects > 0 {
        move_into_place(&copied_root, &roots[target], &state[target])
            .map_err(|e| failed("fill", target, legs, e))?;
    }
    copy::empty(&incoming).map_err(on_target)?;
    Ok(copied)
}

fn move_into_place(from: &OwnedFd, root: &OwnedFd, state: &OwnedFd) -> io::Result<()> {
    // ORDER: marked before anything is moved, so that what is found in the leg after a crash is known to
    // be copies.
    mark(state, FILLING)?;
    for name in copy::names_in(from.as_fd())? {
        sys::file::rename_to_free((from.as_fd(), &name), (root.as_fd(), &name))?;
    }
    Ok(())
}

/// Durable when it returns.
fn mark(state: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(state, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(rustix::fs::fsync(state)?)
}

fn is_marked(leg: &LegDir, name: &str) -> bool {
    let mark =
        leg.state_dir().and_then(|state| Ok(rustix::fs::statat(state, name, AtFlags::SYMLINK_NOFOLLOW)?));
    mark.is_ok()
}

fn write_bitmaps(args: &Args, legs: &PerLeg<LegDir>, state: &PerLeg<OwnedFd>, image: &[u8]) -> Result<()> {
    if let Some(path) = &args.bitmap {
        let what = || Error::new(format!("cannot write the bitmap {}", path.display()));
        if path.exists() {
            return Err(what()
                .because(rustix::io::Errno::EXIST.into())
                .hint("Remove it if it belongs to no mirror any more, or name another file."));
        }
        bitmap::FileStore::create(rustix::fs::CWD, path, image).map_err(|e| what().because(e))?;
        return Ok(());
    }
    for (leg, dir) in state.iter() {
        bitmap::FileStore::create(dir, Path::new(layout::BITMAP), image)
            .map_err(|e| failed("write the bitmap of", leg, legs, e))?;
    }
    Ok(())
}

fn lost_and_found(root: BorrowedFd<'_>) -> bool {
    let names = layout::open_dir_below(root, layout::LOST_FOUND).and_then(|dir| copy::names_in(dir.as_fd()));
    names.is_ok_and(|names| !names.is_empty())
}

/// Which leg is copied from, if these two may become a mirror at all. Changes nothing.
fn choose_source(args: &Args, legs: &PerLeg<LegDir>, paths: &PerLeg<&Path>) -> Result<LegId> {
    refuse_existing(legs, paths)?;
    let content = PerLeg::from_fn(|leg| {
        layout::has_content(legs[leg].as_fd()).map_err(|e| failed("read", leg, legs, e))
    })
    .transpose()?;
    let with_content = match (content[LegId::A], content[LegId::B]) {
        (false, false) => return Ok(args.source.unwrap_or(LegId::A)),
        (true, true) => return Err(both_have_content(legs, paths)),
        (true, false) => LegId::A,
        (false, true) => LegId::B,
    };
    let (full, empty) = (with_content, with_content.other());
    let has_files = format!("leg {full} at {} has files", paths[full].display());
    match args.source {
        Some(source) if source == full => Ok(full),
        None => Err(Error::new(format!("{has_files} and leg {empty} has none"))
            .hint(format!("To copy them to leg {empty}, add: --source {full}"))),
        Some(_) => {
            Err(Error::new(format!("{has_files}, but the source is to be leg {empty}, which is empty"))
                .hint(format!("Use --source {full}, or empty leg {full} first.")))
        }
    }
}

fn both_have_content(legs: &PerLeg<LegDir>, paths: &PerLeg<&Path>) -> Error {
    for (leg, dir) in legs.iter() {
        if is_marked(dir, FILLING) {
            return Error::new(format!(
                "leg {leg} at {} holds copies from a create that was interrupted",
                paths[leg].display()
            ))
            .hint(format!(
                "Remove all but .mirrorfs from it, then run this again with --source {}.",
                leg.other()
            ));
        }
    }
    Error::new(format!("both {} and {} have files", paths[LegId::A].display(), paths[LegId::B].display()))
        .hint(
            "Empty one of them (see what differs with: mirrorfs compare), then name the other with --source.",
        )
}

/// A leg of a mirror is not made into another one, unless it has no peer because a create was
/// interrupted.
fn refuse_existing(legs: &PerLeg<LegDir>, paths: &PerLeg<&Path>) -> Result<()> {
    let found = PerLeg::from_fn(|leg| {
        superblock::store::read(legs[leg].as_fd()).map_err(|e| failed("read", leg, legs, e))
    })
    .transpose()?;
    for (leg, this) in found.iter() {
        let peer_missing = matches!(found[leg.other()], Found::Empty | Found::NotAMirror);
        match this {
            Found::Empty | Found::NotAMirror => {}
            Found::Leg { superblock, .. }
                if superblock.events == 1 && peer_missing && is_marked(&legs[leg], UNFINISHED) => {}
            Found::Leg { superblock, .. } => {
                return Err(Error::new(format!(
                    "leg {leg} at {} is a leg of mirror {} already",
                    paths[leg].display(),
                    superblock.mirror
                ))
                .hint(format!(
                    "Mount it with its peer. To give that mirror up (its files stay): rm -r {}/{}",
                    paths[leg].display(),
                    layout::STATE_DIR
                )));
            }
            Found::Missing(errno) => return Err(Refusal::Missing(leg, *errno).explain(paths)),
            Found::Damaged(slots) => return Err(Refusal::Damaged(leg, slots.clone()).explain(paths)),
            Found::NewerVersion(version) => return Err(Refusal::NewerVersion(leg, *version).explain(paths)),
        }
    }
    Ok(())
}

fn failed(what: &str, leg: LegId, legs: &PerLeg<LegDir>, error: io::Error) -> Error {
    let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let error =
        Error::new(format!("cannot {what} leg {leg} at {}", legs[leg].path().display())).because(error);
    if full { error.hint("Make room there and run it again.") } else { error }
}
