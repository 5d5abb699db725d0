//! Room in the table: how many slots may be taken for what, and how some are freed when it is full.
//!
//! ```text
//! no resync            |<-------- marks: 6/8 -------->|<-- free: 2/8 -->|
//! resync after a crash |<-- needed by it: <= 6/8 --->|<- marks ->| free |
//! after a second crash |<------- needed by it: <= 7/8 ---------->| marks|
//! ```
//!
//! A mark can always make room by itself: it takes the slots that nobody is using, has the host
//! settle and sync them, and clears them. Slots that the resync needs cannot be cleared by anybody
//! but the resync, so marks always have an eighth beside them. (A mark must not wait for the
//! resync: the resync may be waiting for the lock of the object that the mark is for.) Should a
//! third crash in a row, two copies that contradict each other, or a leg that comes back leave more than
//! the resync may need, slots are dropped and everything is compared instead. The slot that then stands
//! for all, the root's, is the one that the resync may take from the eighth.
//!
//! While a leg is away nothing can be cleared. When the table is full then, fewer slots are made to say the
//! same or more (`coarsen`). When that frees none, the header says, durably, that everything is to be compared,
//! and no further mark is needed: nothing is forgotten, and no write fails for lack of room.
//!
//! No mark waits for room while it holds a slot, so those that wait for busy slots get them.

use std::io;

use super::host::{Host, IdleSlot};
use super::marks::{Bitmap, State};
#[cfg(feature = "simulation")]
use crate::sim::scheduler::{Rule, breaks};

/// How many slots the resync may need at once, beside the one that stands for everything.
pub fn most_needed(slots: u32) -> usize {
    let slots = slots as usize;
    slots - slots / 8
}

/// How many slots may be in use before a mark has to make room.
pub fn limit(slots: usize, needed: usize) -> usize {
    let eighth = slots / 8;
    (slots - 2 * eighth).max(needed + eighth).min(slots)
}

impl State {
    /// Slots that nobody uses, untouched for so many ticks.
    pub(super) fn idle(&self, untouched_for_ticks: u64) -> Vec<(u64, IdleSlot)> {
        let now = self.table.tick;
        let idle = self.table.used_slots().filter(|(_, entry, _)| {
            entry.intents == 0
                && !entry.needed
                && !self.table.waits(entry)
                && now - entry.touched >= untouched_for_ticks
        });
        idle.map(|(index, entry, slot)| {
            let (identities, kinds) = (slot.identities, slot.kinds);
            let hint = self.table.hint(index);
            (entry.touched, IdleSlot { index, identities, kinds, hint, version: entry.version })
        })
        .collect()
    }

    /// Clears those of `slots` that nobody has touched since they were listed.
    pub(super) fn clear(&mut self, slots: &[IdleSlot]) -> usize {
        // A leg may have gone away since they were listed (O4).
        let keeps = self.table.is_away();
        #[cfg(feature = "simulation")]
        let keeps = keeps && !breaks(Rule::BitsKept);
        let slots = if keeps { &[] } else { slots };
        let mut cleared = 0;
        for idle in slots {
            let entry = self.table.entry(idle.index);
            // ORDER: the version is the one of before the sync. A mark since then, ended or not,
            // covers a change that the sync may have missed (O3).
            let same = entry.slot.is_some() && entry.version == idle.version;
            if same && entry.intents == 0 && !entry.needed {
                self.table.clear(idle.index);
                cleared += 1;
            }
        }
        self.clears += cleared as u64;
        cleared
    }

    /// A quarter of the slots in use (one at least), of those that nobody uses the oldest.
    fn oldest(&self) -> Vec<IdleSlot> {
        let mut idle = self.idle(0);
        idle.sort_by_key(|(touched, idle)| (*touched, idle.version));
        idle.truncate((self.table.used() / 4).max(1));
        idle.into_iter().map(|(_, idle)| idle).collect()
    }
}

impl Bitmap {
    /// Returns when it is worth trying again. False, and nothing done, if every slot is busy or
    /// needed by the resync and `wait` is not set.
    pub(super) fn make_room(&self, host: &dyn Host, wait: bool) -> io::Result<bool> {
        let mut state = self.state.lock();
        if state.making_room {
            self.room.wait(&mut state);
            return Ok(true);
        }
        if state.table.is_away() && !wait {
            // A resync whose target has gone: it is over.
            return Ok(false);
        }
        if state.table.is_away() {
            state.making_room = true;
            drop(state);
            let folded = self.fold(host);
            let mut state = self.state.lock();
            state.making_room = false;
            self.room.notify_all();
            if folded? {
                return Ok(true);
            }
            if !state.table.header().compare_all {
                log::warn!("the bitmap is full: everything is compared when the leg that is away comes back");
            }
            drop(state);
            // ORDER: durable before the first change that has no slot.
            let say_so = || self.set_compare_all(host);
            #[cfg(feature = "simulation")]
            let say_so = || if breaks(Rule::OverflowSaid) { Ok(()) } else { say_so() };
            say_so()?;
            self.state.lock().overflowed = true;
            return Ok(true);
        }
        let oldest = state.oldest();
        if oldest.is_empty() {
            if wait {
                state.waiting_for_room += 1;
                self.room.wait(&mut state);
                state.waiting_for_room -= 1;
            }
            return Ok(wait);
        }
        state.making_room = true;
        drop(state);
        let synced = host.settle_and_sync(&oldest);
        let mut state = self.state.lock();
        state.making_room = false;
        if synced.is_ok() {
            state.clear(&oldest);
        }
        self.room.notify_all();
        // A leg that failed meanwhile is away now: there is another way to make room then.
        if state.table.is_away() { Ok(true) } else { synced.map(|()| true) }
    }
}
