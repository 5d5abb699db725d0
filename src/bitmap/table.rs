//! The slots in memory and their bytes in the pages. No lock, no I/O; everything is allocated at
//! construction.
//!
//! ```text
//! object -> hash -> bucket -> slot -> slot -> ..     chained through `Entry::next`
//! ```
//!
//! An object is known by its identity on the key leg, the source: that one is always known, while
//! the other leg may be away.
//!
//! An object has one slot, or several when its chunks do not fit one window. An object that would
//! need more than [`MAX_WINDOWS`] of them, or a range wider than [`MAX_RANGE`], is marked from its
//! first chunk to the end instead: still right, only more to compare.
//!
//! Invariants:
//! - the bytes of a slot in `pages` are the encoding of its entry;
//! - a slot changed since the last snapshot has its page in `urgent`, one cleared has it in `lazy`.

use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Range;

use super::chunk::{ChunkIndex, Window};
use super::format::{self, Header};
use super::intent::Held;
use super::pages::{PageSet, Pages};
use super::slot::Slot;
use super::{Kinds, PAGE_SIZE, PageIndex, SLOTS_PER_PAGE, SlotIndex, Span};
use crate::legs::{Identity, LegId, PerLeg, Timestamp};

/// The most windows (slots with chunk bits) of one object: 512 GiB of it at 4 MiB a chunk.
pub const MAX_WINDOWS: usize = 64;
/// The most windows that one mark of a range sets.
pub const MAX_RANGE: usize = 4;

/// So many bytes of a file that is written from front to back are marked ahead, so that it does not cost a flush
/// for each chunk. A crash leaves as much to compare for nothing.
const AHEAD: u64 = 32 << 20;

const NONE: u32 = u32::MAX;

/// There is no free slot that this mark may take.
#[derive(Debug)]
pub struct NoRoom;

/// A slot in memory and who uses it.
pub struct Entry {
    /// What it says; `None` when free.
    pub slot: Option<Slot>,
    /// Changes that are under way.
    pub intents: u32,
    /// The resync has yet to look at it.
    pub needed: bool,
    /// Rises with each mark, so that a clear can see whether one came between.
    pub version: u64,
    /// The tick of the last mark or end of a change.
    pub touched: u64,
    /// Number of the flush that carries its last change.
    pub changed_in: u64,
    /// Hint of the slot that has to be cleared before; 0 for none.
    pub after: u64,
    /// It may stand for what was born below its directory. Not any more once a leg has been away: what that leg
    /// missed is told of each object by itself, and slots may have been put together meanwhile.
    gives_cover: bool,
    /// A directory in which the object lies, as long as it is not moved.
    pub lies_in: Option<Identity>,
    incarnation: u64,
    hash: u64,
    next: u32,
}

impl Entry {
    fn free() -> Entry {
        Entry {
            slot: None,
            intents: 0,
            needed: false,
            version: 0,
            touched: 0,
            changed_in: 0,
            after: 0,
            gives_cover: false,
            lies_in: None,
            incarnation: 0,
            hash: 0,
            next: NONE,
        }
    }
}

/// All slots.
pub struct Table {
    /// The file as it has to be.
    pub pages: Pages,
    /// Pages that a mark waits for.
    pub urgent: PageSet,
    /// Pages with cleared slots, to be written at leisure.
    pub lazy: PageSet,
    /// Number of the flush that will carry changes made now.
    pub carrier: u64,
    /// Raised by the sweeper; what "touched" is measured in.
    pub tick: u64,
    header: Header,
    /// Number of the flush that carries the header's last change.
    pub header_changed_in: u64,
    /// The leg by whose identities objects are told apart.
    key: LegId,
    /// The leg that is away: what is marked for the first time says so.
    away: Option<LegId>,
    /// The latest birth seen on each leg: what is born from now on is not older.
    births: PerLeg<Option<Timestamp>>,
    /// The earliest watermark when a leg went away.
    born_since: PerLeg<Option<Timestamp>>,
    entries: Vec<Entry>,
    buckets: Vec<u32>,
    /// Free slots, a bit each, a byte a page.
    free: Vec<u8>,
    /// Those of them that are not free in the file yet: cleared, and their page not written since.
    ghosts: Vec<u8>,
    cursor: usize,
    used: usize,
    needed: usize,
    /// Slots of directories that stand for what lies in them.
    covering: usize,
    /// How many resyncs are under way, which know slots by their number.
    pub resyncs: usize,
    /// How many slots may be in use before room is made while a leg is away.
    pub limit_while_away: usize,
    serial: u64,
}

/// Which chain the slots of an object are in that has this identity.
pub fn hash_of(identity: &Identity) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    identity.hash(&mut hasher);
    hasher.finish()
}

/// Where a slot is in the masks: the page of slots and the bit in its byte.
fn place_of(index: SlotIndex) -> (usize, u8) {
    (index.0 as usize / SLOTS_PER_PAGE, 1 << (index.0 as usize % SLOTS_PER_PAGE))
}

impl Table {
    /// A table with these slots, each needed by the resync and taken to be on the copies already.
    pub fn new(header: Header, slots: Vec<(SlotIndex, Slot)>, key: LegId) -> io::Result<Table> {
        let count = header.slots as usize;
        let len = format::file_len(header.slots);
        let mut table = Table {
            pages: Pages::new(len)?,
            urgent: PageSet::new(len / PAGE_SIZE),
            lazy: PageSet::new(len / PAGE_SIZE),
            carrier: 1,
            tick: 0,
            header,
            header_changed_in: 0,
            key,
            away: None,
            births: PerLeg::default(),
            born_since: PerLeg::default(),
            entries: (0..count).map(|_| Entry::free()).collect(),
            buckets: vec![NONE; count.next_power_of_two() * 2],
            free: vec![u8::MAX; count / SLOTS_PER_PAGE],
            ghosts: vec![0; count / SLOTS_PER_PAGE],
            cursor: 0,
            used: 0,
            needed: 0,
            covering: 0,
            resyncs: 0,
            limit_while_away: super::room::limit(count, 0),
            serial: 0,
        };
        format::encode_header(&header, &mut table.pages);
        for (index, slot) in slots {
            table.serial = table.serial.max(slot.serial);
            table.occupy(index, slot);
            table.encode(index);
            table.set_needed(index, true);
        }
        Ok(table)
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Changes the compare-all flag.
    pub fn set_compare_all(&mut self, compare_all: bool) {
        self.header.compare_all = compare_all;
        self.header_changed_in = self.carrier;
        format::encode_header(&self.header, &mut self.pages);
        self.urgent.insert(PageIndex(0));
    }

    /// Says which leg is away, and goes by the identities on the other one from now on.
    pub fn set_away(&mut self, away: Option<LegId>) {
        self.away = away;
        if let Some(away) = away {
            self.set_key(away.other());
            self.entries.iter_mut().for_each(|entry| entry.gives_cover = false);
        }
        let born_since = PerLeg::from_fn(|leg| self.earliest_watermark(leg));
        self.born_since = born_since;
    }

    fn earliest_watermark(&self, leg: LegId) -> Option<Timestamp> {
        let covering = self.used_slots().filter(|(_, _, slot)| slot.kinds.contains(Kinds::BORN));
        covering.map(|(_, _, slot)| slot.births[leg]).min()
    }

    /// The earliest watermark. While a leg is away no slot gets one and none is cleared, and it is asked for often.
    pub fn born_since(&self, leg: LegId) -> Option<Timestamp> {
        if self.is_away() { self.born_since[leg] } else { self.earliest_watermark(leg) }
    }

    fn set_key(&mut self, key: LegId) {
        if self.key == key {
            return;
        }
        self.key = key;
        self.buckets.fill(NONE);
        for at in 0..self.entries.len() {
            if let Some(slot) = self.entries[at].slot.take() {
                self.link(SlotIndex(at as u32), slot);
            }
        }
    }

    /// Whether a leg is away.
    pub fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// The leg that is away.
    pub fn away(&self) -> Option<LegId> {
        self.away
    }

    /// Whether some directory's slot stands for what lies in it.
    pub fn is_covering(&self) -> bool {
        self.covering > 0
    }

    /// Whether a move of the object must be seen in its slots.
    pub fn keeps_moves(&self, object: &PerLeg<Identity>) -> bool {
        self.away.is_some() || self.slots_of(object).any(|(_, slot)| slot.kinds.is_since_away())
    }

    /// How many directories' slots do.
    pub fn covering(&self) -> usize {
        self.covering
    }

    /// The object lies in this directory.
    pub fn lies_in(&mut self, object: &PerLeg<Identity>, dir: Identity) {
        let all: Vec<SlotIndex> = self.slots_of(object).map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.entry_mut(index).lies_in = Some(dir));
    }

    /// Whether some slot of the object has had all of `kinds` since before a leg went away.
    pub fn had_before(&self, object: &PerLeg<Identity>, kinds: Kinds) -> bool {
        let since = self.away.map_or(Kinds::NONE, Kinds::since_away);
        self.slots_of(object).any(|(_, slot)| slot.kinds.contains(kinds) && !slot.kinds.contains(since))
    }

    /// One slot.
    pub fn entry(&self, index: SlotIndex) -> &Entry {
        &self.entries[index.0 as usize]
    }

    /// One slot, for its counters; [`change`](Self::change) is for what it says.
    pub fn entry_mut(&mut self, index: SlotIndex) -> &mut Entry {
        &mut self.entries[index.0 as usize]
    }

    /// All slots in use.
    pub fn used_slots(&self) -> impl Iterator<Item = (SlotIndex, &Entry, &Slot)> {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(at, entry)| Some((SlotIndex(at as u32), entry, entry.slot.as_ref()?)))
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many the resync has yet to look at.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Says whether the resync needs a slot.
    pub fn set_needed(&mut self, index: SlotIndex, needed: bool) {
        let entry = self.entry_mut(index);
        if std::mem::replace(&mut entry.needed, needed) != needed {
            self.needed = if needed { self.needed + 1 } else { self.needed - 1 };
        }
    }

    /// A word by which the slot can be found again as long as it belongs to the same object.
    pub fn hint(&self, index: SlotIndex) -> u64 {
        (self.entry(index).incarnation << 24) | u64::from(index.0 + 1)
    }

    /// The slot a hint stands for, if it still does.
    pub fn by_hint(&self, hint: u64) -> Option<SlotIndex> {
        let index = SlotIndex(((hint & 0xff_ffff) as u32).checked_sub(1)?);
        let entry = self.entries.get(index.0 as usize)?;
        (entry.slot.is_some() && self.hint(index) == hint).then_some(index)
    }

    /// Holds a slot: it is not cleared until [`release`](Self::release).
    pub fn hold(&mut self, index: SlotIndex, held: &mut Held) {
        let tick = self.tick;
        let entry = self.entry_mut(index);
        entry.intents += 1;
        entry.version += 1;
        entry.touched = tick;
        held.push(index);
    }

    /// Holds a slot that is as it was in `version`; does not count as a touch.
    pub fn hold_idle(&mut self, index: SlotIndex, version: u64, held: &mut Held) -> bool {
        let entry = self.entry_mut(index);
        let same = entry.slot.is_some() && entry.version == version;
        if same {
            entry.intents += 1;
            held.push(index);
        }
        same
    }

    /// Ends the holding of these; true if some slot is held by nobody any more.
    pub fn release(&mut self, held: &Held) -> bool {
        let tick = self.tick;
        let mut some_free = false;
        for index in held.iter() {
            let entry = self.entry_mut(index);
            entry.intents -= 1;
            entry.touched = tick;
            some_free |= entry.intents == 0;
        }
        some_free
    }

    /// Sets and holds what covers `kinds` and `span` of the object. What was set before room ran
    /// out stays set: harmless, and there when the mark is tried again.
    pub fn cover(
        &mut self,
        object: &PerLeg<Identity>,
        kinds: Kinds,
        span: &Span,
        held: &mut Held,
    ) -> Result<(), NoRoom> {
        // On a leg that is away it is what its first slot says, wherever it is by now.
        let known = self.slots_of(object).next().map(|(_, slot)| slot.identities);
        let object = &known.unwrap_or(*object);
        match self.narrowed(object, span) {
            Span::None => {
                let births = self.births_for(object, kinds);
                let has = |slot: &Slot| slot.kinds.contains(kinds);
                let one = self.slots_of(object).find(|(_, slot)| has(slot)).map(|(index, _)| index);
                self.set(
                    object,
                    held,
                    |(index, _)| one.is_none_or(|one| one == index),
                    |slot| slot.add(kinds) | births.is_some_and(|births| slot.cover_since(births)),
                )
            }
            Span::From(chunk) => self.cover_from(object, kinds, chunk, held),
            Span::Chunks(range) => self.cover_chunks(object, kinds, range, held),
        }
    }

    /// The watermark for a directory whose names change, unless it has one.
    fn births_for(&self, object: &PerLeg<Identity>, kinds: Kinds) -> Option<PerLeg<Timestamp>> {
        let covers = |slot: &Slot| slot.kinds.contains(Kinds::BORN);
        if !kinds.contains(Kinds::ENTRIES)
            || self.is_away()
            || self.slots_of(object).any(|(_, slot)| covers(slot))
        {
            return None;
        }
        Some(PerLeg::new(self.births[LegId::A]?, self.births[LegId::B]?))
    }

    /// A birth was seen on each of these legs.
    pub fn note_births(&mut self, births: PerLeg<Option<Timestamp>>) {
        for leg in LegId::ALL {
            self.births[leg] = self.births[leg].max(births[leg]);
        }
    }

    /// Whether it is known who has had the names in this slot's directory since the last sync that cleared it or
    /// ended a resync.
    pub fn tells_names(&self, index: SlotIndex) -> bool {
        let entry = self.entry(index);
        entry.gives_cover && !self.waits(entry)
    }

    /// The slot behind a hint, if it may stand for what it covers by birth.
    pub fn by_cover(&self, cover: u64) -> Option<SlotIndex> {
        self.by_hint(cover).filter(|&index| self.entry(index).gives_cover)
    }

    /// This slot's object is covered by another slot, too: it takes over that one's watermark and outlives it.
    ///
    /// So what is marked under that slot alone stays within reach of a slot wherever the object is moved, and
    /// a change that was marked so and is still under way keeps this slot from being cleared.
    pub fn outlive(&mut self, index: SlotIndex, cover: u64) {
        let Some(other) = self.by_hint(cover).filter(|&other| other != index) else { return };
        let births = self.entry(other).slot.as_ref().map(|slot| slot.births);
        self.entry_mut(index).after = cover;
        let is_directory = |slot: &Slot| slot.kinds.contains(Kinds::ENTRIES);
        self.change(index, |slot| {
            births.is_some_and(|births| is_directory(slot) && slot.cover_since(births))
        });
    }

    /// Whether a slot has to wait for another one to be cleared.
    pub fn waits(&self, entry: &Entry) -> bool {
        self.by_hint(entry.after).is_some()
    }

    /// The span as it will be set: too wide a range becomes an open end, an empty one nothing.
    fn narrowed(&self, object: &PerLeg<Identity>, span: &Span) -> Span {
        let Span::Chunks(range) = span else { return span.clone() };
        if range.start >= range.end {
            return Span::None;
        }
        let wanted = Window::touching(range).take(MAX_RANGE + 1).count();
        if wanted > MAX_RANGE {
            return Span::From(range.start);
        }
        let new = |window| !self.slots_of(object).any(|(_, slot)| slot.fits(window));
        if Window::touching(range).any(new) {
            let windows = self.slots_of(object).filter(|(_, slot)| slot.has_bits()).count();
            let open = self.open_end(object).is_some_and(|(_, from)| from <= range.start);
            if windows + wanted > MAX_WINDOWS && !open {
                return Span::From(range.start);
            }
        }
        span.clone()
    }

    fn cover_from(
        &mut self,
        object: &PerLeg<Identity>,
        kinds: Kinds,
        chunk: ChunkIndex,
        held: &mut Held,
    ) -> Result<(), NoRoom> {
        let open = self.open_end(object).map(|(index, _)| index);
        let choose = |(index, _): (SlotIndex, &Slot)| open.is_none_or(|open| open == index);
        self.set(object, held, choose, |slot| slot.add(kinds) | slot.set_from(chunk))
    }

    fn cover_chunks(
        &mut self,
        object: &PerLeg<Identity>,
        kinds: Kinds,
        mut range: Range<ChunkIndex>,
        held: &mut Held,
    ) -> Result<(), NoRoom> {
        if let Some((open, from)) = self.open_end(object)
            && from < range.end
        {
            range.end = range.start.max(from);
            self.set(object, held, |(index, _)| index == open, |slot| slot.add(kinds))?;
        }
        // What a leg misses that is away is told exactly: it is read again at its return, however much that is.
        let ahead = if self.is_away() { 0 } else { self.header.chunk.within(AHEAD) };
        for window in Window::touching(&range) {
            let choose = |(_, slot): (SlotIndex, &Slot)| slot.fits(window);
            let own = |slot: &Slot| slot.has_bits() && slot.window == window;
            let exact = self.slots_of(object).find(|(_, slot)| own(slot)).map(|(index, _)| index);
            let choose =
                |found: (SlotIndex, &Slot)| exact.map_or_else(|| choose(found), |own| own == found.0);
            self.set(object, held, choose, |slot| {
                let new_chunks = slot.set_chunks(window, &range);
                if new_chunks {
                    slot.set_ahead(&range, ahead);
                }
                slot.add(kinds) | new_chunks
            })?;
        }
        Ok(())
    }

    /// Sets and holds a slot of the directory that stands for all that lies in it. It may be one of those that
    /// no mark gets.
    pub fn cover_children(&mut self, dir: &PerLeg<Identity>, held: &mut Held) -> Result<(), NoRoom> {
        let known = self.slots_of(dir).next().map(|(index, slot)| (index, slot.kinds));
        let (index, kinds) = match known {
            Some(known) => known,
            None => {
                let most = super::room::most_needed(self.header.slots);
                (self.allocate_below(dir, most)?, Kinds::NONE)
            }
        };
        self.covering += usize::from(!kinds.contains(Kinds::CHILDREN));
        self.hold(index, held);
        self.change(index, |slot| slot.add(Kinds::ENTRIES | Kinds::CHILDREN));
        Ok(())
    }

    /// Sets and holds a slot that says the same as `other`, or more, of the same object: everything from the
    /// first of its chunks on.
    pub fn absorb(&mut self, index: SlotIndex, other: &Slot, held: &mut Held) {
        self.hold(index, held);
        self.change(index, |slot| {
            let all = [slot.first_chunk(), other.first_chunk()];
            let from = all.into_iter().flatten().min();
            slot.add(other.kinds) | from.is_some_and(|from| slot.set_from(from))
        });
    }

    /// Holds the first slot of the object that `choose` likes, or a new one, and changes it by
    /// `change`, which says whether there was anything to change.
    fn set(
        &mut self,
        object: &PerLeg<Identity>,
        held: &mut Held,
        choose: impl Fn((SlotIndex, &Slot)) -> bool,
        change: impl FnOnce(&mut Slot) -> bool,
    ) -> Result<(), NoRoom> {
        let found = self.slots_of(object).find(|&(index, slot)| choose((index, slot)));
        let index = match found.map(|(index, _)| index) {
            Some(index) => index,
            None => self.allocate(object)?,
        };
        self.hold(index, held);
        self.change(index, change);
        Ok(())
    }

    /// Changes what a slot says; `change` says whether it did.
    fn change(&mut self, index: SlotIndex, change: impl FnOnce(&mut Slot) -> bool) {
        let serial = self.serial + 1;
        let entry = &mut self.entries[index.0 as usize];
        let slot = entry.slot.as_mut().expect("only slots in use are changed");
        if change(slot) {
            slot.serial = serial;
            entry.changed_in = self.carrier;
            self.serial = serial;
            self.encode(index);
            self.urgent.insert(format::page_of(index));
        }
    }

    /// Slots of one object, any order.
    pub fn slots_of<'a>(
        &'a self,
        object: &'a PerLeg<Identity>,
    ) -> impl Iterator<Item = (SlotIndex, &'a Slot)> + 'a {
        let hash = hash_of(&object[self.key]);
        let mut at = self.buckets[self.bucket(hash)];
        std::iter::from_fn(move || {
            while at != NONE {
                let index = SlotIndex(at);
                let entry = self.entry(index);
                at = entry.next;
                match &entry.slot {
                    Some(slot) if entry.hash == hash && slot.identities[self.key] == object[self.key] => {
                        return Some((index, slot));
                    }
                    _ => {}
                }
            }
            None
        })
    }

    /// The object's slot with the lowest open end.
    fn open_end(&self, object: &PerLeg<Identity>) -> Option<(SlotIndex, ChunkIndex)> {
        self.slots_of(object)
            .filter_map(|(index, slot)| Some((index, slot.from?)))
            .min_by_key(|&(_, from)| from)
    }

    /// Gives every slot of an object another name; they count as changed.
    pub fn rebind(&mut self, index: SlotIndex, identities: PerLeg<Identity>, held: &mut Held) {
        let Some(old) = self.entry(index).slot.as_ref().map(|slot| slot.identities) else { return };
        if old == identities {
            return;
        }
        let all: Vec<SlotIndex> = self.slots_of(&old).map(|(index, _)| index).collect();
        for index in all {
            self.rewrite(index, identities, held);
        }
    }

    /// Calls an object of a leg otherwise in all slots; what they say of the other leg stays.
    pub fn rename(&mut self, leg: LegId, old: &Identity, new: Identity, held: &mut Held) {
        let all: Vec<_> = self.used_slots().map(|(index, _, slot)| (index, slot.identities)).collect();
        for (index, mut identities) in all.into_iter().filter(|(_, identities)| identities[leg] == *old) {
            identities[leg] = new;
            self.rewrite(index, identities, held);
        }
    }

    fn rewrite(&mut self, index: SlotIndex, identities: PerLeg<Identity>, held: &mut Held) {
        self.unlink(index);
        let mut slot = self.entry_mut(index).slot.take().expect("a linked slot is in use");
        slot.identities = identities;
        self.link(index, slot);
        self.hold(index, held);
        self.change(index, |_| true);
    }

    /// Frees a slot, in memory and in its page. The page is written at leisure.
    pub fn clear(&mut self, index: SlotIndex) {
        self.set_needed(index, false);
        self.unlink(index);
        let entry = self.entry_mut(index);
        entry.lies_in = None;
        let covered = entry.slot.take().is_some_and(|slot| slot.kinds.contains(Kinds::CHILDREN));
        self.covering -= usize::from(covered);
        self.pages[format::slot_range(index)].fill(0);
        self.lazy.insert(format::page_of(index));
        let (page, bit) = place_of(index);
        self.free[page] |= bit;
        self.ghosts[page] |= bit;
        self.used -= 1;
    }

    /// The pages of a snapshot have the cleared slots in them cleared.
    pub fn carried(&mut self, pages: &PageSet) {
        self.lazy.remove_all(pages);
        for page in pages.runs().flatten().filter_map(|page| page.checked_sub(1)) {
            self.ghosts[page] = 0;
        }
    }

    /// Takes a free slot near the last one taken, so that marks made together share a page.
    ///
    /// Ghosts come first: so the file never has more slots in use than the memory ever had, and the
    /// next mount not more than `room` allows for.
    fn allocate(&mut self, object: &PerLeg<Identity>) -> Result<SlotIndex, NoRoom> {
        let limit = match self.away {
            Some(_) => self.limit_while_away,
            None => super::room::limit(self.entries.len(), self.needed),
        };
        self.allocate_below(object, limit)
    }

    fn allocate_below(&mut self, object: &PerLeg<Identity>, limit: usize) -> Result<SlotIndex, NoRoom> {
        if self.used >= limit {
            return Err(NoRoom);
        }
        let near = |masks: &[u8]| {
            let mut pages = (self.cursor..masks.len()).chain(0..self.cursor);
            pages.find(|&page| masks[page] != 0).map(|page| (page, masks[page]))
        };
        let ghost = if self.lazy.is_empty() { None } else { near(&self.ghosts) };
        let (page, mask) = ghost.or_else(|| near(&self.free)).ok_or(NoRoom)?;
        self.cursor = page;
        let index = SlotIndex((page * SLOTS_PER_PAGE) as u32 + mask.trailing_zeros());
        self.occupy(index, Slot::new(*object));
        let since = self.away.map_or(Kinds::NONE, Kinds::since_away);
        self.change(index, |slot| {
            slot.add(since);
            true
        });
        Ok(index)
    }

    fn occupy(&mut self, index: SlotIndex, slot: Slot) {
        let (page, bit) = place_of(index);
        self.free[page] &= !bit;
        self.ghosts[page] &= !bit;
        self.used += 1;
        let both_are_there = self.away.is_none();
        let entry = self.entry_mut(index);
        entry.incarnation += 1;
        entry.after = 0;
        entry.gives_cover = both_are_there;
        self.covering += usize::from(slot.kinds.contains(Kinds::CHILDREN));
        self.link(index, slot);
    }

    fn link(&mut self, index: SlotIndex, slot: Slot) {
        let hash = hash_of(&slot.identities[self.key]);
        let bucket = self.bucket(hash);
        let next = std::mem::replace(&mut self.buckets[bucket], index.0);
        let entry = self.entry_mut(index);
        entry.slot = Some(slot);
        entry.hash = hash;
        entry.next = next;
    }

    fn unlink(&mut self, index: SlotIndex) {
        let (bucket, next) = (self.bucket(self.entry(index).hash), self.entry(index).next);
        if self.buckets[bucket] == index.0 {
            self.buckets[bucket] = next;
            return;
        }
        let mut at = self.buckets[bucket];
        while self.entries[at as usize].next != index.0 {
            at = self.entries[at as usize].next;
        }
        self.entries[at as usize].next = next;
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn encode(&mut self, index: SlotIndex) {
        let slot = self.entries[index.0 as usize].slot.as_ref().expect("only slots in use are encoded");
        format::encode_slot(slot, &mut self.pages[format::slot_range(index)]);
    }
}
