//! What the source cannot read is answered by the other leg, and then written anew on the source.
//!
//! ```text
//!   read     source: EIO -> the object's lock, shared -> the other leg -> reply
//!                                                     `-> noted, the sweeper's thread woken
//!   mend     the object's lock -> prefer the other leg (superblocks) -> mark -> write, sync, read back
//!                              -> either leg again (superblocks)
//! ```
//!
//! The reader waits for no more than its answer: a disk that fails to read may take long to write. Until it is
//! mended, whoever reads the range is answered by the other leg.
//!
//! Only where the other leg has the same: not while one is away, nor before a resync has ended. What cannot be
//! mended leaves the leg behind, and so does a leg that has too much to mend.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::Touch;
use super::failover::failure;
use super::read_errors::LIMIT;
use super::{Mirror, News, ReadErrors};
use crate::error::{errno, is_unreadable};
use crate::inode::{Ino, Object, OpenFile};
use crate::legs::{Leg, LegId};
use crate::resync::{NotRewritten, Repair};
#[cfg(feature = "simulation")]
use crate::sim::scheduler::{Rule, breaks};
use crate::superblock::Superblocks;

/// Ranges that may wait to be written anew. What does not fit is met again by the next reader.
const QUEUE: usize = 64;

/// A range that a leg could not read.
pub(super) struct Unreadable<L: Leg> {
    object: Arc<Object<L>>,
    leg: LegId,
    range: Range<u64>,
    errno: i32,
}

/// How mending ended, if not with the leg left behind.
enum Mended {
    /// It is written anew.
    Rewritten,
    /// The leg reads it by now.
    ReadsAgain,
    /// Not now: the legs are not alike, the file is gone, or another leg is being left behind.
    NotNow,
    /// The other leg cannot read it either.
    LostOnBoth(io::Error),
    /// The file may not be written to.
    NotAllowed(io::Error),
}

impl<L: Leg> Mirror<L> {
    /// Reads from an open file, at `offset` until `buf` is full or the file ends.
    pub(super) fn read_file(&self, open: &OpenFile<L>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = || Some(self.path_of(&open.object));
        self.reading_of(file, |leg| {
            #[cfg(feature = "simulation")]
            let leg = match breaks(Rule::ReadFromSource) {
                true if self.health.in_service(leg.other()) => leg.other(),
                _ => leg,
            };
            let file = self.file_on(open, leg)?;
            let read = self.steadily(&open.object, || self.leg(leg)?.read(&file, buf, offset));
            match read {
                Err(error) if is_unreadable(&error) && leg == self.source() => {
                    self.read_from_the_other(open, leg, buf, offset, error)
                }
                read => read,
            }
        })
    }

    /// Looks at the data or the times of an object without its lock, but not while they are being mended.
    pub(super) fn steadily<T>(
        &self,
        object: &Object<L>,
        mut look: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let before = object.mends.load(Ordering::Acquire);
        let seen = look();
        let is_steady = before.is_multiple_of(2) && object.mends.load(Ordering::Acquire) == before;
        #[cfg(feature = "simulation")]
        let is_steady = is_steady || breaks(Rule::ReadersKeptAway);
        if is_steady {
            return seen;
        }
        let _until_it_is_done = object.lock.read();
        if !object.mends.load(Ordering::Acquire).is_multiple_of(2) {
            // FAIL-SAFE: it was left half done, on a leg that could not be left behind.
            return Err(errno(libc::EIO));
        }
        look()
    }

    /// `leg`, the source, answered a read with `error`.
    fn read_from_the_other(
        &self,
        open: &OpenFile<L>,
        leg: LegId,
        buf: &mut [u8],
        offset: u64,
        error: io::Error,
    ) -> io::Result<usize> {
        let object = &open.object;
        // No leg is taken in, and nobody changes the file, meanwhile: the other leg has what this one had.
        let _inside = self.inside.read();
        let _unchanged = object.lock.read();
        if leg != self.source() || !self.are_alike(object) || !self.may_lose(leg) {
            return Err(error);
        }
        let other = leg.other();
        let read = self.leg(other)?.read(&*self.file_on(open, other)?, buf, offset);
        match read {
            Ok(read) => {
                let range = offset..offset.saturating_add(buf.len() as u64);
                self.note_unreadable(object, leg, range, error.raw_os_error().unwrap_or(libc::EIO));
                Ok(read)
            }
            Err(theirs) if failure(&theirs).is_some() => Err(error),
            Err(theirs) => Err(theirs),
        }
    }

    /// Whether both legs have this file, and the same in it.
    fn are_alike(&self, object: &Object<L>) -> bool {
        let both_have_it = object.with_names(|names| !names.absent[LegId::A] && !names.absent[LegId::B]);
        self.is_equal() && both_have_it && !object.replaced.load(Ordering::Acquire)
    }

    fn note_unreadable(&self, object: &Arc<Object<L>>, leg: LegId, range: Range<u64>, errno: i32) {
        let file = self.path_of(object);
        self.read_errors[leg].lock().met(file);
        // One without a name is soon gone.
        if object.with_names(|names| names.gone) {
            return;
        }
        let mut waiting = self.unreadable.lock();
        let same = |one: &Unreadable<L>| {
            Arc::ptr_eq(&one.object, object) && one.leg == leg && one.range.contains(&range.start)
        };
        match waiting.iter().position(same) {
            Some(at) => waiting[at].range.end = waiting[at].range.end.max(range.end),
            None if waiting.len() < QUEUE => {
                waiting.push(Unreadable { object: object.clone(), leg, range, errno });
            }
            None => {}
        }
        drop(waiting);
        self.stop.nudge();
    }

    /// Writes anew what could not be read so far.
    pub fn mend(&self) {
        let waiting = std::mem::take(&mut *self.unreadable.lock());
        for Unreadable { object, leg, range, errno: number } in waiting {
            let at = range.start;
            let ended = self.mend_one(&object, leg, range);
            self.tell_mended(&object, leg, at, number, ended);
            self.table.reap(Some(object));
        }
    }

    fn tell_mended(
        &self,
        object: &Object<L>,
        leg: LegId,
        at: u64,
        number: i32,
        ended: Result<Mended, io::Error>,
    ) {
        let (file, other) = (self.path_of(object), leg.other());
        let found = format!("{file}: {} at byte {at}", errno(number));
        let told = match ended {
            Ok(Mended::NotNow) => return,
            Ok(Mended::ReadsAgain) => format!("{found}, answered from leg {other}; it can be read again"),
            Ok(Mended::Rewritten) => format!("{found}, answered from leg {other} and rewritten"),
            Ok(Mended::LostOnBoth(error)) => {
                format!("{found}, and leg {other} does not read it either: {error}")
            }
            Ok(Mended::NotAllowed(error)) | Err(error) => {
                format!("{found}, answered from leg {other}; rewriting it failed: {error}")
            }
        };
        self.tell(News::ReadError { leg, told });
    }

    /// On an error the leg has been left behind for it, if that could be recorded.
    fn mend_one(&self, object: &Arc<Object<L>>, leg: LegId, range: Range<u64>) -> io::Result<Mended> {
        if !self.is_equal() {
            return Ok(Mended::NotNow);
        }
        let Ok(_inside) = self.enter() else { return Ok(Mended::NotNow) };
        let _changing = object.lock.write();
        let gone = object.with_names(|names| names.gone);
        if gone || leg != self.source() || !self.are_alike(object) || !self.may_lose(leg) {
            return Ok(Mended::NotNow);
        }
        let done = self.rewrite(object, leg, range);
        match done {
            Ok(Mended::Rewritten) => {
                if self.read_errors[leg].lock().rewritten((self.options.clock)()) {
                    let why = format!("more than {LIMIT} ranges that it could not read within an hour");
                    self.fault_because(leg, libc::EIO, Some(why))?;
                }
                Ok(Mended::Rewritten)
            }
            done => done,
        }
    }

    fn rewrite(&self, object: &Arc<Object<L>>, leg: LegId, range: Range<u64>) -> io::Result<Mended> {
        let good = leg.other();
        let nodes = self.nodes(object)?;
        let (Ok(node), Ok(good_node)) = (nodes.on(leg), nodes.on(good)) else { return Ok(Mended::NotNow) };
        let legs = self.both_legs()?;
        let repair =
            Repair { legs: &legs, bitmap: &self.bitmap, source: good, host: self, progress: &self.progress };
        let size = self.leg(good)?.stat(good_node)?.size;
        let units = repair.unreadable(node, range, size)?;
        let (Some(first), Some(last)) = (units.first(), units.last()) else { return Ok(Mended::ReadsAgain) };
        // ORDER: the other leg is the one to be believed after a crash, durably, before the range is dirty (a resync
        // could not read it here), and that before it is touched (O1). Whatever a crash leaves of it is written over
        // by the next mount from there.
        let prefer = |superblocks: &mut Superblocks| superblocks.prefer(good);
        #[cfg(feature = "simulation")]
        let prefer = |superblocks: &mut Superblocks| match breaks(Rule::PreferredFirst) {
            true => Ok(()),
            false => prefer(superblocks),
        };
        if let Err(failed) = self.health.record(prefer) {
            let number = failed.error.raw_os_error().unwrap_or(libc::EIO);
            self.fault(failed.leg, number).or_else(|_| self.fault(failed.leg.other(), number))?;
            return Ok(Mended::NotNow);
        }
        let touched = [Touch::data(object, first.start..last.end)];
        let intent = self.mark(touched[0].clone());
        let _note = self.note(&touched);
        let begun = self.turning.begin_mending(good).filter(|_| !self.health.is_degraded());
        let (intent, _mending) = match (intent, begun) {
            (Ok(intent), Some(mending)) => (intent, mending),
            (intent, _) => return self.believe_both(leg).and(intent).map(|_| Mended::NotNow),
        };
        let _ = self.health.record(|superblocks| {
            superblocks.touching();
            Ok(())
        });
        object.mends.fetch_add(1, Ordering::AcqRel);
        let rewritten = repair.rewrite(&intent, (good_node, node), &units);
        let ended = match rewritten {
            // ORDER: only now that it is durable and read back may either leg be believed again.
            Ok(()) => self.believe_both(leg).map(|()| Mended::Rewritten),
            Err(NotRewritten::ByTheGoodLeg(error)) => {
                self.believe_both(leg).map(|()| Mended::LostOnBoth(error))
            }
            // The other leg goes on answering for it.
            Err(NotRewritten::NotAllowed(error)) => {
                self.believe_both(leg).map(|()| Mended::NotAllowed(error))
            }
            Err(NotRewritten::ByTheBadLeg(error)) => {
                let why = format!("{}: cannot be read, nor rewritten: {error}", self.path_of(object));
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                self.fault_because(leg, number, Some(why)).and(Err(error))
            }
        };
        // FAIL-SAFE: what may be half done on a leg that is still read is not shown to anybody.
        if ended.is_ok() || !self.health.in_service(leg) {
            object.mends.fetch_add(1, Ordering::AcqRel);
        }
        // ORDER: while the lock is held. Who has asked for the times meanwhile has seen them moved.
        if let Some(caches) = self.invalidate.get() {
            caches.attributes(object.ino);
        }
        ended
    }

    /// Either leg may be the source of the next mount again; the one that was mended is left behind if that
    /// cannot be recorded.
    fn believe_both(&self, mended: LegId) -> io::Result<()> {
        self.health.record(Superblocks::resynced).or_else(|failed| {
            self.fault(mended, failed.error.raw_os_error().unwrap_or(libc::EIO)).and(Err(failed.error))
        })
    }

    /// What a leg could not read.
    pub fn read_errors(&self, leg: LegId) -> ReadErrors {
        self.read_errors[leg].lock().clone()
    }

    /// The object's path from the root of the mirror, for people. It may have other names.
    pub(super) fn path_of(&self, object: &Object<L>) -> String {
        let mut names = Vec::new();
        let mut place = object.with_names(|names| names.place.clone());
        let mut top = object.ino;
        while let Some((dir, name)) = place {
            names.push(name.display().to_string());
            top = dir.ino;
            place = dir.with_names(|names| names.place.clone());
        }
        names.reverse();
        match top {
            Ino::ROOT if names.is_empty() => "the mirror's root".to_owned(),
            Ino::ROOT => names.join("/"),
            _ => format!("inode {}", object.ino.0),
        }
    }
}
