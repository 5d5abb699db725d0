//! The bitmap as the mirror sees it: marks, clears, and what the resync needs.
//!
//! One lock (`Rank::Bitmap`) guards all state; it is never held during I/O or a call out.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::chunk::{ChunkIndex, ChunkSize};
use super::flush::Progress;
use super::format::{self, Header};
use super::host::{Copies, CopyId, Host, IdleSlot, PageStore};
use super::intent::{Held, WriteIntent};
use super::load::{Expect, Loaded};
use super::slot::Slot;
use super::table::{NoRoom, Table};
use super::{Kinds, Markable, Needs, PAGE_SIZE, PageIndex, SLOTS_PER_PAGE, SlotIndex, Want};
use crate::legs::{Identity, LegId, PerLeg, Timestamp};
use crate::sync::{Condvar, Mutex, Rank, RwLock};

/// What a dirty slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtySlot {
    /// Which.
    pub index: SlotIndex,
    /// What names its object. Several slots may name the same one.
    pub identities: PerLeg<Identity>,
    /// What of it may differ.
    pub kinds: Kinds,
    /// Chunks that may, ascending, when `kinds` has [`Kinds::DATA`].
    pub chunks: Vec<Range<ChunkIndex>>,
    /// This chunk and all behind it may.
    pub from: Option<ChunkIndex>,
    /// And all that was born below this directory at these times or later.
    pub born_since: Option<PerLeg<Timestamp>>,
}

impl DirtySlot {
    fn new(index: SlotIndex, slot: &Slot) -> DirtySlot {
        let (identities, kinds) = (slot.identities, slot.kinds);
        let born_since = kinds.contains(Kinds::BORN).then_some(slot.births);
        DirtySlot { index, identities, kinds, chunks: slot.chunks(), from: slot.from, born_since }
    }
}

/// Counts since the bitmap was made, and what is dirty now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// `dirty_chunks` is all there is: no slot says "to the end", nor the header "everything".
    pub bounded: bool,
    /// Everything is to be compared.
    pub compare_all: bool,
    /// Slots of directories that stand for what lies in them.
    pub covered_directories: u64,
    /// Slots in use.
    pub dirty_slots: u64,
    /// Chunks set one by one in them; each open end counts as one.
    pub dirty_chunks: u64,
    /// Slots that the resync has yet to look at.
    pub unresynced_slots: u64,
    /// Marks that had to be flushed.
    pub marks: u64,
    /// Marks asked for, those included that found all set.
    pub marks_asked: u64,
    /// Objects that got another name and needed no slot of their own for it.
    pub spared: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Pages in those flushes, however many copies they went to.
    pub pages_written: u64,
    /// Slots cleared.
    pub clears: u64,
}

/// What a mark is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A change by a user.
    Change,
    /// What the resync has built and whose data is to follow.
    Resync,
    /// What stands for all when everything is compared.
    Everything,
}

/// Everything under the bitmap's lock.
pub struct State {
    pub(super) table: Table,
    pub(super) flush: Progress,
    pub(super) making_room: bool,
    pub(super) waiting_for_room: usize,
    pub(super) clears: u64,
    /// The table is full and nothing can be cleared, for a leg is away: everything is to be compared, and
    /// that is durable, so that no mark is needed.
    pub(super) overflowed: bool,
    marks: u64,
    marks_asked: u64,
    spared: u64,
}

/// A copy, with its store as long as it can be written.
type StoredCopy = (CopyId, RwLock<Option<Arc<dyn PageStore>>>);

/// The write-intent bitmap. See the module's page.
pub struct Bitmap {
    pub(super) state: Mutex<State>,
    pub(super) flushed: Condvar,
    pub(super) room: Condvar,
    pub(super) copies: Vec<StoredCopy>,
    chunk: ChunkSize,
}

impl Loaded {
    /// The dirty slots of the union, for a report or a plan.
    pub fn dirty(&self) -> Vec<DirtySlot> {
        self.slots.iter().map(|(index, slot)| DirtySlot::new(*index, slot)).collect()
    }

    /// The union as a file, to make a copy anew that is missing, short or has holes.
    pub fn image(&self) -> Vec<u8> {
        let mut image = format::empty_image(&self.expect.header(self.compare_all));
        for (index, slot) in &self.slots {
            format::encode_slot(slot, &mut image[format::slot_range(*index)]);
        }
        image
    }
}

impl Bitmap {
    /// The bytes of a fresh file with nothing dirty. `slots` must be a multiple of eight within
    /// `MIN_SLOTS..=MAX_SLOTS`.
    pub fn create_image(mirror: Uuid, slots: u32, chunk: ChunkSize) -> Vec<u8> {
        let allowed = (format::MIN_SLOTS..=format::MAX_SLOTS).contains(&slots);
        assert!(allowed && (slots as usize).is_multiple_of(SLOTS_PER_PAGE), "{slots} slots cannot be");
        format::empty_image(&Header { mirror, slots, chunk, file: Uuid::nil(), compare_all: false })
    }

    /// The bytes of a file that tells nothing, but that everything has to be compared. `file` is nil for a
    /// copy on a leg.
    pub fn ignorant_image(mirror: Uuid, slots: u32, chunk: ChunkSize, file: Uuid) -> Vec<u8> {
        format::empty_image(&Header { mirror, slots, chunk, file, compare_all: true })
    }

    /// Makes a copy that has its full length such an image. Durable on return.
    pub fn forget(store: &dyn PageStore, ignorant_image: &[u8]) -> io::Result<()> {
        // ORDER: that everything has to be compared stands in the header before the first slot is gone.
        store.write(PageIndex(0), &ignorant_image[..PAGE_SIZE])?;
        store.write(PageIndex(1), &ignorant_image[PAGE_SIZE..])
    }

    /// Takes over the copies and brings them to what `loaded` says. All loaded slots are dirty and
    /// needed by the resync. A copy whose file is missing, short or has holes must have been made
    /// anew before. Objects are told apart by their identity on the leg `source`. Fails if a copy
    /// cannot be written.
    pub fn new(copies: Copies, loaded: Loaded, source: LegId) -> io::Result<Bitmap> {
        let Loaded { compare_all, expect, slots, images, .. } = loaded;
        let copies = copies.into_list();
        let table = Table::new(expect.header(compare_all), slots, source)?;
        // ORDER: one copy after the other. The union over the first loses nothing while the second
        // is what it was, and once the first is complete the second may be torn.
        for (id, store) in copies.iter().filter_map(|(id, store)| Some((id, store.as_ref()?))) {
            let old = images.iter().find(|(copy, _)| copy == id).and_then(|(_, image)| image.as_deref());
            bring_up(&**store, &table.pages, old.unwrap_or(&[]), &expect)?;
        }
        let in_use = std::array::from_fn(|copy| copies.get(copy).is_some_and(|(_, store)| store.is_some()));
        let copies =
            copies.into_iter().map(|(id, store)| (id, RwLock::new(Rank::Leaf, store.map(Arc::from))));
        let state = State {
            flush: Progress::new(table.pages.len(), in_use)?,
            table,
            making_room: false,
            waiting_for_room: 0,
            clears: 0,
            overflowed: false,
            marks: 0,
            marks_asked: 0,
            spared: 0,
        };
        Ok(Bitmap {
            state: Mutex::new(Rank::Bitmap, state),
            flushed: Condvar::new(),
            room: Condvar::new(),
            copies: copies.collect(),
            chunk: expect.chunk,
        })
    }

    /// Bytes that one bit stands for.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk
    }

    /// Marks all of `wants`, durably when it returns, until the intent is dropped and the slots have
    /// been cleared (O1). Nothing is allocated and `identities` is not asked when all is set
    /// already. Fails with the error of the copies when none can be written, of `identities`, or of
    /// the host when room has to be made; what was set stays set.
    pub fn mark(&self, host: &dyn Host, wants: &[Want<'_>]) -> io::Result<WriteIntent<'_>> {
        loop {
            if let Some(intent) = self.acquire(host, wants, Purpose::Change)? {
                return Ok(intent);
            }
        }
    }

    /// A mark made by the resync for something it has just built and whose data is to follow: the
    /// slot counts as needed by the resync. `None` when the resync may take no further slot: it must
    /// then finish that object at once, under an intent it has.
    pub fn mark_for_resync(&self, host: &dyn Host, want: &Want<'_>) -> io::Result<Option<SlotIndex>> {
        let intent = self.acquire(host, std::slice::from_ref(want), Purpose::Resync)?;
        Ok(intent.and_then(|intent| intent.held().iter().next()))
    }

    /// The same for what stands for all that has no slot, when everything is compared: there is always room for
    /// one such.
    pub fn mark_everything(&self, host: &dyn Host, want: &Want<'_>) -> io::Result<Option<SlotIndex>> {
        let intent = self.acquire(host, std::slice::from_ref(want), Purpose::Everything)?;
        Ok(intent.and_then(|intent| intent.held().iter().next()))
    }

    fn acquire(
        &self,
        host: &dyn Host,
        wants: &[Want<'_>],
        purpose: Purpose,
    ) -> io::Result<Option<WriteIntent<'_>>> {
        let mut known: Vec<Option<PerLeg<Identity>>> = Vec::new();
        let for_resync = purpose != Purpose::Change;
        loop {
            let mut held = Held::default();
            let mut state = self.state.lock();
            if state.overflowed && !for_resync {
                state.marks_asked += 1;
                return Ok(Some(WriteIntent::new(self, held)));
            }
            if let Some(unknown) = state.unknown(wants, &known) {
                drop(state);
                known.resize(wants.len(), None);
                known[unknown] = Some(wants[unknown].object.identities()?);
                continue;
            }
            if let Err(NoRoom) = state.cover(wants, &known, &mut held) {
                // Not waiting while holding: two marks could each wait for what the other holds.
                self.let_go(&mut state, &held);
                drop(state);
                if !self.make_room(host, !for_resync)? {
                    return Ok(None);
                }
                continue;
            }
            if for_resync && !state.need(&held, purpose) {
                self.let_go(&mut state, &held);
                return Ok(None);
            }
            let awaited = state.flush.awaited(&state.table, &held);
            state.marks_asked += 1;
            state.marks += u64::from(awaited.is_some());
            let away = state.table.is_away();
            drop(state);
            let intent = WriteIntent::new(self, held);
            if away {
                self.note_directories(wants, &known);
            }
            if let Some(flush) = awaited {
                self.wait_flushed(host, flush)?;
            }
            return Ok(Some(intent));
        }
    }

    /// Keeps in mind where the objects lie that have just got a slot. They have one that is held: whoever has moved
    /// one of them since, or does, has said so in it.
    fn note_directories(&self, wants: &[Want<'_>], known: &[Option<PerLeg<Identity>>]) {
        for (want, known) in wants.iter().zip(known) {
            if let Some((known, dir)) = known.zip(want.object.directory()) {
                self.state.lock().table.lies_in(&known, dir);
            }
        }
    }

    /// A resync begins, or ends: it knows slots by their number meanwhile.
    pub fn resyncs(&self, begins: bool) {
        let resyncs = &mut self.state.lock().table.resyncs;
        *resyncs = if begins { *resyncs + 1 } else { *resyncs - 1 };
    }

    /// So many slots may be in use while a leg is away, before fewer have to do.
    #[cfg(any(test, feature = "simulation"))]
    pub fn limit_while_away(&self, slots: usize) {
        self.state.lock().table.limit_while_away = slots;
    }

    /// An intent on a slot that is dirty already.
    pub fn hold(&self, slot: SlotIndex) -> WriteIntent<'_> {
        let mut held = Held::default();
        let mut state = self.state.lock();
        assert!(state.table.entry(slot).slot.is_some(), "slot {} is free and covers nothing", slot.0);
        state.table.hold(slot, &mut held);
        drop(state);
        WriteIntent::new(self, held)
    }

    /// An intent to settle what an idle slot covers: not a touch that keeps it from being cleared.
    /// `None` if somebody has touched or cleared it since it was listed.
    pub fn hold_idle(&self, idle: &IdleSlot) -> Option<WriteIntent<'_>> {
        let mut held = Held::default();
        let mut state = self.state.lock();
        if !state.table.hold_idle(idle.index, idle.version, &mut held) {
            return None;
        }
        drop(state);
        Some(WriteIntent::new(self, held))
    }

    /// Ends the changes of an intent.
    pub(super) fn release(&self, held: &Held) {
        self.let_go(&mut self.state.lock(), held);
    }

    fn let_go(&self, state: &mut State, held: &Held) {
        if state.table.release(held) && state.waiting_for_room > 0 {
            self.room.notify_all();
        }
    }

    /// Lets a moment pass for [`idle`](Self::idle). The sweeper calls it.
    pub fn tick(&self) {
        self.state.lock().table.tick += 1;
    }

    /// Slots with no intent in flight, not needed by the resync, untouched for so many ticks.
    pub fn idle(&self, untouched_for_ticks: u64) -> Vec<IdleSlot> {
        self.state.lock().idle(untouched_for_ticks).into_iter().map(|(_, idle)| idle).collect()
    }

    /// Clears those of `slots` that nobody touched since they were listed; returns how many. Only
    /// after both legs were settled and synced (O3). The copies follow with the next flush of the
    /// page or [`write_back`](Self::write_back).
    pub fn clear(&self, slots: &[IdleSlot]) -> usize {
        let mut state = self.state.lock();
        let cleared = state.clear(slots);
        self.room.notify_all();
        cleared
    }

    /// Writes pages with cleared slots that are not yet written. Failing is safe: the copies have
    /// bits over what is equal.
    pub fn write_back(&self, host: &dyn Host) -> io::Result<()> {
        let mut state = self.state.lock();
        let table = &mut state.table;
        if table.lazy.is_empty() && table.urgent.is_empty() {
            return Ok(());
        }
        table.urgent.take_from(&mut table.lazy);
        let flush = table.carrier;
        drop(state);
        self.wait_flushed(host, flush)
    }

    /// Whether everything must be compared, because the bitmap does not tell all.
    pub fn compare_all(&self) -> bool {
        self.state.lock().table.header().compare_all
    }

    /// Everything has to be compared from now on. Durable on return.
    pub fn set_compare_all(&self, host: &dyn Host) -> io::Result<()> {
        self.write_compare_all(host, true)
    }

    /// Everything has been compared, or is marked by slots that the resync needs. Durable on return.
    pub fn all_compared(&self, host: &dyn Host) -> io::Result<()> {
        self.write_compare_all(host, false)
    }

    fn write_compare_all(&self, host: &dyn Host, compare_all: bool) -> io::Result<()> {
        let mut state = self.state.lock();
        // FAIL-SAFE: since a leg has gone away, what is changed may have no slot because everything is to be compared.
        if !compare_all && state.table.is_away() {
            return Ok(());
        }
        if state.table.header().compare_all != compare_all {
            state.table.set_compare_all(compare_all);
        }
        // ORDER: also what somebody else has set, or could not write, is durable before anybody goes by it.
        let awaited = state.flush.awaited_header(&state.table);
        drop(state);
        awaited.map_or(Ok(()), |flush| self.wait_flushed(host, flush))
    }

    /// What the resync has yet to look at, in the order of the slots.
    pub fn unresynced(&self) -> Vec<DirtySlot> {
        let state = self.state.lock();
        let needed = state.table.used_slots().filter(|(_, entry, _)| entry.needed);
        needed.map(|(index, _, slot)| DirtySlot::new(index, slot)).collect()
    }

    /// All that is dirty, in the order of the slots.
    pub fn slots(&self) -> Vec<DirtySlot> {
        let state = self.state.lock();
        state.table.used_slots().map(|(index, _, slot)| DirtySlot::new(index, slot)).collect()
    }

    /// All that is dirty is needed by a resync from now on: a leg has come back. If that is more than it may need,
    /// everything is compared and the rest is dropped: marks need room beside it. Nobody may mark anything
    /// meanwhile.
    pub fn need_all(&self, host: &dyn Host) -> io::Result<()> {
        let too_many = |state: &State| state.table.used() > state.most_needed();
        if too_many(&self.state.lock()) {
            // ORDER: durable before a slot is dropped for it.
            self.set_compare_all(host)?;
        }
        let mut state = self.state.lock();
        let all: Vec<SlotIndex> = state.table.used_slots().map(|(index, _, _)| index).collect();
        for index in all {
            let entry = state.table.entry(index);
            if too_many(&state) && !entry.needed && entry.intents == 0 {
                state.table.clear(index);
            } else {
                state.table.set_needed(index, true);
            }
        }
        Ok(())
    }

    /// Another directory has taken `leg`'s place, or objects are numbered anew there: everything is to be compared, and
    /// what they were called there is forgotten. Nobody may mark anything meanwhile. Durable on return.
    pub fn start_over(&self, host: &dyn Host, leg: LegId) -> io::Result<()> {
        // ORDER: durable before a slot is dropped for it.
        self.set_compare_all(host)?;
        let mut state = self.state.lock();
        let all: Vec<SlotIndex> = state.table.used_slots().map(|(index, _, _)| index).collect();
        let mut held = Held::default();
        for index in all {
            match &state.table.entry(index).slot {
                Some(slot) if state.table.entry(index).intents > 0 => {
                    let mut identities = slot.identities;
                    identities[leg] = Identity::UNKNOWN;
                    state.table.rebind(index, identities, &mut held);
                    state.table.set_needed(index, true);
                }
                Some(_) => state.table.clear(index),
                None => {}
            }
        }
        drop(state);
        let _held = WriteIntent::new(self, held);
        self.write_back(host)
    }

    /// The object behind a slot has another identity on `leg` now (it was made anew there). Holds for
    /// all slots of that object. Durable on return.
    pub fn rebind(&self, host: &dyn Host, slot: SlotIndex, leg: LegId, identity: Identity) -> io::Result<()> {
        let mut held = Held::default();
        let mut state = self.state.lock();
        let Some(mut identities) = state.table.entry(slot).slot.as_ref().map(|slot| slot.identities) else {
            return Ok(());
        };
        identities[leg] = identity;
        state.table.rebind(slot, identities, &mut held);
        let awaited = state.flush.awaited(&state.table, &held);
        drop(state);
        let _held = WriteIntent::new(self, held);
        awaited.map_or(Ok(()), |flush| self.wait_flushed(host, flush))
    }

    /// Calls an object of a leg otherwise in all slots. Durable on return.
    pub fn rename(&self, host: &dyn Host, leg: LegId, old: &Identity, new: Identity) -> io::Result<()> {
        let mut held = Held::default();
        let mut state = self.state.lock();
        state.table.rename(leg, old, new, &mut held);
        let awaited = state.flush.awaited(&state.table, &held);
        drop(state);
        let _held = WriteIntent::new(self, held);
        awaited.map_or(Ok(()), |flush| self.wait_flushed(host, flush))
    }

    /// As `rebind`, for an object that may have no slot.
    pub fn renew(
        &self,
        host: &dyn Host,
        object: &PerLeg<Identity>,
        leg: LegId,
        identity: Identity,
    ) -> io::Result<()> {
        let slot = self.state.lock().table.slots_of(object).next().map(|(index, _)| index);
        slot.map_or(Ok(()), |slot| self.rebind(host, slot, leg, identity))
    }

    /// What its slots say that an object is on both legs, if it has any.
    pub fn identities_of(&self, object: &PerLeg<Identity>) -> Option<PerLeg<Identity>> {
        self.state.lock().table.slots_of(object).next().map(|(_, slot)| slot.identities)
    }

    /// The resync is done with this slot: it becomes an ordinary dirty one, for the sweep to clear.
    pub fn resynced(&self, slot: SlotIndex) {
        let mut state = self.state.lock();
        state.table.set_needed(slot, false);
        self.room.notify_all();
    }

    /// This leg is away: nothing can be cleared, and what is marked for the first time says that it was
    /// marked since. `None`: it is back.
    pub fn set_away(&self, leg: Option<LegId>) {
        let mut state = self.state.lock();
        state.table.set_away(leg);
        let told = state.table.header().compare_all && state.flush.awaited_header(&state.table).is_none();
        state.overflowed = leg.is_some() && told;
        self.room.notify_all();
    }

    /// Births were seen on these legs: of something in `dir`, of which a change is under way. Returns the word for
    /// [`Markable::cover`] of what was born: as long as it is good, what covers the directory covers that, too.
    pub fn born(&self, dir: &dyn Markable, births: PerLeg<Option<Timestamp>>) -> u64 {
        let mut state = self.state.lock();
        state.table.note_births(births);
        let own = dir.slot_hint().load(Ordering::Relaxed);
        let marked = if state.table.by_hint(own).is_some() { own } else { dir.cover() };
        let Some(index) = state.table.by_cover(marked) else { return 0 };
        let covers = |slot: &Slot| slot.kinds.contains(Kinds::ENTRIES) && slot.covers_birth(&births);
        if state.table.entry(index).slot.as_ref().is_some_and(covers) { marked } else { 0 }
    }

    /// Words for the slots that the object has: several perhaps since a crash.
    pub fn words_of(&self, object: &dyn Markable) -> io::Result<Vec<u64>> {
        let identities = object.identities()?;
        let state = self.state.lock();
        Ok(state.table.slots_of(&identities).map(|(index, _)| state.table.hint(index)).collect())
    }

    /// The latest births so far, on the legs that tell them: before anything is marked.
    pub fn note_births(&self, births: PerLeg<Option<Timestamp>>) {
        self.state.lock().table.note_births(births);
    }

    /// Whether a word of [`born`](Self::born) is still good.
    pub fn is_covered(&self, cover: u64) -> bool {
        self.state.lock().table.by_hint(cover).is_some()
    }

    /// The earliest watermark of this leg: what was born before is covered by no birth.
    pub fn born_since(&self, leg: LegId) -> Option<Timestamp> {
        self.state.lock().table.born_since(leg)
    }

    /// Whether this has been marked so since before a leg went away.
    pub fn was_marked_before(&self, object: &PerLeg<Identity>, kinds: Kinds) -> bool {
        self.state.lock().table.had_before(object, kinds)
    }

    /// That leg's copy is not written any more.
    pub fn stop_using(&self, leg: LegId) {
        if let Some(copy) = self.copy_of(CopyId::Leg(leg)) {
            self.state.lock().flush.stop_using(copy);
            // The leader of a flush may be stuck in it.
            self.flushed.notify_all();
        }
    }

    /// That leg's copy, which is not used any more; the caller's to let go of.
    pub fn take_copy(&self, leg: LegId) -> Option<Arc<dyn PageStore>> {
        self.copies[self.copy_of(CopyId::Leg(leg))?].1.write().take()
    }

    /// That leg has come back, with this file for a copy. It is brought up to date, durably, and used from
    /// now on. Nobody may mark anything meanwhile.
    pub fn use_again(&self, leg: LegId, store: Box<dyn PageStore>) -> io::Result<()> {
        let Some(copy) = self.copy_of(CopyId::Leg(leg)) else { return Ok(()) };
        let image = self.state.lock().table.pages.to_vec();
        // ORDER: the header last. Until then the copy has its old one, and tells more than there is.
        store.write(PageIndex(1), &image[PAGE_SIZE..])?;
        store.write(PageIndex(0), &image[..PAGE_SIZE])?;
        *self.copies[copy].1.write() = Some(Arc::from(store));
        self.state.lock().flush.use_again(copy);
        Ok(())
    }

    /// Counts, and what is dirty now.
    pub fn stats(&self) -> Stats {
        let state = self.state.lock();
        let compare_all = state.table.header().compare_all;
        Stats {
            bounded: !compare_all
                && state
                    .table
                    .used_slots()
                    .all(|(_, _, slot)| slot.from.is_none() && !slot.kinds.contains(Kinds::CHILDREN)),
            compare_all,
            covered_directories: state.table.covering() as u64,
            dirty_slots: state.table.used() as u64,
            dirty_chunks: state.table.used_slots().map(|(_, _, slot)| slot.chunk_count()).sum(),
            unresynced_slots: state.table.needed() as u64,
            marks: state.marks,
            marks_asked: state.marks_asked,
            spared: state.spared,
            flushes: state.flush.flushes,
            pages_written: state.flush.pages_written,
            clears: state.clears,
        }
    }
}

impl State {
    /// The first object whose slot is not known, nor its identities.
    fn unknown(&self, wants: &[Want<'_>], known: &[Option<PerLeg<Identity>>]) -> Option<usize> {
        let asked = |at: usize| known.get(at).is_some_and(Option::is_some);
        let found = |want: &Want<'_>| {
            want.slot == Needs::None || self.hinted(want).or_else(|| self.covered(want)).is_some()
        };
        (0..wants.len()).find(|&at| !asked(at) && !found(&wants[at]))
    }

    /// The slot that covers the object since its birth, if that will do.
    fn covered(&self, want: &Want<'_>) -> Option<SlotIndex> {
        match want.slot {
            Needs::Any | Needs::OwnOrCover | Needs::OwnOrNames if self.hinted(want).is_none() => {
                self.table.by_cover(want.object.cover())
            }
            _ => None,
        }
    }

    /// Whether its directory's own slot, which has just been held, tells enough of it.
    fn told_by_names(&self, want: &Want<'_>, dir: &Want<'_>) -> bool {
        want.slot == Needs::OwnOrNames
            && self.hinted(want).is_none()
            && self.hinted(dir).is_some_and(|dir| self.table.tells_names(dir))
    }

    fn hinted(&self, want: &Want<'_>) -> Option<SlotIndex> {
        self.table.by_hint(want.object.slot_hint().load(Ordering::Relaxed))
    }

    /// Sets and holds all of `wants`; `known` has the identities of those without a slot.
    fn cover(
        &mut self,
        wants: &[Want<'_>],
        known: &[Option<PerLeg<Identity>>],
        held: &mut Held,
    ) -> Result<(), NoRoom> {
        for (at, want) in wants.iter().enumerate() {
            if want.slot == Needs::None {
                continue;
            }
            if let Some(index) = self.covered(want) {
                self.spared += u64::from(want.slot != Needs::Any);
                self.table.hold(index, held);
                continue;
            }
            if self.told_by_names(want, &wants[0]) {
                self.spared += 1;
                continue;
            }
            let outlives = want.slot != Needs::Any && self.table.by_hint(want.object.cover()).is_some();
            let hinted = self.hinted(want);
            let hinted = hinted.and_then(|index| Some((index, self.table.entry(index).slot.as_ref()?)));
            let object = match hinted {
                Some((_, slot)) => slot.identities,
                None => known[at].expect("what has no slot has been asked for its identities"),
            };
            let (kinds, span) = self.table.all_to_mark(&object, want);
            match hinted.filter(|(_, slot)| slot.covers(kinds, &span) && !outlives).map(|(index, _)| index) {
                Some(index) => self.table.hold(index, held),
                None => self.table.cover(&object, kinds, &span, held)?,
            }
            if let Some(last) = held.iter().last() {
                if outlives {
                    self.table.outlive(last, want.object.cover());
                }
                want.object.slot_hint().store(self.table.hint(last), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn most_needed(&self) -> usize {
        super::room::most_needed(self.table.header().slots)
    }

    /// Says that the resync needs these; false if it may need no more.
    fn need(&mut self, held: &Held, purpose: Purpose) -> bool {
        let most = self.most_needed() + usize::from(purpose == Purpose::Everything);
        for index in held.iter() {
            if !self.table.entry(index).needed && self.table.needed() >= most {
                return false;
            }
            self.table.set_needed(index, true);
        }
        true
    }
}

/// Writes what differs from the `old` bytes of a copy.
fn bring_up(store: &dyn PageStore, pages: &[u8], old: &[u8], expect: &Expect) -> io::Result<()> {
    let same = |page: usize| {
        let bytes = page * PAGE_SIZE..(page + 1) * PAGE_SIZE;
        old.get(bytes.clone()) == Some(&pages[bytes])
    };
    let header = || if same(0) { Ok(()) } else { store.write(PageIndex(0), &pages[..PAGE_SIZE]) };
    let valid = format::decode_header(old).is_ok_and(|old| old == expect.header(old.compare_all));
    // ORDER: a valid header that has to say "compare all" says so before the slots that were
    // missing look whole. A header that was not valid becomes so after its slots: before that,
    // this copy tells nothing.
    if valid {
        header()?;
    }
    let count = pages.len() / PAGE_SIZE;
    let mut page = 1;
    while page < count {
        let end = (page..count).find(|&page| same(page)).unwrap_or(count);
        if page < end {
            store.write(PageIndex(page as u32), &pages[page * PAGE_SIZE..end * PAGE_SIZE])?;
        }
        page = end.max(page + 1);
    }
    if valid { Ok(()) } else { header() }
}
