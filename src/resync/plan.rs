//! What there is to do: the slots of the bitmap, put together by object. Pure but for the question
//! whether an object is alive.
//!
//! Without file handles an inode number may have been used again between two marks, and a crash
//! while an object with several slots is bound anew leaves some of them with its old partner. Both
//! look like one object with two partners; [`settle`] keeps the partner that is alive.

use std::collections::HashMap;
use std::io;

use super::spans::Spans;
use crate::bitmap::{ChunkSize, DirtySlot, Kinds, SlotIndex};
use crate::legs::{Identity, LegId, PerLeg, Timestamp};

/// An object that may differ between the legs, with all its slots.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Its slots; none when everything is compared and the object was met by walking.
    pub slots: Vec<SlotIndex>,
    /// What it is on each leg.
    pub ids: PerLeg<Identity>,
    /// What of it may differ.
    pub kinds: Kinds,
    /// Which data.
    pub data: Spans,
    /// And what was born below it at these times or later.
    pub born_since: Option<PerLeg<Timestamp>>,
}

impl Object {
    /// Whether its identities cannot be mistaken for those of an earlier object.
    pub fn is_certain(&self) -> bool {
        self.ids.iter().all(|(_, identity)| identity.opens())
    }

    /// One more slot, if it is not known.
    pub fn covered_by(&mut self, slot: SlotIndex) {
        if !self.slots.contains(&slot) {
            self.slots.push(slot);
        }
    }

    /// Adds what is known of the same object by another name: perhaps one given by a mount that could use handles
    /// where this one could not, which then tells more.
    fn absorb(&mut self, other: Object) {
        for leg in LegId::ALL {
            if self.ids[leg].is_same(&other.ids[leg]) {
                self.ids[leg] = self.ids[leg].stronger(other.ids[leg]);
            }
        }
        self.slots.extend(other.slots);
        self.kinds = self.kinds | other.kinds;
        self.data.add(other.data);
        self.born_since = earlier(self.born_since, other.born_since);
    }
}

/// The watermarks from which on all is compared that is so from either's on.
pub(super) fn earlier(
    a: Option<PerLeg<Timestamp>>,
    b: Option<PerLeg<Timestamp>>,
) -> Option<PerLeg<Timestamp>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(PerLeg::from_fn(|leg| a[leg].min(b[leg]))),
        (a, b) => a.or(b),
    }
}

/// The slots put together by object, in the order in which the objects first appear.
pub(super) fn gather(slots: Vec<DirtySlot>, chunk: ChunkSize) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    let mut at: HashMap<PerLeg<Identity>, usize> = HashMap::new();
    for slot in slots {
        let end = |index: u64| chunk.start(crate::bitmap::ChunkIndex(index));
        let chunks = slot.chunks.iter().map(|range| end(range.start.0)..end(range.end.0));
        let tail = slot.from.map(|from| chunk.start(from)..u64::MAX);
        let object = Object {
            slots: vec![slot.index],
            ids: slot.identities,
            kinds: slot.kinds,
            data: Spans::of(chunks.chain(tail)),
            born_since: slot.born_since,
        };
        match at.get(&object.ids) {
            Some(&known) => objects[known].absorb(object),
            None => {
                at.insert(object.ids, objects.len());
                objects.push(object);
            }
        }
    }
    objects
}

/// Puts together objects that share an identity on one leg, if at most one of their partners is
/// alive. More work for the survivor, never less. What stays contradictory is left as it is.
pub(super) fn settle(
    mut objects: Vec<Object>,
    mut alive: impl FnMut(LegId, &Identity) -> io::Result<bool>,
) -> io::Result<Vec<Object>> {
    for leg in LegId::ALL {
        let mut kept: Vec<Object> = Vec::with_capacity(objects.len());
        let mut by_ino: HashMap<u64, Vec<usize>> = HashMap::new();
        for object in objects {
            if !object.ids[leg].is_known() {
                kept.push(object);
                continue;
            }
            let rivals = by_ino.entry(object.ids[leg].ino).or_default();
            let rival = rivals.iter().copied().find(|&at| kept[at].ids[leg].is_same(&object.ids[leg]));
            let Some(rival) = rival else {
                rivals.push(kept.len());
                kept.push(object);
                continue;
            };
            let partner = object.ids[leg.other()];
            if !partner.is_known() {
                kept[rival].absorb(object);
                continue;
            }
            if partner.is_same(&kept[rival].ids[leg.other()]) || !alive(leg.other(), &partner)? {
                kept[rival].absorb(object);
            } else if !alive(leg.other(), &kept[rival].ids[leg.other()])? {
                kept[rival].ids = object.ids;
                kept[rival].absorb(object);
            } else {
                kept.push(object);
            }
        }
        objects = kept;
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::ChunkIndex;

    fn slot(index: u32, a: u64, b: u64, kinds: Kinds) -> DirtySlot {
        let bare = |ino| Identity { ino, handle: None };
        DirtySlot {
            index: SlotIndex(index),
            identities: PerLeg::new(bare(a), bare(b)),
            kinds,
            chunks: vec![ChunkIndex(2)..ChunkIndex(3)],
            from: None,
            born_since: None,
        }
    }

    fn gathered(slots: Vec<DirtySlot>) -> Vec<Object> {
        gather(slots, ChunkSize::default())
    }

    #[test]
    fn slots_of_one_object_are_put_together() {
        let mut second = slot(2, 1, 9, Kinds::METADATA);
        second.from = Some(ChunkIndex(7));
        let objects = gathered(vec![slot(1, 1, 9, Kinds::DATA), second, slot(3, 2, 8, Kinds::ENTRIES)]);
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0].slots, [SlotIndex(1), SlotIndex(2)]);
        assert!(objects[0].kinds.contains(Kinds::DATA | Kinds::METADATA));
        let chunk = ChunkSize::default();
        let expected = [2, 3, 7].map(|index| chunk.start(ChunkIndex(index)));
        assert_eq!(objects[0].data, Spans::of([expected[0]..expected[1], expected[2]..u64::MAX]));
    }

    #[test]
    fn the_partner_that_is_alive_wins() {
        let slots = || vec![slot(1, 1, 9, Kinds::DATA), slot(2, 1, 8, Kinds::METADATA)];
        for living in [8, 9] {
            let alive = |leg, identity: &Identity| Ok(leg == LegId::A || identity.ino == living);
            let objects = settle(gathered(slots()), alive).expect("nothing fails");
            assert_eq!(objects.len(), 1);
            assert_eq!(objects[0].ids[LegId::B].ino, living);
            assert_eq!(objects[0].slots.len(), 2);
        }
    }

    #[test]
    fn two_living_partners_stay_a_contradiction() {
        let slots = vec![slot(1, 1, 9, Kinds::DATA), slot(2, 2, 9, Kinds::METADATA)];
        let objects = settle(gathered(slots), |_, _| Ok(true)).expect("nothing fails");
        assert_eq!(objects.len(), 2);
    }
}
