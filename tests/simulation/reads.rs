//! A resync looks at what is dirty, and at nothing else (P3).

use std::collections::BTreeSet;

use mirrorfs::bitmap::{ChunkIndex, DirtySlot, Kinds};
use mirrorfs::legs::simulated::DataRead;
use mirrorfs::legs::simulated::image::{Image, Object};
use mirrorfs::legs::{Kind, LegId, PerLeg};

use crate::check::Verdict;
use crate::world::{CHUNK, Mounted, World};

/// Every read of file data since the mount was of a dirty chunk, or of a file in a dirty directory:
/// one that may have been born there.
pub fn only_dirty(world: &World, mounted: &Mounted) -> Verdict {
    let born = in_dirty_directories(&PerLeg::from_fn(|leg| world.disk(leg).live()), &mounted.dirty);
    // Where a leg has what was marked while it was away, the slots do not say.
    let told = |leg: &LegId| mounted.dirty.iter().all(|slot| slot.identities[*leg].is_known());
    for leg in LegId::ALL.into_iter().filter(told) {
        for read in mounted.legs[leg].take_reads() {
            let slots = mounted.dirty.iter().filter(|slot| slot.identities[leg].ino == read.ino);
            if !born[leg].contains(&read.ino) && !slots.clone().any(|slot| covers(slot, &read)) {
                let slots: Vec<_> = slots.collect();
                return Err(format!("the resync read {read:?} of leg {leg}, which is not dirty: {slots:?}"));
            }
        }
    }
    Ok(())
}

fn covers(slot: &DirtySlot, read: &DataRead) -> bool {
    let chunks = CHUNK.covering(read.offset, read.len.max(1));
    (chunks.start.0..chunks.end.0).map(ChunkIndex).all(|chunk| {
        slot.from.is_some_and(|from| chunk >= from) || slot.chunks.iter().any(|dirty| dirty.contains(&chunk))
    })
}

/// Inode numbers of what lies in a directory whose entries are dirty, or in one below it that was born since its
/// watermark on either leg.
fn in_dirty_directories(images: &PerLeg<Image>, dirty: &[DirtySlot]) -> PerLeg<BTreeSet<u64>> {
    let mut found = PerLeg::new(BTreeSet::new(), BTreeSet::new());
    for slot in dirty.iter().filter(|slot| slot.kinds.contains(Kinds::ENTRIES)) {
        let with_number = |leg: LegId| {
            let is_it = |object: &&Object| object.ino == slot.identities[leg].ino && object.names > 0;
            images[leg].iter().map(|(_, object)| object).find(is_it)
        };
        let mut dirs = vec![PerLeg::from_fn(with_number)];
        while let Some(dir) = dirs.pop() {
            let entries = |leg: LegId| dir[leg].into_iter().flat_map(Object::entries);
            let names: BTreeSet<_> = LegId::ALL.into_iter().flat_map(entries).map(|(name, _)| name).collect();
            for name in names {
                let id = |leg| entries(leg).find(|(known, _)| *known == name).map(|(_, id)| id);
                let named = PerLeg::from_fn(|leg| images[leg].get(id(leg)?));
                named.iter().for_each(|(leg, object)| found[leg].extend(object.map(|object| object.ino)));
                let born = |(leg, object): (LegId, &Option<&Object>)| {
                    object
                        .zip(slot.born_since)
                        .is_some_and(|(object, since)| object.times.birth >= since[leg])
                };
                if named.iter().any(born) {
                    dirs.push(named.map(|object| object.filter(|object| object.kind() == Kind::Directory)));
                }
            }
        }
    }
    found
}
