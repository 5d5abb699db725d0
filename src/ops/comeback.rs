//! Taking a leg in again that was left behind: from the moment it takes part in every change it is the
//! target of a recovery, and it is read again when that is done.
//!
//! ```text
//!   gate closed, changes in flight ended     nobody marks or changes anything meanwhile
//!   bitmap copy   has all marks, durably
//!   superblocks   source: recovering; returned leg: target of a resync (S1 to S3)
//!   in service    names and metadata, then the gate opens, then data: as after a crash
//! ```
//!
//! A crash before the superblocks leaves the leg stale, after them the target of a resync: both are
//! recovered by the next mount.
//!
//! A new leg that takes another's place is taken in the same way when it is complete ([`Mirror::fill`]). Before the
//! superblocks call it a leg, the bitmap forgets what its objects were on the old one, durably: a number or a handle of
//! that one may be another object's on the new one. Nothing is compared then, but for what could not be read, which has
//! slots by then. So it is with one that returns and has been filled.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Mirror;
use super::filling::Filled;
use crate::bitmap::{Bitmap, ChunkIndex, Kinds, Markable, Needs, PageStore, Span, Want};
use crate::error::errno;
use crate::inode::Object;
use crate::legs::{Identity, Leg, LegId, PerLeg};
use crate::resync;
use crate::superblock::{FoundSide, Plan, Work};

/// A leg that was left behind, opened and judged to be the one that is wanted.
pub struct Returning<L: Leg> {
    /// Which.
    pub leg: LegId,
    /// Its directory.
    pub directory: Arc<L>,
    /// What its superblock says, and where to write the next one.
    pub superblock: FoundSide,
    /// Its copy of the bitmap, if it keeps one.
    pub bitmap: Option<Box<dyn PageStore>>,
    /// The bitmap does not tell all that it misses.
    pub compare_all: bool,
    /// It is not the leg that was left behind, but one that takes its place: it is [filled](Mirror::fill) first.
    pub is_new: bool,
}

/// The leg that a mount of these two had better do without at first, to have it [filled](Mirror::fill): all is to be
/// compared with one that is behind, or, where slots do not tell what an object is, after a crash.
pub fn comes_later<L: Leg>(plan: &Plan, legs: &PerLeg<Option<Arc<L>>>, bitmap: &Bitmap) -> Option<LegId> {
    let both = legs.iter().all(|(_, leg)| leg.is_some());
    let lasting = legs.iter().all(|(_, leg)| leg.as_ref().is_none_or(|leg| leg.identities_last()));
    let all = plan.work == Work::CompareAll || bitmap.compare_all();
    let is_so = if lasting { all && plan.stale.is_some() } else { all || !bitmap.unresynced().is_empty() };
    (both && is_so).then(|| plan.source.other())
}

impl<L: Leg> Mirror<L> {
    /// Takes the leg in. On success it takes part in every change, and [`resync`](Self::resync) is to be called
    /// at once, on another thread: changes wait until that has made the names equal.
    ///
    /// What was still open on the leg as it was before is closed when this returns.
    ///
    /// # Errors
    /// EBUSY if that leg is not away, EROFS if the mirror is read-only, or what failed; the leg is then as
    /// it was, away.
    pub fn take_in(&self, returning: Returning<L>) -> io::Result<()> {
        let leg = returning.leg;
        self.health.writable()?;
        if self.health.lost(leg).is_none() {
            return Err(errno(libc::EBUSY));
        }
        // One that the leg's fault has broken off may still be at work on it.
        let _no_resync = self.resyncing.lock();
        // What is being cleared was synced on the leg as it was before.
        let _no_sweep = self.sweeping.lock();
        self.gate.close();
        let (taken, held) = {
            let _nobody_is_inside = self.inside.write();
            // ORDER: whoever found the leg broken has let changes in, and is done with it before it is there again.
            let held = self.take_leg(leg);
            self.turning.wait_for_all();
            self.gate.close();
            let taken = self.take_in_alone(returning, None);
            // Its filesystem can be unmounted again.
            let not_taken = taken.is_err().then(|| self.take_leg(leg));
            (taken, (held, not_taken))
        };
        drop(held);
        if taken.is_err() {
            self.bitmap.stop_using(leg);
            self.bitmap.set_away(Some(leg));
            self.gate.open();
        }
        taken
    }

    /// Whether the leg is to be [filled](Self::fill): everything on it is to be compared.
    pub fn is_to_be_filled(&self, returning: &Returning<L>) -> bool {
        let lasting = self.identities_last(returning.leg.other(), &returning.directory);
        let stats = self.bitmap.stats();
        returning.compare_all || stats.compare_all || (!lasting && stats.dirty_slots > 0)
    }

    /// Whether what names an object lasts on the leg that stays, and in the directory that is to serve beside it.
    pub(super) fn identities_last(&self, stays: LegId, directory: &L) -> bool {
        directory.identities_last() && self.leg(stays).is_ok_and(|stays| stays.identities_last())
    }

    /// The caller has seen to it that nobody changes anything. `filled`: it has got all already.
    pub(super) fn take_in_alone(&self, returning: Returning<L>, filled: Option<Filled>) -> io::Result<()> {
        let Returning { leg, directory, superblock, bitmap, compare_all, .. } = returning;
        let root = directory.identity(&directory.root())?;
        directory.measure();
        // What it calls an object is not what it was called when that was marked. Or it becomes another object's counterpart:
        // all are compared by their names alone.
        let lasting = self.identities_last(leg.other(), &directory);
        let is_forgotten = !lasting && self.bitmap.stats().dirty_slots > 0;
        let compare_all = compare_all || (is_forgotten && filled.is_none());
        *self.legs[leg].write() = Some(directory);
        self.table.forget_leg(leg, root);
        if compare_all {
            self.bitmap.set_compare_all(self)?;
        }
        self.bitmap.set_away(None);
        match is_forgotten || filled.is_some() {
            true => self.bitmap.start_over(self, leg)?,
            false => self.bitmap.need_all(self)?,
        }
        // ORDER: before the superblocks, as all that the leg misses.
        let is_marked = filled.as_ref().map(|filled| self.mark_unread(filled)).transpose()?;
        if let Some(store) = bitmap {
            self.bitmap.use_again(leg, store)?;
        }
        // ORDER: in the bitmap of both before the superblocks say that the leg is recovered by it.
        self.unequal.store(true, Ordering::Release);
        self.returned.store(true, Ordering::Relaxed);
        if filled.is_none() {
            self.progress.restart();
        }
        self.read_errors[leg].lock().forgive();
        let taken = self.health.take_in(leg, superblock);
        taken.map_err(|failed| {
            self.unequal.store(false, Ordering::Release);
            failed.error
        })?;
        self.told.store(filled.is_some(), Ordering::Relaxed);
        // ORDER: only now that the superblocks say which leg is meant. A crash before has everything compared.
        if is_marked == Some(true)
            && let Err(error) = self.bitmap.all_compared(self)
        {
            log::warn!("the bitmap cannot be written ({error}): everything is compared");
        }
        Ok(())
    }

    /// Finds on the leg that was taken in what has lost the name by which it was known, and has others that are not:
    /// what it was there before has been forgotten. Names are alike on both legs, and nobody changes any. Walks
    /// the source, if there is such a thing.
    pub(super) fn find_nameless(&self, legs: &PerLeg<Arc<L>>) {
        let source = self.source();
        let target = source.other();
        let lost = self.table.unfindable(target);
        let known = |object: &Object<L>| object.with_names(|names| names.identity(source));
        let wanted = lost.iter().filter_map(|object| known(object)).map(|identity| identity.ino).collect();
        let places = match lost.is_empty() {
            true => BTreeMap::new(),
            false => resync::places_of(&*legs[source], &wanted, || self.stop.is_asked()),
        };
        let at = |leg: LegId, path: &Path| -> io::Result<(L::Node, Identity)> {
            let here = &legs[leg];
            let node = path.iter().try_fold(here.root(), |dir, name| here.child(&dir, name))?;
            let identity = here.identity(&node)?;
            Ok((node, identity))
        };
        // One that is not found gives ESTALE to who still has it open.
        let find = |object: &Object<L>| {
            let known = known(object)?;
            let path = places.get(&known.ino)?;
            let is_it = at(source, path).is_ok_and(|(_, identity)| identity.is_same(&known));
            at(target, path).ok().filter(|_| is_it)
        };
        let found: Vec<_> = lost.iter().map(|object| find(object)).collect();
        // ORDER: asked after the looks. A leg that is left behind lets changes in that move names on the other one.
        let are_found = self.health.in_service(target);
        for (object, found) in lost.into_iter().zip(found) {
            if let Some((node, identity)) = found.filter(|_| are_found) {
                object.with_names(|names| {
                    names.identify(target, Some(identity));
                    if !identity.opens() {
                        names.pin(target, node);
                    }
                });
            }
            self.table.reap(Some(object));
        }
    }

    /// Marks what a leg that is complete otherwise has not got, for the resync. False if there is no room for it:
    /// then everything is to be compared.
    fn mark_unread(&self, filled: &Filled) -> io::Result<bool> {
        for &ids in &filled.unread {
            let object = Unread { ids, hint: AtomicU64::new(0) };
            let want = Want {
                object: &object,
                kinds: Kinds::METADATA | Kinds::DATA,
                span: Span::From(ChunkIndex(0)),
                slot: Needs::Own,
                moves: None,
            };
            if self.bitmap.mark_for_resync(self, &want)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A file of which a new leg has not got all.
struct Unread {
    ids: PerLeg<Identity>,
    hint: AtomicU64,
}

impl Markable for Unread {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.hint
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        Ok(self.ids)
    }
}
