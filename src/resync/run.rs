//! One pass over names and metadata: what it knows, and the order of its steps.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use super::areas::{Parked, delete_content};
use super::batch::Batch;
use super::copy::Copier;
use super::data::Pending;
use super::pairs::Pairs;
use super::places;
use super::plan::{Object, earliest, gather, settle};
use super::progress::Progress;
use super::rehearsal::{Rehearses, has_moved};
use super::spans::Spans;
use super::strays::Strays;
use super::touched::Part;
use super::{Outcome, Resync, ResyncHost, Scope, Sides, gone_is_none, metadata};
use crate::bitmap::{self, Bitmap, ChunkIndex, Kinds, Markable, Needs, SlotIndex, Span, Want, WriteIntent};
use crate::error::errno;
use crate::legs::{Area, Identity, Kind, Leg, LegId, PerLeg, Timestamp};
use crate::sync::join;

/// A directory whose names are to be made equal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dir {
    pub ids: PerLeg<Identity>,
    /// The slot that covers its changes.
    pub slot: SlotIndex,
    /// And all of what was born in it then or later, as either leg tells it.
    pub since: Option<PerLeg<Timestamp>>,
    /// That slot stands for all that lies in it, too.
    pub whole: bool,
}

/// The state of one pass.
pub(super) struct Run<'r, L: Leg> {
    pub sides: Sides<'r, L>,
    pub bitmap: &'r Bitmap,
    pub host: &'r dyn bitmap::Host,
    pub progress: &'r Progress,
    pub pairs: Pairs,
    /// In a rehearsal: what is known with its counterpart, and has not been compared with it yet; by number on the source.
    pub unmet: HashSet<u64>,
    pub parked: Parked<L>,
    /// What is parked and may be what is missing, once that was asked for.
    pub strays: Option<Strays>,
    pub copier: Copier<'r>,
    /// One for each who builds; made when they are needed.
    pub builders: Vec<Copier<'r>>,
    /// Everything is compared: what is made needs no slots, and `root` covers it all.
    pub everything: bool,
    /// What is built is finished at once, whatever its length, and needs no slot.
    pub at_once: bool,
    /// Directories that are being finished in `incoming/`, while one is.
    pub inside: Option<Vec<PerLeg<Identity>>>,
    /// The slot of the leg's own directory, when everything is compared; or the target is no leg yet. It covers what
    /// has no slot of its own.
    pub root: Option<SlotIndex>,
    /// The target is no leg yet.
    pub rehearses: Option<Rehearses<'r>>,
    /// Something was met that may have names which are not looked at; see [`check_names`](Self::check_names).
    pub has_other_names: bool,
    /// The names to be looked at, of directories of which not all are.
    pub only: HashMap<PerLeg<Identity>, Rc<BTreeSet<OsString>>>,
    pub objects: Vec<Object>,
    /// The earliest watermark of any slot: what was born before is covered by none.
    pub born_since: Option<PerLeg<Timestamp>>,
    by_source: HashMap<u64, Vec<usize>>,
    /// How many objects have been built.
    pub built: u64,
    /// What is being worked on.
    pub at: Option<PerLeg<Identity>>,
    /// Grows while it is walked.
    pub dirs: Vec<Dir>,
    /// The directories in `dirs`, each with the earliest births from which on all is compared.
    listed: HashMap<PerLeg<Identity>, Option<PerLeg<Timestamp>>>,
    /// Slots that tell nothing: they contradict each other.
    puzzling: Vec<SlotIndex>,
}

impl<'r, L: Leg> Run<'r, L> {
    /// Everything that `resync` has to do; `None` if that is nothing.
    pub fn of_resync(resync: &'r Resync<'_, L>) -> io::Result<Option<Self>> {
        let sides = resync.sides();
        let gathered = gather(resync.bitmap.unresynced(), resync.bitmap.chunk_size());
        if gathered.is_empty() && resync.scope == Scope::Dirty {
            return Ok(None);
        }
        if !sides.identities_last() {
            // FAIL-SAFE: what the slots call an object may be another one by now, or be called otherwise tomorrow.
            log::error!(
                "a leg is on a FUSE filesystem, where what is dirty is not found again: take it in again (re-add); then \
                 everything is compared"
            );
            return Err(errno(libc::ESTALE));
        }
        let mut run = Run::new(sides, resync.bitmap, resync.host, resync.progress)?;
        run.everything = resync.scope == Scope::Everything;
        let rebind = |slot, found| resync.bitmap.rebind(resync.host, slot, sides.target(), found);
        let gathered = places::bind(gathered, sides, rebind)?;
        let objects = settle(gathered, |leg, identity| Ok(sides.find(leg, identity)?.is_some()))?;
        match Pairs::from_slots(objects.iter().map(|object| object.ids)) {
            Some(pairs) => {
                run.pairs = pairs;
                objects.into_iter().for_each(|object| run.add(object));
            }
            None => {
                log::warn!("slots of the bitmap contradict each other: everything is compared");
                run.everything = true;
                run.puzzling = objects.into_iter().flat_map(|object| object.slots).collect();
            }
        }
        run.list_dirty()?;
        Ok(Some(run))
    }

    /// A pass that knows of nothing to do.
    pub fn new(
        sides: Sides<'r, L>,
        bitmap: &'r Bitmap,
        host: &'r dyn bitmap::Host,
        progress: &'r Progress,
    ) -> io::Result<Self> {
        Ok(Run {
            sides,
            bitmap,
            host,
            progress,
            pairs: Pairs::default(),
            unmet: HashSet::new(),
            parked: Parked::open(sides.t)?,
            strays: None,
            copier: Copier::new(progress),
            builders: Vec::new(),
            everything: false,
            at_once: false,
            inside: None,
            root: None,
            rehearses: None,
            has_other_names: false,
            only: HashMap::new(),
            objects: Vec::new(),
            born_since: None,
            by_source: HashMap::new(),
            built: 0,
            at: None,
            dirs: Vec::new(),
            listed: HashMap::new(),
            puzzling: Vec::new(),
        })
    }

    pub fn list_dirty(&mut self) -> io::Result<()> {
        if self.everything || self.rehearses.is_some() {
            let Sides { s, t, .. } = self.sides;
            let ids = self.sides.pair(s.identity(&s.root())?, t.identity(&t.root())?);
            let object = Marked { ids, hint: AtomicU64::new(0) };
            let want = Want {
                object: &object,
                kinds: Kinds::ENTRIES | Kinds::METADATA,
                span: Span::None,
                slot: Needs::Own,
                moves: None,
            };
            let slot = self.bitmap.mark_everything(self.host, &want)?.ok_or_else(|| errno(libc::ENOSPC))?;
            self.root = Some(slot);
            if self.everything {
                self.list(Dir { ids, slot, since: None, whole: false });
            }
            if self.rehearses.is_some() {
                self.pairs.insert(ids);
            }
        }
        for at in 0..self.objects.len() {
            let object = &self.objects[at];
            if object.kinds.contains(Kinds::ENTRIES) {
                let whole = object.kinds.contains(Kinds::CHILDREN);
                let slot = self.slot_of(object);
                self.list_as_told(Dir { ids: object.ids, slot, since: object.born_since, whole });
            }
        }
        Ok(())
    }

    /// Parks, places, and makes metadata equal.
    pub fn names_and_metadata(&mut self, host: &dyn ResyncHost) -> io::Result<Outcome> {
        self.clear_leftovers()?;
        // By index: both passes meet directories that are to be looked at as well.
        let mut at = 0;
        let mut batch = Batch::new();
        while let Some(&dir) = self.dirs.get(at) {
            if host.stop_requested() {
                return Ok(Outcome::Stopped);
            }
            self.at = Some(dir.ids);
            let done = self.park(dir, &mut batch);
            self.or_again(&dir.ids, Part::Names, done)?;
            at += 1;
        }
        let parked = at;
        at = 0;
        loop {
            let Some(&dir) = self.dirs.get(at) else {
                // What is put in place now may be a directory, with names of its own.
                self.put_in_place(&mut batch)?;
                if at < self.dirs.len() { continue } else { break }
            };
            if host.stop_requested() {
                return Ok(Outcome::Stopped);
            }
            self.at = Some(dir.ids);
            if at >= parked {
                // It has been met only now: where it lay before, its names were not looked at.
                let done = self.park(dir, &mut batch);
                self.or_again(&dir.ids, Part::Names, done)?;
            }
            let done = self.place(self.intent(dir), &dir.ids, &mut batch);
            self.or_again(&dir.ids, Part::Names, done)?;
            at += 1;
        }
        self.metadata(host)
    }

    /// FAIL-SAFE: what an interrupted resync left in the target's `incoming/` is asked for again by
    /// the slot it was built for. What is left on the source is of a time when that was a target: its
    /// `parked/` holds what the source of that time did not have.
    fn clear_leftovers(&mut self) -> io::Result<()> {
        let intent = self.bitmap.hold(self.any_slot());
        delete_content(self.sides.t, &intent, &self.sides.t.area(Area::Incoming)?)?;
        if self.rehearses.is_some() {
            // The source serves, and is never written to from here.
            return Ok(());
        }
        for area in [Area::Incoming, Area::Parked] {
            delete_content(self.sides.s, &intent, &self.sides.s.area(area)?)?;
        }
        Ok(())
    }

    /// Metadata of everything dirty that both legs have. What only one has is a matter of the
    /// directory that names it.
    fn metadata(&mut self, host: &dyn ResyncHost) -> io::Result<Outcome> {
        for object in &self.objects {
            if host.stop_requested() {
                return Ok(Outcome::Stopped);
            }
            self.at = Some(object.ids);
            let done = self.equalize(&self.bitmap.hold(self.slot_of(object)), &object.ids);
            self.or_again(&object.ids, Part::Metadata, done)?;
        }
        // Without slots of their own they are no objects.
        for dir in &self.dirs {
            let done = self.equalize(&self.intent(*dir), &dir.ids);
            self.or_again(&dir.ids, Part::Metadata, done)?;
        }
        Ok(Outcome::Done)
    }

    /// Metadata of one object, if both legs have it.
    pub fn equalize(&self, intent: &WriteIntent<'_>, ids: &PerLeg<Identity>) -> io::Result<()> {
        let (Some(s_node), Some(t_node)) = self.sides.find_both(ids)? else { return Ok(()) };
        if self.sides.s.stat(&s_node)?.kind != self.sides.t.stat(&t_node)?.kind {
            return Ok(());
        }
        metadata::equalize(self.sides, intent, &s_node, &t_node)
    }

    /// Deletes what nobody wanted back, and returns the data that is still to be compared.
    ///
    /// ORDER: what was placed is durable before anything parked is deleted, so that a filesystem which
    /// does not keep the order of its names cannot lose both places of an object. A slot is
    /// given back only after that; it is cleared by the sweep, after a sync of both legs (O3).
    ///
    /// And what was compared because it was born under a cover is durable on both legs before changes are let in:
    /// the next mount knows nothing of the cover, so it may be moved out of reach of the slot that stood for it.
    pub fn finish(mut self) -> io::Result<Pending> {
        let Sides { s, t, .. } = self.sides;
        if self.dirs.iter().any(|dir| dir.since.is_some()) {
            let (of_source, of_target) = join(|| s.sync_all(), || t.sync_all());
            of_source.and(of_target)?;
        } else {
            t.sync_all()?;
        }
        let intent = self.bitmap.hold(self.any_slot());
        match self.moves() {
            // What was parked now may have come to a place that was looked at before.
            true => self.parked.delete_earlier(self.sides.t, &intent)?,
            false => self.parked.delete_all(self.sides.t, &intent)?,
        }
        drop(intent);
        let mut pending = Pending::default();
        self.progress.expect_objects(self.objects.len() as u64);
        for object in std::mem::take(&mut self.objects) {
            let (found, counterpart) = match self.sides.find_both(&object.ids) {
                // Without handles it is looked for by a walk, which renames can lead astray.
                Err(error) if self.moves() && has_moved(&error) => {
                    self.again(&object);
                    continue;
                }
                both => both?,
            };
            if found.is_some() && counterpart.is_none() && self.moves() {
                self.again(&object);
                continue;
            }
            if found.is_some() && counterpart.is_none() && !self.everything {
                return self.lost(&object);
            }
            let Some(node) = found.filter(|_| !object.data.is_empty()) else {
                object.slots.iter().for_each(|&slot| self.give_back(slot));
                self.progress.object_done();
                continue;
            };
            let Some(stat) = gone_is_none(self.sides.s.stat(&node))? else { continue };
            let bytes = object.data.len_within(stat.size);
            self.progress.expect_bytes(bytes);
            pending.add(self.sides.source, object, bytes);
        }
        pending.at_the_end = self.puzzling;
        pending.at_the_end.extend(self.root);
        pending.root = self.root;
        Ok(pending)
    }

    /// The source has an object that has come to no name on the target: somebody took it away there behind the
    /// mirror's back, where nothing is dirty. Which names it had is not known, so everything is to be compared.
    fn lost(&self, object: &Object) -> io::Result<Pending> {
        let Sides { source, .. } = self.sides;
        log::error!(
            "inode {} of leg {source} has no counterpart on leg {}",
            object.ids[source].ino,
            source.other()
        );
        self.bitmap.set_compare_all(self.host)?;
        Err(errno(libc::ESTALE))
    }

    fn give_back(&self, slot: SlotIndex) {
        if self.root != Some(slot) {
            self.bitmap.resynced(slot);
        }
    }

    /// Puts a directory on the list with all its names, if it is not there, or is there and less of what is in it is
    /// compared.
    pub fn list(&mut self, dir: Dir) {
        if self.only.remove(&dir.ids).is_some() {
            self.listed.remove(&dir.ids);
        }
        self.list_as_told(dir);
    }

    /// The same, and of one of which only some names have been touched no others are looked at.
    fn list_as_told(&mut self, dir: Dir) {
        let listed = self.listed.get(&dir.ids).copied();
        let since = earliest(listed.flatten(), dir.since);
        if listed != Some(since) {
            self.listed.insert(dir.ids, since);
            self.dirs.push(Dir { since, ..dir });
        }
    }

    /// Puts a directory on the list once more: it has just been built.
    pub fn list_again(&mut self, dir: Dir) {
        self.listed.insert(dir.ids, dir.since);
        self.dirs.push(dir);
    }

    /// Makes an object known.
    pub fn add(&mut self, object: Object) {
        self.born_since = earliest(self.born_since, object.born_since);
        let ino = object.ids[self.sides.source].ino;
        self.by_source.entry(ino).or_default().push(self.objects.len());
        self.objects.push(object);
    }

    /// What the target has under a name that stays is the counterpart of an object of which that was not
    /// known: its slots say so, durably, from now on.
    pub fn adopt(&mut self, wanted: &Identity, found: Identity) -> io::Result<()> {
        let target = self.sides.target();
        let Some(at) = self.known(wanted).filter(|&at| !self.objects[at].ids[target].is_known()) else {
            return Ok(());
        };
        for &slot in &self.objects[at].slots {
            self.bitmap.rebind(self.host, slot, target, found)?;
        }
        self.now_is(wanted, found);
        if self.rehearses.is_some() && self.objects[at].kinds.contains(Kinds::ENTRIES) {
            // It is listed by what it was not known to be there, and was passed over.
            let (ids, slot) = (self.objects[at].ids, self.slot_of(&self.objects[at]));
            self.list(Dir { ids, slot, since: None, whole: false });
        }
        Ok(())
    }

    /// Position of the known object that is `identity` on the source.
    pub fn known(&self, identity: &Identity) -> Option<usize> {
        let positions = self.by_source.get(&identity.ino)?;
        positions.iter().copied().find(|&at| self.objects[at].ids[self.sides.source].is_same(identity))
    }

    /// All of a file's data is to be compared: marks it so, durably, unless everything is. False if
    /// no slot is to be had: then it is to be done at once.
    pub fn want_data(&mut self, ids: PerLeg<Identity>) -> io::Result<bool> {
        let slot = match self.root.is_some() {
            true => None,
            false => match self.mark(ids, Kinds::METADATA | Kinds::DATA, Span::From(ChunkIndex(0)))? {
                None => return Ok(false),
                slot => slot,
            },
        };
        let at = self.known_or_new(ids);
        slot.into_iter().for_each(|slot| self.objects[at].covered_by(slot));
        self.objects[at].data = Spans::everything();
        Ok(true)
    }

    /// All names of a directory that has just been built are to be placed: marks it so, durably,
    /// unless everything is compared. False if no slot is to be had.
    pub fn want_entries(&mut self, ids: PerLeg<Identity>) -> io::Result<bool> {
        let slot = match self.root {
            Some(root) => root,
            None => {
                let slot = self.mark(ids, Kinds::ENTRIES | Kinds::METADATA, Span::None)?;
                let Some(slot) = slot else { return Ok(false) };
                let at = self.known_or_new(ids);
                self.objects[at].covered_by(slot);
                slot
            }
        };
        // What is built is built as the source has it.
        self.list_again(Dir { ids, slot, since: None, whole: false });
        Ok(true)
    }

    pub fn known_or_new(&mut self, ids: PerLeg<Identity>) -> usize {
        self.known(&ids[self.sides.source]).unwrap_or_else(|| {
            self.add(Object {
                slots: Vec::new(),
                ids,
                kinds: Kinds::METADATA,
                data: Spans::none(),
                born_since: None,
            });
            self.objects.len() - 1
        })
    }

    fn mark(&self, ids: PerLeg<Identity>, kinds: Kinds, span: Span) -> io::Result<Option<SlotIndex>> {
        let object = Marked { ids, hint: AtomicU64::new(0) };
        self.bitmap
            .mark_for_resync(self.host, &Want { object: &object, kinds, span, slot: Needs::Own, moves: None })
    }

    /// The intent under which a directory's names are changed.
    pub fn intent(&self, dir: Dir) -> WriteIntent<'r> {
        self.bitmap.hold(dir.slot)
    }

    pub fn slot_of(&self, object: &Object) -> SlotIndex {
        object
            .slots
            .first()
            .copied()
            .or(self.root)
            .expect("an object without a slot is met only by comparing everything")
    }

    /// A slot that is dirty, to cover what is no part of the mirror.
    pub fn any_slot(&self) -> SlotIndex {
        self.root.unwrap_or_else(|| self.slot_of(&self.objects[0]))
    }

    /// The directory on one leg; `None` if it is gone, or its number is something else by now.
    pub fn directory(&self, leg: LegId, ids: &PerLeg<Identity>) -> io::Result<Option<L::Node>> {
        let Some(node) = self.sides.find(leg, &ids[leg])? else { return Ok(None) };
        Ok((self.sides.leg(leg).stat(&node)?.kind == Kind::Directory).then_some(node))
    }
}

/// An object as the bitmap wants to see it.
struct Marked {
    ids: PerLeg<Identity>,
    hint: AtomicU64,
}

impl Markable for Marked {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.hint
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        Ok(self.ids)
    }
}
