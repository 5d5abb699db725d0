//! Fewer slots that say the same or more: how room is made while a leg is away and nothing can be cleared.
//!
//! ```text
//!   slots of files in one directory   -> one of the directory: all that lies in it (Kinds::CHILDREN)
//!   several slots of one file         -> one of them: from its first chunk to the end
//! ```
//!
//! What lies in a covered directory needs no slot of its own as long as it stays there. Who takes a name away, or
//! gives one, therefore marks all of the object in its own slot first ([`Table::all_to_mark`]); and a slot that
//! has seen its object moved is never folded, for where the object lies is no longer where the other leg has it.
//!
//! Only slots that were taken while the leg was away are folded: those say when their object was moved. Never one
//! that is held, and never one that a resync may know by its number.
//!
//! ORDER: the coarse slot is durable before the fine ones are dropped, and those are gone from the copies
//! before anything else is folded. A crash in between leaves the fine ones, or both.

use std::collections::{HashMap, HashSet};
use std::io;

use super::chunk::ChunkIndex;
use super::host::Host;
use super::intent::{Held, WriteIntent};
use super::marks::Bitmap;
use super::slot::Slot;
use super::table::{Entry, Table};
use super::{Kinds, SlotIndex, Span, Want};
use crate::legs::{Identity, PerLeg};
#[cfg(feature = "simulation")]
use crate::sim::scheduler::{Rule, breaks};

/// The most directories, or files, that are folded before those who wait for room have a try.
const AT_ONCE: usize = 64;

impl Table {
    /// What has to be set for a want: of an object that gets or loses a name all of it, if a directory's slot may
    /// have stood for it.
    pub fn all_to_mark(&self, object: &PerLeg<Identity>, want: &Want<'_>) -> (Kinds, Span) {
        let (kinds, span) = (want.kinds, want.span.clone());
        let Some(whole) = want.moves.filter(|_| self.keeps_moves(object) || self.is_covering()) else {
            return (kinds, span);
        };
        // ORDER: durable before the object is moved, for the slot of its directory does not go with it.
        let is_covering = self.is_covering();
        #[cfg(feature = "simulation")]
        let is_covering = is_covering && !breaks(Rule::MarkedWhole);
        let whole = if is_covering { whole } else { Kinds::NONE };
        let span = if whole.contains(Kinds::DATA) { Span::From(ChunkIndex(0)) } else { span };
        (kinds | whole | Kinds::MOVED, span)
    }

    /// The directory whose slot could stand for this one, as the source calls it.
    fn folds_into(&self, entry: &Entry, slot: &Slot) -> Option<Identity> {
        const OWN: [Kinds; 2] = [Kinds::ENTRIES, Kinds::CHILDREN];
        let away = self.away()?;
        let is_moved = slot.kinds.contains(Kinds::MOVED);
        #[cfg(feature = "simulation")]
        let is_moved = is_moved && !breaks(Rule::MovedKept);
        if !slot.kinds.missed_by(away)
            || is_moved
            || OWN.iter().any(|&own| slot.kinds.contains(own))
            || !self.is_free(entry)
        {
            return None;
        }
        slot.identities[away].place().map(|place| place.dir).or(entry.lies_in)
    }

    fn is_free(&self, entry: &Entry) -> bool {
        entry.intents == 0 && !(entry.needed && self.resyncs > 0)
    }

    /// All slots that directories' slots could stand for: with all others of their object.
    fn foldable(&self) -> HashMap<Identity, Vec<SlotIndex>> {
        let mut by_dir: HashMap<Identity, Vec<SlotIndex>> = HashMap::new();
        for (index, entry, slot) in self.used_slots() {
            let Some(dir) = self.folds_into(entry, slot) else { continue };
            let all_into_it = self
                .slots_of(&slot.identities)
                .all(|(index, slot)| self.folds_into(self.entry(index), slot) == Some(dir));
            if all_into_it {
                by_dir.entry(dir).or_default().push(index);
            }
        }
        by_dir
    }

    /// The directories with the most of them, two at least.
    fn fullest(&self) -> Vec<Identity> {
        let mut dirs: Vec<(usize, Identity)> =
            self.foldable().into_iter().map(|(dir, slots)| (slots.len(), dir)).collect();
        dirs.retain(|(count, _)| *count >= 2);
        dirs.sort_by_key(|(count, dir)| (std::cmp::Reverse(*count), dir.ino));
        let enough = (self.used() / 8).max(1);
        let mut freed = 0;
        let wanted = dirs.into_iter().take(AT_ONCE).take_while(|(count, _)| {
            let before = freed;
            freed += count - 1;
            before < enough
        });
        wanted.map(|(_, dir)| dir).collect()
    }

    /// Files with several slots that nobody uses: the one that is to stand for all, and the others.
    fn in_pieces(&self) -> Vec<(SlotIndex, Vec<SlotIndex>)> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (_, _, slot) in self.used_slots() {
            let pieces: Vec<(SlotIndex, &Slot)> = self.slots_of(&slot.identities).collect();
            let free = pieces.iter().all(|(index, _)| self.is_free(self.entry(*index)));
            // Of those that name another counterpart each means what it says.
            let alike = pieces.iter().all(|(_, piece)| piece.identities == slot.identities);
            if pieces.len() < 2 || !free || !alike || !seen.insert(slot.identities) {
                continue;
            }
            let mut all: Vec<SlotIndex> = pieces.into_iter().map(|(index, _)| index).collect();
            all.sort_unstable();
            found.push((all.remove(0), all));
            if found.len() == AT_ONCE {
                break;
            }
        }
        found
    }
}

impl Bitmap {
    /// Frees slots while a leg is away; false if none could be. One thread at a time. No write fails for it but with
    /// the error of a copy that cannot be written, and none waits for more than two flushes.
    pub(super) fn fold(&self, host: &dyn Host) -> io::Result<bool> {
        if self.state.lock().table.header().compare_all {
            return Ok(false);
        }
        Ok(self.fold_directories(host)? || self.fold_pieces(host)?)
    }

    fn fold_directories(&self, host: &dyn Host) -> io::Result<bool> {
        let dirs = self.state.lock().table.fullest();
        let named: Vec<_> = dirs.into_iter().filter_map(|dir| Some((dir, host.directory(&dir)?))).collect();
        let mut held = Held::default();
        let mut covered = HashSet::new();
        let mut state = self.state.lock();
        for (dir, identities) in named {
            if state.table.cover_children(&identities, &mut held).is_err() {
                break;
            }
            covered.insert(dir);
        }
        let awaited = state.flush.awaited(&state.table, &held);
        drop(state);
        let _held = WriteIntent::new(self, held);
        self.wait_for_coarse(host, awaited)?;
        let mut state = self.state.lock();
        let foldable = state.table.foldable().into_iter().filter(|(dir, _)| covered.contains(dir));
        let slots: Vec<SlotIndex> = foldable.flat_map(|(_, slots)| slots).collect();
        slots.iter().for_each(|&index| state.table.clear(index));
        drop(state);
        self.dropped(host, &slots)
    }

    fn fold_pieces(&self, host: &dyn Host) -> io::Result<bool> {
        let mut held = Held::default();
        let mut state = self.state.lock();
        let files = state.table.in_pieces();
        for (whole, pieces) in &files {
            for piece in pieces {
                let piece = state.table.entry(*piece).slot.clone().expect("it was just found");
                state.table.absorb(*whole, &piece, &mut held);
            }
        }
        let awaited = state.flush.awaited(&state.table, &held);
        drop(state);
        let _held = WriteIntent::new(self, held);
        self.wait_for_coarse(host, awaited)?;
        let mut state = self.state.lock();
        let mut slots = Vec::new();
        for (whole, pieces) in files {
            let Some(whole) = state.table.entry(whole).slot.clone() else { continue };
            for piece in pieces {
                let entry = state.table.entry(piece);
                // Somebody may have marked more meanwhile.
                if state.table.is_free(entry)
                    && entry.slot.as_ref().is_some_and(|slot| whole.says_all_of(slot))
                {
                    state.table.clear(piece);
                    slots.push(piece);
                }
            }
        }
        drop(state);
        self.dropped(host, &slots)
    }

    /// What stands for others is durable when this returns.
    fn wait_for_coarse(&self, host: &dyn Host, awaited: Option<u64>) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        let awaited = awaited.filter(|_| !breaks(Rule::CoarseFirst));
        awaited.map_or(Ok(()), |flush| self.wait_flushed(host, flush))
    }

    /// The slots are gone from the copies too: one that a crash brought back would name what has its object's
    /// number by then.
    fn dropped(&self, host: &dyn Host, slots: &[SlotIndex]) -> io::Result<bool> {
        if !slots.is_empty() {
            self.write_back(host)?;
        }
        Ok(!slots.is_empty())
    }
}
