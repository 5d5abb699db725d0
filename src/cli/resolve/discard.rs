//! Giving up a leg, in steps of which each is durable before the next begins.
//!
//! ```text
//!   announce      D1, the discarded leg's superblock: from here on only this may be finished
//!   move_aside    its versions of what differs go to its .mirrorfs/conflicts
//!   forget_marks  every copy of the bitmap: no slots, everything is to be compared; if it is kept elsewhere,
//!                 the kept leg's superblock names a new file, so that an old one counts for nothing
//!   hand_over     D2, the discarded leg's superblock: the next mount recovers it from the kept leg
//! ```
//!
//! After a crash before D1 nothing has happened. After one before D2 both together are still refused as divergent,
//! and the discarded leg alone as incomplete: the same command goes on, for what is aside does not
//! differ any more. After D2 it is done. D1 and D2 are in [`crate::superblock`]. Of the kept leg nothing
//! is changed but its copy of the bitmap, or which file that is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::aside::{Aside, Chosen};
use crate::bitmap::{self, Bitmap, ChunkSize, CopyId, Expect, Loaded, PageStore, Verdict};
use crate::error::{Error, Result, errno};
use crate::layout::{self, LegDir};
use crate::legs::{LegId, PerLeg};
use crate::superblock::{self, BitmapPlace, Superblock, SuperblockStore};

/// A bitmap that is kept elsewhere.
pub struct Elsewhere {
    path: PathBuf,
    dir: OwnedFd,
    /// Locked; `None` if there is no such file.
    store: Option<bitmap::FileStore>,
}

/// One leg being given up for the other. Its owner holds the locks of both.
pub struct Discard<'a> {
    legs: &'a PerLeg<LegDir>,
    superblocks: PerLeg<Superblock>,
    discarded: LegId,
    elsewhere: Option<Elsewhere>,
    store: superblock::FileStore,
    /// No copy of the bitmap has marks any more.
    is_forgotten: bool,
}

impl<'a> Discard<'a> {
    /// Nothing has been changed when this returns.
    pub fn new(
        legs: &'a PerLeg<LegDir>,
        superblocks: PerLeg<Superblock>,
        discarded: LegId,
        elsewhere: Option<&Path>,
    ) -> Result<Discard<'a>> {
        let place = superblocks[discarded.other()].bitmap_place;
        let elsewhere = match (place, elsewhere) {
            (BitmapPlace::Leg, None) => None,
            (BitmapPlace::Elsewhere, Some(file)) => Some(Elsewhere::open(legs, &superblocks, file)?),
            (BitmapPlace::Elsewhere, None) => {
                return Err(Error::new(
                    "this mirror keeps its bitmap in a file elsewhere, which has to be reset",
                )
                .hint("Name it: --bitmap FILE"));
            }
            (BitmapPlace::Leg, Some(file)) => {
                return Err(Error::new(format!(
                    "{} is not this mirror's bitmap: it is kept on the legs",
                    file.display()
                ))
                .hint("Leave --bitmap out."));
            }
        };
        let state = legs[discarded].state_dir();
        let store = state
            .and_then(|state| superblock::FileStore::open(state.as_fd(), &superblocks[discarded]))
            .map_err(|cause| failed("open the superblock of", discarded, legs, cause))?;
        Ok(Discard { legs, superblocks, discarded, elsewhere, store, is_forgotten: false })
    }

    /// D1.
    pub fn announce(&mut self) -> Result<()> {
        let says = &self.superblocks[self.discarded];
        // Also of a leg that was the target of a resync before: it says the same.
        if says.is_announced() {
            return Ok(());
        }
        let next = says.announced();
        self.write(next)
    }

    /// Moves what was chosen. Returns where to, below the leg, unless there is nothing.
    pub fn move_aside(
        &self,
        chosen: &Chosen,
        date: &str,
        complain: &mut dyn FnMut(&Path, io::Error),
    ) -> Result<Option<PathBuf>> {
        // ORDER: from D1 on nobody uses the leg alone, where what is aside by then would be missing.
        assert!(self.superblocks[self.discarded].is_announced(), "what is not announced is not begun");
        if chosen.is_empty() {
            return Ok(None);
        }
        let dir = &self.legs[self.discarded];
        let what = |path: &Path, cause| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            Error::new(format!(
                "cannot move {} of leg {} at {} aside",
                path.display(),
                self.discarded,
                dir.path().display()
            ))
            .because(cause)
            .hint("Nothing is lost: type the same command again when the cause is gone.")
        };
        let aside = dir.view().and_then(|root| Aside::new(root, date));
        let mut aside = aside.map_err(|cause| what(Path::new(""), cause))?;
        for path in &chosen.moved {
            aside.take(path).map_err(|cause| what(path, cause))?;
        }
        for path in &chosen.metadata {
            aside.keep_metadata(path).map_err(|cause| what(path, cause))?;
        }
        let path = aside.path().to_owned();
        // ORDER: durable before D2, from which on the recovery gives these names to other objects.
        aside.finish(complain).map_err(|cause| what(Path::new(""), cause))?;
        Ok(Some(path))
    }

    /// Makes every copy of the bitmap say that everything has to be compared, and a file elsewhere another one
    /// than it was.
    ///
    /// ORDER: before D2. Their slots name objects that are aside now: a recovery that goes by them would
    /// give them back their old names, and the other leg's content.
    pub fn forget_marks(&mut self) -> Result<()> {
        let kept = self.superblocks[self.discarded.other()].clone();
        let chunk = ChunkSize::new(kept.chunk_size)
            .ok_or_else(|| Error::new("the superblock names an impossible chunk size"))?;
        let ignorant = |file| Bitmap::ignorant_image(kept.mirror, kept.bitmap_slots, chunk, file);
        let image = ignorant(Uuid::nil());
        for (leg, dir) in self.legs.iter() {
            let done = dir.state_dir().and_then(|state| {
                let name = Path::new(layout::BITMAP);
                forget(&state, name, bitmap::FileStore::open(&state, name).ok(), &image)
            });
            done.map_err(|cause| failed("reset the bitmap of", leg, self.legs, cause))?;
        }
        let Some(Elsewhere { path, dir, store }) = &self.elsewhere else {
            self.is_forgotten = true;
            return Ok(());
        };
        let file = Uuid::new_v4();
        let image = ignorant(file);
        let done = match store {
            Some(store) if has_its_length(store, &image) => Bitmap::forget(store, &image),
            _ => bitmap::FileStore::create(dir, name_of(path), &image).map(|_| ()),
        };
        done.map_err(|cause| {
            Error::new(format!("cannot reset the bitmap {}", path.display())).because(cause)
        })?;
        // ORDER: named only when it is there. A crash in between leaves one that is not named: out of date,
        // and so everything is compared as well.
        let (leg, next) = (kept.role, Superblock { bitmap_file: file, ..kept });
        let written = self.legs[leg].state_dir().and_then(|state| {
            let store = superblock::FileStore::open(state.as_fd(), &next)?;
            store.write(&next)?;
            store.write(&next)
        });
        written.map_err(|cause| failed("write the superblock of", leg, self.legs, cause))?;
        self.superblocks[leg] = next;
        self.is_forgotten = true;
        Ok(())
    }

    /// D2.
    pub fn hand_over(&mut self) -> Result<()> {
        assert!(self.is_forgotten, "a recovery would go by marks of what is aside");
        let next = self.superblocks[self.discarded].handed_over(&self.superblocks[self.discarded.other()]);
        self.write(next)
    }

    /// Into both slots, so that one that is damaged does not take the leg back.
    fn write(&mut self, next: Superblock) -> Result<()> {
        let written = self.store.write(&next).and_then(|()| self.store.write(&next));
        written.map_err(|cause| failed("write the superblock of", self.discarded, self.legs, cause))?;
        self.superblocks[self.discarded] = next;
        Ok(())
    }
}

impl Elsewhere {
    fn open(legs: &PerLeg<LegDir>, superblocks: &PerLeg<Superblock>, file: &Path) -> Result<Elsewhere> {
        for (leg, dir) in legs.iter() {
            layout::check_bitmap_file(leg, dir, file)?;
        }
        let what = || Error::new(format!("cannot open the bitmap {}", file.display()));
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir =
            LegDir::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.as_fd().try_clone_to_owned());
        let dir = dir.map_err(|cause| what().because(cause))?;
        let store = match bitmap::FileStore::open(&dir, name_of(file)) {
            Ok(store) => store,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Ok(Elsewhere { path: file.to_owned(), dir, store: None });
            }
            Err(cause) => return Err(what().because(cause)),
        };
        store.lock().map_err(|cause| what().because(cause).hint("Another mirror uses it."))?;
        let says = &superblocks[LegId::A];
        let chunk = ChunkSize::new(says.chunk_size).ok_or_else(|| what().because(errno(libc::EINVAL)))?;
        let expect = Expect {
            mirror: says.mirror,
            slots: says.bitmap_slots,
            chunk,
            file: says.bitmap_file,
            stale: None,
        };
        let loaded = Loaded::from_images(vec![(CopyId::Single, store.read_all())], &expect);
        match loaded.verdicts.first() {
            // An empty file is one that somebody made for us; another one that is none of ours is theirs.
            Some((
                _,
                Verdict::Good | Verdict::Outdated | Verdict::DamagedSlot(_) | Verdict::Short { .. },
            )) if !loaded.may_be_other_data() => {
                Ok(Elsewhere { path: file.to_owned(), dir, store: Some(store) })
            }
            verdict => {
                let verdict = verdict.map_or_else(String::new, |(_, verdict)| format!(" ({verdict})"));
                Err(Error::new(format!("{} is not this mirror's bitmap{verdict}", file.display()))
                    .hint("Name this mirror's own file. If it is lost, name one that does not exist."))
            }
        }
    }
}

fn name_of(file: &Path) -> &Path {
    file.file_name().map_or(file, Path::new)
}

fn forget(dir: &OwnedFd, name: &Path, there: Option<bitmap::FileStore>, image: &[u8]) -> io::Result<()> {
    match there {
        // Also on a disk that is full.
        Some(store) if has_its_length(&store, image) => Bitmap::forget(&store, image),
        _ => bitmap::FileStore::create(dir, name, image).map(|_| ()),
    }
}

fn has_its_length(store: &bitmap::FileStore, image: &[u8]) -> bool {
    store.read_all().is_ok_and(|bytes| bytes.len() == image.len())
}

fn failed(what: &str, leg: LegId, legs: &PerLeg<LegDir>, cause: io::Error) -> Error {
    Error::new(format!("cannot {what} leg {leg} at {}", legs[leg].path().display()))
        .because(cause)
        .hint("Nothing is lost: type the same command again when the cause is gone.")
}

#[cfg(test)]
#[path = "discard_tests.rs"]
mod tests;
