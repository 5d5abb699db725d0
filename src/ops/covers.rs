//! What is covered by the slot of the directory that it was born in, and needs none of its own.
//!
//! The bitmap knows only the directory's slot, so it is kept in mind here what that covers: before it is cleared,
//! the times of all that have to be alike on both legs. And the object itself is kept, also when the kernel
//! forgets it, for it alone knows that it is covered: should it move, its own slot has to tell all of it.
//!
//! On a leg where numbers do not last, so it is with what has a slot of its own: by that alone it might not be found any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Mirror;
use crate::inode::{Ino, Object};
use crate::legs::{Identity, Leg, LegId, PerLeg, Stat};
use crate::sync::{Mutex, Rank};

/// The most objects that are covered at a time, some 500 bytes each. Others get slots of their own.
const MOST: usize = 1 << 16;

/// See the module.
pub(super) struct Covers<L: Leg>(Mutex<Covered<L>>);

/// By what tells them from all others.
type Objects<L> = BTreeMap<(Ino, u64), Arc<Object<L>>>;

struct Covered<L: Leg> {
    /// By the slot's word.
    by_slot: BTreeMap<u64, Objects<L>>,
    count: usize,
}

fn name_of<L: Leg>(object: &Object<L>) -> (Ino, u64) {
    (object.ino, object.generation)
}

impl<L: Leg> Covers<L> {
    pub fn new() -> Self {
        Covers(Mutex::new(Rank::Leaf, Covered { by_slot: BTreeMap::new(), count: 0 }))
    }

    /// Keeps one more in mind; false if there are too many.
    fn add(&self, cover: u64, object: &Arc<Object<L>>) -> bool {
        let mut covered = self.0.lock();
        let room = covered.count < MOST;
        if room {
            let before = covered.by_slot.entry(cover).or_default().insert(name_of(object), object.clone());
            covered.count += usize::from(before.is_none());
        }
        room
    }

    /// What this slot covers beside its own object.
    pub fn of(&self, cover: u64) -> Vec<Arc<Object<L>>> {
        self.0.lock().by_slot.get(&cover).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The object is gone: nobody has to find it any more, and what it holds on the legs is to be let go of.
    pub fn drop_gone(&self, object: &Arc<Object<L>>) {
        let mut covered = self.0.lock();
        let of_slot = covered.by_slot.get_mut(&object.cover.load(Ordering::Acquire));
        let gone = of_slot.and_then(|of_slot| of_slot.remove(&name_of(object)));
        covered.count -= usize::from(gone.is_some());
        drop(covered);
        drop(gone);
    }

    /// What was covered by slots that are not there any more; forgotten here.
    pub fn uncovered(&self, is_gone: impl Fn(u64) -> bool) -> Vec<Arc<Object<L>>> {
        let known: Vec<u64> = self.0.lock().by_slot.keys().copied().collect();
        let gone: Vec<u64> = known.into_iter().filter(|&cover| is_gone(cover)).collect();
        let mut covered = self.0.lock();
        let objects = gone.iter().filter_map(|cover| covered.by_slot.remove(cover));
        let objects: Vec<_> = objects.flat_map(BTreeMap::into_values).collect();
        covered.count -= objects.len();
        objects
    }
}

impl<L: Leg> Mirror<L> {
    /// `object` was just made in `dir` by both legs, under a mark that is still good: from now on that covers it.
    ///
    /// Not while the legs differ, or one is away: what is told then has to be told of each object by itself.
    pub(super) fn cover(
        &self,
        dir: &Arc<Object<L>>,
        object: &Arc<Object<L>>,
        made: &PerLeg<Option<(Identity, Stat)>>,
    ) {
        let births = PerLeg::from_fn(|leg| made[leg].and_then(|(_, stat)| stat.btime));
        let cover = self.bitmap.born(&self.markable(dir), births);
        let both = LegId::ALL.iter().all(|&leg| made[leg].is_some());
        if cover != 0
            && both
            && self.is_equal()
            && !self.health.is_degraded()
            && self.covers.add(cover, object)
        {
            object.cover.store(cover, Ordering::Release);
        }
    }

    /// These objects have just been marked.
    pub(super) fn keep_while_marked<'o>(&self, objects: impl Iterator<Item = &'o Arc<Object<L>>>) {
        let is_fleeting =
            |leg: LegId| self.legs[leg].read().as_ref().is_some_and(|leg| !leg.identities_last());
        if LegId::ALL.into_iter().any(is_fleeting) {
            // With too many of them, times may stay different on the legs: nothing else.
            for object in objects {
                self.covers.add(object.slot_hint.load(Ordering::Acquire), object);
            }
        }
    }

    /// Lets go of what is not covered any more.
    pub(super) fn forget_uncovered(&self) {
        let uncovered = self.covers.uncovered(|cover| !self.bitmap.is_covered(cover));
        uncovered.into_iter().for_each(|object| self.table.reap(Some(object)));
        self.freed.forget(|slot| !self.bitmap.is_covered(slot));
    }
}
