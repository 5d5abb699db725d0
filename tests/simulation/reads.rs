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
    let born = PerLeg::from_fn(|leg| in_dirty_directories(&world.disk(leg).live(), leg, &mounted.dirty));
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
/// watermark.
fn in_dirty_directories(image: &Image, leg: LegId, dirty: &[DirtySlot]) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for slot in dirty.iter().filter(|slot| slot.kinds.contains(Kinds::ENTRIES)) {
        let ino = slot.identities[leg].ino;
        let mut dirs: Vec<&Object> =
            image.iter().map(|(_, object)| object).filter(|object| object.ino == ino).collect();
        while let Some(dir) = dirs.pop() {
            for object in dir.entries().filter_map(|(_, id)| image.get(id)) {
                found.insert(object.ino);
                let born = slot.born_since.is_some_and(|since| object.times.birth >= since[leg]);
                if born && object.kind() == Kind::Directory {
                    dirs.push(object);
                }
            }
        }
    }
    found
}
