//! The data phase: behind the mount, piece by piece, each piece under the lock of its object.
//!
//! What is left to do stands in [`Pending`], under a lock of its own that is never held during I/O. A
//! piece is taken from it and struck off under the object's lock, so a user's operation that needs
//! an object to be equal first ([`Resync::finish_object`]) and this phase never do the same twice.

use std::collections::BTreeMap;
use std::io;

use super::copy::{Copier, OpenPair};
use super::plan::Object;
use super::throttle::Throttle;
use super::{Outcome, Resync, metadata, trouble};
use crate::bitmap::SlotIndex;
use crate::error::errno;
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg};
use crate::sync::join;

/// The files whose data is not yet equal.
#[derive(Default)]
pub(super) struct Pending {
    /// By inode number on the source.
    files: BTreeMap<u64, Object>,
    /// Covers the files without a slot, when everything is compared.
    pub root: Option<SlotIndex>,
    /// Slots that are given back when all files are done.
    pub at_the_end: Vec<SlotIndex>,
    /// What the source could not read all of.
    unreadable: BTreeMap<u64, Object>,
}

impl Pending {
    /// See [`Resync::unreadable`].
    pub fn unreadable(&self) -> Vec<u64> {
        self.unreadable.keys().copied().collect()
    }

    /// The same, by what names them on both legs.
    pub fn unreadable_ids(&self) -> Vec<PerLeg<Identity>> {
        self.unreadable.values().map(|object| object.ids).collect()
    }

    fn pass_over(&mut self, ino: u64) {
        if let Some(object) = self.files.remove(&ino) {
            self.unreadable.insert(ino, object);
        }
    }

    fn try_again(&mut self) {
        self.files.append(&mut self.unreadable);
    }

    /// One more file, which the source has.
    pub fn add(&mut self, source: LegId, object: Object) {
        let before = self.files.insert(object.ids[source].ino, object);
        debug_assert!(before.is_none(), "one living object a number");
    }
}

impl<L: Leg> Resync<'_, L> {
    /// Makes all dirty data equal. Users may change what they like meanwhile: both legs get their
    /// changes, so what was equal stays so.
    ///
    /// A file that the source cannot read is passed over, and tried once more at the end: a user may have
    /// written it anew by then.
    pub fn data(&self) -> io::Result<Outcome> {
        let mut copier = Copier::new(self.progress);
        let mut outcome = self.pass(&mut copier)?;
        if outcome == Outcome::Incomplete {
            self.pending.lock().try_again();
            outcome = self.pass(&mut copier)?;
        }
        if outcome == Outcome::Done {
            self.finish()?;
        }
        self.progress.set_active(false);
        Ok(outcome)
    }

    /// Deals with all that is pending.
    fn pass(&self, copier: &mut Copier<'_>) -> io::Result<Outcome> {
        let mut throttle = Throttle::new(self.host.limits(), self.host.user_operations());
        let mut from = 0;
        while let Some(ino) = self.pending_from(from).or_else(|| self.pending_from(0)) {
            if self.host.stop_requested() {
                return Ok(Outcome::Stopped);
            }
            if ino < from {
                // All that are left could not be found.
                throttle.rest(|| self.host.stop_requested());
            }
            from = ino;
            let mut moved = 0;
            let Some((object, _)) = self.pending_file(ino) else { continue };
            let there = self.host.with_object(&object.ids[self.source], &mut || {
                moved = self.step(ino, copier)?;
                Ok(())
            });
            match there {
                // FAIL-SAFE: it keeps its slot, and what the target has there is read by nobody.
                Err(error) if copier.source_failed() => {
                    log::error!("leg {} cannot read all of inode {ino}: {error}", self.source);
                    self.pending.lock().pass_over(ino);
                }
                // Without handles it is looked for by a walk, which renames can lead astray. Its turn comes again.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => from = ino + 1,
                Err(error) => {
                    *self.trouble.lock() = trouble::find(self.sides(), Some(&object.ids));
                    return Err(error);
                }
                Ok(true) => {}
                Ok(false) if self.host.source_moves() => self.done(ino),
                Ok(false) => {
                    // FAIL-SAFE: only the source can say that it is gone.
                    if self.sides().find(self.source, &object.ids[self.source])?.is_some() {
                        log::error!("inode {ino} of leg {} is taken for another object", self.source);
                        return Err(errno(libc::ESTALE));
                    }
                    self.done(ino);
                }
            }
            throttle.pace(moved, || self.host.user_operations(), || self.host.stop_requested());
        }
        let complete = self.pending.lock().unreadable.is_empty();
        Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
    }

    /// Gives back the slots that stand for everything.
    fn finish(&self) -> io::Result<()> {
        // ORDER: when everything was compared, most of what was changed has no slot that the sweep would
        // clear only after a sync of both legs. So it is synced here: the target for what was
        // written, the source for what was read, which a power cut could still take back.
        let at_the_end = std::mem::take(&mut self.pending.lock().at_the_end);
        if !at_the_end.is_empty() {
            let sides = self.sides();
            let (s, t) = join(|| sides.s.sync_all(), || sides.t.sync_all());
            s.and(t)?;
            at_the_end.into_iter().for_each(|slot| self.bitmap.resynced(slot));
        }
        Ok(())
    }

    /// Whether the data of an object may still differ between the legs.
    pub fn is_pending(&self, source_ino: u64) -> bool {
        self.pending.lock().files.contains_key(&source_ino)
    }

    /// Makes the data of one object equal now. For operations by which a leg moves its own data about,
    /// such as copying a range or collapsing one: they would carry what differs to where no slot
    /// tells of it. The caller holds the object's lock.
    pub fn finish_object(&self, source_ino: u64) -> io::Result<()> {
        if !self.is_pending(source_ino) {
            return Ok(());
        }
        let mut copier = Copier::new(self.progress);
        while self.is_pending(source_ino) {
            self.step(source_ino, &mut copier)?;
        }
        Ok(())
    }

    fn pending_from(&self, ino: u64) -> Option<u64> {
        self.pending.lock().files.range(ino..).next().map(|(&ino, _)| ino)
    }

    /// One piece of one file. Returns the bytes dealt with. The object's lock is held.
    fn step(&self, ino: u64, copier: &mut Copier<'_>) -> io::Result<u64> {
        let Some((object, root)) = self.pending_file(ino) else { return Ok(0) };
        let sides = self.sides();
        let (s_node, t_node) = match sides.find_both(&object.ids)? {
            (Some(s_node), Some(t_node)) => (s_node, t_node),
            (None, _) => {
                self.done(ino);
                return Ok(0);
            }
            (Some(_), None) => {
                self.counterpart_is_new(ino, &object)?;
                return Ok(0);
            }
        };
        let slot = object.slots.first().copied().or(root);
        let intent = self.bitmap.hold(slot.expect("without a slot only when everything is compared"));
        let (s_stat, t_stat) = (sides.s.stat(&s_node)?, sides.t.stat(&t_node)?);
        let next = object.data.first().filter(|range| range.start < s_stat.size);
        let (Some(range), Kind::File, Kind::File) = (next, s_stat.kind, t_stat.kind) else {
            // ORDER: the sweep syncs both legs before it clears the slot (O3), so nothing is synced here.
            // Writing has dropped suid, sgid and capabilities and moved the times.
            metadata::equalize(sides, &intent, &s_node, &t_node)?;
            drop(intent);
            self.done(ino);
            return Ok(0);
        };
        let files = OpenPair::open(sides, (&s_node, &t_node))?;
        let within = range.start..range.end.min(s_stat.size);
        let reached = copier.advance(sides, &intent, &files, within.clone())?;
        self.reached(ino, reached);
        self.progress.bytes_done(reached - within.start);
        Ok(reached - within.start)
    }

    /// The target has no such object any more. Either it was made anew there, when a removal was taken back, and its
    /// slot says so; or somebody took it away behind the mirror's back.
    ///
    /// # Errors
    /// ESTALE, and everything is to be compared next time: which names it had is not known.
    fn counterpart_is_new(&self, ino: u64, object: &Object) -> io::Result<()> {
        let target = self.source.other();
        let now = self.bitmap.identities_of(&object.ids).map(|ids| ids[target]);
        if let Some(now) = now.filter(|now| *now != object.ids[target]) {
            if let Some(object) = self.pending.lock().files.get_mut(&ino) {
                object.ids[target] = now;
            }
            return Ok(());
        }
        log::error!("inode {ino} of leg {} has no counterpart on leg {target}", self.source);
        self.bitmap.set_compare_all(self.host)?;
        Err(errno(libc::ESTALE))
    }

    fn pending_file(&self, ino: u64) -> Option<(Object, Option<SlotIndex>)> {
        let pending = self.pending.lock();
        let object = pending.files.get(&ino)?;
        Some((object.clone(), pending.root))
    }

    fn reached(&self, ino: u64, offset: u64) {
        if let Some(object) = self.pending.lock().files.get_mut(&ino) {
            object.data.done_below(offset);
        }
    }

    fn done(&self, ino: u64) {
        let object = self.pending.lock().files.remove(&ino);
        object.iter().for_each(|object| self.sides().let_go(&object.ids));
        for slot in object.into_iter().flat_map(|object| object.slots) {
            self.bitmap.resynced(slot);
        }
        self.progress.object_done();
    }
}
