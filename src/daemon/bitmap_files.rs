//! Which bitmap files a mount uses: the legs' own, or the one that `-o bitmap=FILE` names.
//!
//! | superblock says | `bitmap=` | done |
//! |---|---|---|
//! | on the legs | no | the two copies; one that is damaged is made anew from the union |
//! | on the legs | FILE | FILE is made from the union of the two copies, and used from now on |
//! | elsewhere | FILE | FILE; one that is damaged, or not the one in use last, is made anew, and everything is compared |
//! | elsewhere | no | after a clean unmount the legs' copies are made anew; otherwise refused |
//! | one this, one that | | as "on the legs": a crash while the place was being changed |
//!
//! A file elsewhere can be an old one: a copy, or the one in use before. So it has an identity, which the
//! superblocks name; it is renewed whenever nothing is dirty, and what they do not name tells nothing.
//!
//! ORDER: a new place is filled, durably, before the superblocks name it, and nothing is marked
//! before they do. A crash in between leaves the old place with all its bits.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::waits::BackingLeg;
use crate::bitmap::{Bitmap, ChunkSize, Copies, CopyId, Expect, FileStore, Loaded, PageStore, Verdict};
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::timed::TimedPages;
use crate::legs::{LegId, PerLeg};
use crate::superblock::{BitmapPlace, Plan, Superblock, Work};

/// Where the bitmap is, and for whom.
pub struct Files<'a> {
    /// The directories of the legs that are there.
    pub dirs: &'a PerLeg<Option<LegDir>>,
    /// What `bitmap=` named.
    pub elsewhere: Option<&'a Path>,
    /// Nothing may be written.
    pub read_only: bool,
    /// What the legs say.
    pub plan: Plan,
    /// The legs that are there, by which their copies are waited for.
    pub legs: &'a PerLeg<Option<Arc<BackingLeg>>>,
}

impl Files<'_> {
    fn path(&self, leg: LegId) -> &Path {
        self.dirs[leg].as_ref().map_or(Path::new("nowhere"), LegDir::path)
    }

    fn open(&self, dir: impl AsFd, name: &Path) -> std::io::Result<FileStore> {
        if self.read_only { FileStore::open_to_read(dir, name) } else { FileStore::open(dir, name) }
    }

    /// The copies on the legs, each waited for as its leg is.
    fn timed(&self, copies: Copies) -> std::io::Result<Copies> {
        let Copies::PerLeg(mut stores) = copies else { return Ok(copies) };
        for leg in LegId::ALL {
            if let (Some(store), Some(leg_there)) = (stores[leg].take(), &self.legs[leg]) {
                stores[leg] = Some(Box::new(TimedPages::new(store, leg_there)?));
            }
        }
        Ok(Copies::PerLeg(stores))
    }
}

/// The bitmap, ready to be marked in, and whether everything has to be compared because it does not
/// tell all. `superblocks` is changed to name the place.
pub fn open(files: &Files<'_>, superblocks: &mut PerLeg<Option<Superblock>>) -> Result<Bitmap> {
    let source = files.plan.source;
    let says = superblocks[source].clone().ok_or_else(|| Error::new("the source has no superblock"))?;
    let chunk = ChunkSize::new(says.chunk_size).ok_or_else(|| bad_chunk(says.chunk_size))?;
    let stale = files.plan.stale;
    let expect =
        Expect { mirror: says.mirror, slots: says.bitmap_slots, chunk, file: says.bitmap_file, stale };
    // What was left behind does not know where the bitmap is by now.
    let other = superblocks[source.other()].as_ref().filter(|_| stale != Some(source.other()));
    let other = other.map_or(says.bitmap_place, |other| other.bitmap_place);
    // A crash while the place was being changed, in either direction: nothing has been marked since,
    // and the legs' copies are complete.
    let was = if says.bitmap_place == other { says.bitmap_place } else { BitmapPlace::Leg };
    let (copies, mut loaded) = match (was, files.elsewhere) {
        (BitmapPlace::Leg, None) => on_the_legs(files, &expect)?,
        (BitmapPlace::Elsewhere, Some(file)) => elsewhere(files, file, &expect)?,
        (BitmapPlace::Leg, Some(file)) => move_out(files, file, &expect)?,
        (BitmapPlace::Elsewhere, None) => move_in(files, &expect)?,
    };
    let nothing_is_dirty = files.plan.work == Work::Nothing || was == BitmapPlace::Leg;
    if files.elsewhere.is_some() && nothing_is_dirty && !files.read_only {
        loaded.renew();
    }
    let of_a_leg_that_is_there = |copy: &CopyId| match copy {
        CopyId::Leg(leg) => files.dirs[*leg].is_some(),
        CopyId::Single => true,
    };
    let bad = loaded.verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::Good);
    for (copy, verdict) in bad.filter(|(copy, _)| of_a_leg_that_is_there(copy)) {
        let then =
            if files.read_only { "nothing is changed by a read-only mount" } else { "it is made anew" };
        log::warn!("{copy}: {verdict}; {then}");
    }
    if loaded.compare_all {
        let when = if files.read_only { " by the next mount that may change them" } else { "" };
        log::warn!("no copy of the bitmap tells everything: all files are compared{when}");
    }
    let place = if files.elsewhere.is_some() { BitmapPlace::Elsewhere } else { BitmapPlace::Leg };
    for leg in LegId::ALL {
        if let Some(superblock) = &mut superblocks[leg] {
            superblock.bitmap_place = place;
            superblock.bitmap_file = loaded.file();
        }
    }
    // A mount that must not change anything gives the bitmap nowhere to write.
    let copies =
        if files.read_only { Ok(Copies::PerLeg(PerLeg::new(None, None))) } else { files.timed(copies) };
    copies.and_then(|copies| Bitmap::new(copies, loaded, source)).map_err(|cause| {
        Error::new("cannot write the bitmap")
            .because(cause)
            .hint("Look after the disk it lies on; nothing has been lost.")
    })
}

pub(super) fn bad_chunk(bytes: u64) -> Error {
    Error::new(format!("the superblock names an impossible chunk size of {bytes} bytes")).hint(
        "It was not written by mirrorfs. Keep both legs as they are and compare them: mirrorfs compare A B",
    )
}

fn on_the_legs(files: &Files<'_>, expect: &Expect) -> Result<(Copies, Loaded)> {
    let expect = &Expect { file: Uuid::nil(), ..*expect };
    let stores = PerLeg::from_fn(|leg| leg_store(files, leg));
    let copies = Copies::PerLeg(stores);
    let loaded = copies.load(expect);
    for (copy, verdict) in &loaded.verdicts {
        if let (CopyId::Leg(leg), Verdict::Newer { version }) = (copy, verdict) {
            return Err(newer(
                &format!("the bitmap of leg {leg} at {}", files.path(*leg).display()),
                *version,
            ));
        }
    }
    if files.read_only || loaded.verdicts.iter().all(|(_, verdict)| is_usable(*verdict)) {
        return Ok((copies, loaded));
    }
    let Copies::PerLeg(mut stores) = copies else { return Ok((copies, loaded)) };
    for (copy, verdict) in &loaded.verdicts {
        if let (CopyId::Leg(leg), false) = (copy, is_usable(*verdict))
            && let Some(dir) = &files.dirs[*leg]
        {
            stores[*leg] = Some(make_on_leg(*leg, dir, &loaded.image())?);
        }
    }
    Ok((Copies::PerLeg(stores), loaded))
}

/// Whether a file can be brought up to date in place: it has its length and no holes.
fn is_usable(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Good
            | Verdict::Outdated
            | Verdict::DamagedHeader
            | Verdict::DamagedSlot(_)
            | Verdict::Foreign { .. }
    )
}

fn leg_store(files: &Files<'_>, leg: LegId) -> Option<Box<dyn PageStore>> {
    let state = files.dirs[leg].as_ref()?.state_dir();
    match state.and_then(|state| files.open(state, Path::new(layout::BITMAP))) {
        Ok(store) => Some(Box::new(store)),
        Err(error) => {
            log::warn!("bitmap on leg {leg}: {error}");
            None
        }
    }
}

/// A copy of the bitmap on a leg, in place of one that may be there.
pub(super) fn make_on_leg(leg: LegId, dir: &LegDir, image: &[u8]) -> Result<Box<dyn PageStore>> {
    dir.state_dir()
        .and_then(|state| FileStore::create(state, Path::new(layout::BITMAP), image))
        .map(|store| Box::new(store) as Box<dyn PageStore>)
        .map_err(|cause| {
            Error::new(format!("cannot make the bitmap of leg {leg} anew at {}", dir.path().display()))
                .because(cause)
                .hint("Look after that disk, and whether it has room.")
        })
}

/// The file for a leg's copy that is about to be written as a whole: the one that is there if it has its
/// length and no holes, else a new one.
pub fn to_be_filled(leg: LegId, dir: &LegDir, superblock: &Superblock) -> Result<Box<dyn PageStore>> {
    let chunk = ChunkSize::new(superblock.chunk_size).ok_or_else(|| bad_chunk(superblock.chunk_size))?;
    let image = Bitmap::create_image(superblock.mirror, superblock.bitmap_slots, chunk);
    let there = dir.state_dir().and_then(|state| FileStore::open(state, Path::new(layout::BITMAP)));
    match there.and_then(|store| Ok((store.read_all()?.len() == image.len(), store))) {
        Ok((true, store)) => Ok(Box::new(store)),
        _ => make_on_leg(leg, dir, &image),
    }
}

/// The file that `bitmap=` names, checked not to lie where the mount could reach it.
fn parent_of(files: &Files<'_>, file: &Path) -> Result<(OwnedFd, PathBuf)> {
    for (leg, dir) in files.dirs.iter().filter_map(|(leg, dir)| Some((leg, dir.as_ref()?))) {
        layout::check_bitmap_file(leg, dir, file)?;
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or_else(|| {
        Error::new(format!("bitmap={} does not name a file", file.display())).hint("Give the path of a file.")
    })?;
    let dir = LegDir::open(parent).map_err(|cause| {
        Error::new(format!("cannot open {}, where bitmap= says the bitmap is", parent.display()))
            .because(cause)
    })?;
    let dir = dir.as_fd().try_clone_to_owned().map_err(|cause| Error::new("cannot go on").because(cause))?;
    Ok((dir, PathBuf::from(name)))
}

fn locked(store: FileStore, file: &Path) -> Result<FileStore> {
    store.lock().map_err(|cause| {
        Error::new(format!("cannot have {} for this mirror alone", file.display()))
            .because(cause)
            .hint("Another mirror uses it, or its filesystem has no locks. Each mirror needs a bitmap file of its own.")
    })?;
    Ok(store)
}

fn elsewhere(files: &Files<'_>, file: &Path, expect: &Expect) -> Result<(Copies, Loaded)> {
    let (dir, name) = parent_of(files, file)?;
    let clean = files.plan.work == Work::Nothing;
    let store = match files.open(&dir, &name) {
        Ok(store) => locked(store, file)?,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) && clean && !files.read_only => {
            let image = Bitmap::create_image(expect.mirror, expect.slots, expect.chunk);
            locked(make_elsewhere(&dir, &name, file, &image)?, file)?
        }
        Err(cause) => {
            return Err(cannot_open(file, cause));
        }
    };
    let copies = Copies::Single(Box::new(store));
    let loaded = copies.load(expect);
    refuse_foreign(&loaded, file)?;
    if loaded.may_be_other_data() {
        return Err(not_ours(file));
    }
    if clean && !files.read_only && matches!(loaded.verdicts.first(), Some((_, Verdict::Outdated))) {
        // Nothing is dirty, so what an old one says does not matter.
        let image = Bitmap::create_image(expect.mirror, expect.slots, expect.chunk);
        let copies = Copies::Single(Box::new(locked(make_elsewhere(&dir, &name, file, &image)?, file)?));
        let loaded = copies.load(&Expect { file: Uuid::nil(), ..*expect });
        return Ok((copies, loaded));
    }
    if files.read_only || loaded.verdicts.iter().all(|(_, verdict)| is_usable(*verdict)) {
        return Ok((copies, loaded));
    }
    let store = locked(make_elsewhere(&dir, &name, file, &loaded.image())?, file)?;
    Ok((Copies::Single(Box::new(store)), loaded))
}

fn refuse_foreign(loaded: &Loaded, file: &Path) -> Result<()> {
    for (_, verdict) in &loaded.verdicts {
        match verdict {
            Verdict::Foreign { mirror } => {
                return Err(Error::new(format!(
                    "{} is the bitmap of another mirror ({mirror})",
                    file.display()
                ))
                .hint("Name this mirror's own file; `mirrorfs examine` of a leg shows which mirror it is."));
            }
            Verdict::Newer { version } => {
                return Err(newer(&file.display().to_string(), *version));
            }
            _ => {}
        }
    }
    Ok(())
}

fn cannot_open(file: &Path, cause: std::io::Error) -> Error {
    let hint = match cause.raw_os_error() {
        Some(libc::ELOOP) => "It is a symbolic link. Name the file itself.",
        Some(libc::EINVAL) => "Name a regular file.",
        _ => "Check the path. If the file is lost, make an empty one there: everything is then compared.",
    };
    Error::new(format!("cannot open the bitmap {}", file.display())).because(cause).hint(hint)
}

fn not_ours(file: &Path) -> Error {
    Error::new(format!("{} exists and is not a bitmap of this mirror", file.display()))
        .hint("Name a file that does not exist yet, or an empty one. Without its own bitmap everything is compared.")
}

fn newer(what: &str, version: u32) -> Error {
    Error::new(format!("{what} has format version {version}, which this program does not know"))
        .hint("Use the newer mirrorfs that wrote it.")
}

fn make_elsewhere(dir: &OwnedFd, name: &Path, file: &Path, image: &[u8]) -> Result<FileStore> {
    FileStore::create(dir, name, image).map_err(|cause| {
        Error::new(format!("cannot make the bitmap {}", file.display()))
            .because(cause)
            .hint("Its directory must exist, be writable and have room.")
    })
}

/// From the legs to a file.
fn move_out(files: &Files<'_>, file: &Path, expect: &Expect) -> Result<(Copies, Loaded)> {
    let (copies, loaded) = on_the_legs(files, expect)?;
    if files.read_only {
        return Ok((copies, loaded));
    }
    let (dir, name) = parent_of(files, file)?;
    let there = match FileStore::open(&dir, &name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        there => Some(there.map_err(|cause| cannot_open(file, cause))?),
    };
    if let Some(there) = there {
        let there = Copies::Single(Box::new(locked(there, file)?)).load(expect);
        refuse_foreign(&there, file)?;
        if !matches!(
            there.verdicts.first(),
            Some((_, Verdict::Good | Verdict::Outdated | Verdict::Short { len: 0 }))
        ) {
            return Err(not_ours(file));
        }
    }
    let store = locked(make_elsewhere(&dir, &name, file, &loaded.image())?, file)?;
    let copies = Copies::Single(Box::new(store));
    let loaded = copies.load(&Expect { file: Uuid::nil(), ..*expect });
    Ok((copies, loaded))
}

/// From a file back to the legs.
fn move_in(files: &Files<'_>, expect: &Expect) -> Result<(Copies, Loaded)> {
    if files.plan.work != Work::Nothing {
        return Err(Error::new(
            "this mirror keeps its bitmap in a file elsewhere, and was not unmounted cleanly",
        )
        .hint("Mount it with -o bitmap=FILE, so that what is dirty is known."));
    }
    if !files.read_only {
        let image = Bitmap::create_image(expect.mirror, expect.slots, expect.chunk);
        for leg in LegId::ALL {
            if let Some(dir) = &files.dirs[leg] {
                make_on_leg(leg, dir, &image)?;
            }
        }
    }
    on_the_legs(files, expect)
}
