//! What is covered by the slot of the directory that it was born in, and needs none of its own.
//!
//! The bitmap knows only the directory's slot. Before that is cleared, the times of what it covers have to be alike
//! on both legs, so it is kept in mind here what that is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Mirror;
use crate::inode::Object;
use crate::legs::{Identity, Leg, LegId, PerLeg, Stat};
use crate::sync::{Mutex, Rank};

/// The most objects that are covered at a time (112 bytes each). Others get slots of their own.
const MOST: usize = 1 << 16;

/// See the module.
pub(super) struct Covers(Mutex<Covered>);

#[derive(Default)]
struct Covered {
    by_slot: HashMap<u64, Vec<PerLeg<Identity>>>,
    count: usize,
}

impl Covers {
    pub fn new() -> Covers {
        Covers(Mutex::new(Rank::Leaf, Covered::default()))
    }

    /// Keeps one more in mind; false if there are too many.
    fn add(&self, cover: u64, object: PerLeg<Identity>) -> bool {
        let mut covered = self.0.lock();
        let room = covered.count < MOST;
        if room {
            covered.count += 1;
            covered.by_slot.entry(cover).or_default().push(object);
        }
        room
    }

    /// What this slot covers beside its own object.
    pub fn of(&self, cover: u64) -> Vec<PerLeg<Identity>> {
        self.0.lock().by_slot.get(&cover).cloned().unwrap_or_default()
    }

    /// Forgets what is covered by slots that are not there any more.
    pub fn forget(&self, is_gone: impl Fn(u64) -> bool) {
        let known: Vec<u64> = self.0.lock().by_slot.keys().copied().collect();
        let gone: Vec<u64> = known.into_iter().filter(|&cover| is_gone(cover)).collect();
        let mut covered = self.0.lock();
        for cover in gone {
            let objects = covered.by_slot.remove(&cover).map_or(0, |objects| objects.len());
            covered.count -= objects;
        }
    }
}

impl<L: Leg> Mirror<L> {
    /// `object` was just made in `dir` by both legs, under a mark that is still good: from now on that covers it.
    ///
    /// Not while the legs differ, or one is away: what is told then has to be told of each object by itself.
    pub(super) fn cover(
        &self,
        dir: &Arc<Object<L>>,
        object: &Object<L>,
        made: &PerLeg<Option<(Identity, Stat)>>,
    ) {
        let births = PerLeg::from_fn(|leg| made[leg].and_then(|(_, stat)| stat.btime));
        let cover = self.bitmap.born(&self.markable(dir), births);
        let both = LegId::ALL.iter().all(|&leg| made[leg].is_some());
        if cover == 0 || !both || !self.is_equal() || self.health.is_degraded() {
            return;
        }
        let identities = PerLeg::from_fn(|leg| made[leg].map_or(Identity::UNKNOWN, |(identity, _)| identity));
        if self.covers.add(cover, identities) {
            object.cover.store(cover, Ordering::Release);
        }
    }
}
