//! What one slot says of one object. Pure: no bytes (see `format`), no place in the table.

use std::ops::Range;

use super::chunk::{ChunkIndex, WINDOW_CHUNKS, Window};
use super::{Kinds, Span};
use crate::legs::{Identity, LegId, PerLeg, Timestamp};

const WORDS: usize = WINDOW_CHUNKS as usize / 64;

/// The record of a dirty object, or of one window of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What of the object may differ.
    pub kinds: Kinds,
    /// Rises with each change of any slot: of two versions of one slot, the higher is the newer.
    pub serial: u64,
    /// What names the object.
    pub identities: PerLeg<Identity>,
    /// Which chunks the bits stand for.
    pub window: Window,
    /// This chunk and all behind it, in any window.
    pub from: Option<ChunkIndex>,
    /// The birth watermarks, if `kinds` has [`Kinds::BORN`].
    pub births: PerLeg<Timestamp>,
    /// Bit i of word w stands for chunk `window.first() + 64 * w + i`.
    pub bits: [u64; WORDS],
}

impl Slot {
    /// A slot of this object with nothing set.
    pub fn new(identities: PerLeg<Identity>) -> Slot {
        Slot {
            kinds: Kinds::NONE,
            serial: 0,
            identities,
            window: Window::of(ChunkIndex(0)),
            from: None,
            births: PerLeg::default(),
            bits: [0; WORDS],
        }
    }

    /// Whether any single chunk is set. Without, the slot can take any window.
    pub fn has_bits(&self) -> bool {
        self.bits.iter().any(|&word| word != 0)
    }

    /// Whether the slot has bits for `window`, or none at all yet.
    pub fn fits(&self, window: Window) -> bool {
        self.window == window || !self.has_bits()
    }

    /// Whether this slot alone says all of `kinds` and `span`.
    pub fn covers(&self, kinds: Kinds, span: &Span) -> bool {
        self.kinds.contains(kinds)
            && match span {
                Span::None => true,
                Span::From(chunk) => self.from.is_some_and(|from| from <= *chunk),
                Span::Chunks(range) => {
                    range.start >= range.end
                        || self.from.is_some_and(|from| from <= range.start)
                        || self.has_chunks(range)
                }
            }
    }

    fn has_chunks(&self, range: &Range<ChunkIndex>) -> bool {
        let same = |chunk| Window::of(chunk) == self.window;
        same(range.start)
            && same(ChunkIndex(range.end.0 - 1))
            && masks(self.window.bits_of(range)).all(|(word, mask)| self.bits[word] & mask == mask)
    }

    /// Adds kinds; false if they were there.
    pub fn add(&mut self, kinds: Kinds) -> bool {
        let news = !self.kinds.contains(kinds);
        self.kinds = self.kinds | kinds;
        news
    }

    /// What is born from now on is covered; `births` are the latest so far. False if earlier ones were set.
    pub fn cover_since(&mut self, births: PerLeg<Timestamp>) -> bool {
        let news =
            !self.kinds.contains(Kinds::BORN) || LegId::ALL.iter().any(|&leg| births[leg] < self.births[leg]);
        if news {
            self.births = self.births_with(births);
            self.kinds = self.kinds | Kinds::BORN;
        }
        news
    }

    fn births_with(&self, births: PerLeg<Timestamp>) -> PerLeg<Timestamp> {
        match self.kinds.contains(Kinds::BORN) {
            true => PerLeg::from_fn(|leg| self.births[leg].min(births[leg])),
            false => births,
        }
    }

    /// Whether what was born then is covered: on both legs, as these tell it.
    pub fn covers_birth(&self, births: &PerLeg<Option<Timestamp>>) -> bool {
        let after = |leg: LegId| births[leg].is_some_and(|born| born >= self.births[leg]);
        self.kinds.contains(Kinds::BORN) && LegId::ALL.into_iter().all(after)
    }

    /// Sets the chunks of `range` that lie in `window`; false if they were set. The slot must fit
    /// the window.
    pub fn set_chunks(&mut self, window: Window, range: &Range<ChunkIndex>) -> bool {
        assert!(self.fits(window), "a slot keeps its window while it has bits");
        self.window = window;
        let mut news = false;
        for (word, mask) in masks(window.bits_of(range)) {
            news |= self.bits[word] & mask != mask;
            self.bits[word] |= mask;
        }
        news
    }

    /// Sets chunks behind `range`, which whoever writes from front to back will want next: as many as were set
    /// without a gap before it, and not more than `most`. The window must be that of `range`.
    pub fn set_ahead(&mut self, range: &Range<ChunkIndex>, most: u64) {
        let here = self.window.bits_of(range);
        let is_set = |bit: &usize| self.bits[bit / 64] >> (bit % 64) & 1 == 1;
        let before = (0..here.start).rev().take(most as usize).take_while(is_set).count() as u64;
        let end = ChunkIndex((range.end.0 + before).min(self.window.first().0 + WINDOW_CHUNKS));
        if end > range.end {
            self.set_chunks(self.window, &(range.end..end));
        }
    }

    /// Sets `chunk` and all behind it; false if they were set.
    pub fn set_from(&mut self, chunk: ChunkIndex) -> bool {
        let news = self.from.is_none_or(|from| from > chunk);
        if news {
            self.from = Some(chunk);
        }
        news
    }

    /// Takes over what `other` says of the same object; false, and nothing done, if it has bits for
    /// another window.
    pub fn merge(&mut self, other: &Slot) -> bool {
        if !same_object(&self.identities, &other.identities) || other.has_bits() && !self.fits(other.window) {
            return false;
        }
        for leg in LegId::ALL {
            if !self.identities[leg].is_known() && other.identities[leg].is_known() {
                self.identities[leg] = other.identities[leg];
            }
        }
        if other.has_bits() {
            self.window = other.window;
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(mine, theirs)| *mine |= theirs);
        if other.kinds.contains(Kinds::BORN) {
            self.births = self.births_with(other.births);
        }
        self.kinds = self.kinds | other.kinds;
        if let Some(from) = other.from {
            self.set_from(from);
        }
        self.serial = self.serial.max(other.serial);
        true
    }

    /// The first chunk that it says may differ.
    pub fn first_chunk(&self) -> Option<ChunkIndex> {
        let single = self.chunks().first().map(|range| range.start);
        [single, self.from].into_iter().flatten().min()
    }

    /// Whether it says all that `other` says of the same object.
    pub fn says_all_of(&self, other: &Slot) -> bool {
        let all = other.chunks().into_iter().map(Span::Chunks).chain(other.from.map(Span::From));
        self.kinds.contains(other.kinds) && all.into_iter().all(|span| self.covers(Kinds::NONE, &span))
    }

    /// The chunks set one by one, as ranges in ascending order.
    pub fn chunks(&self) -> Vec<Range<ChunkIndex>> {
        let mut ranges: Vec<Range<ChunkIndex>> = Vec::new();
        for bit in 0..WINDOW_CHUNKS as usize {
            if self.bits[bit / 64] >> (bit % 64) & 1 == 0 {
                continue;
            }
            let chunk = self.window.first().0 + bit as u64;
            match ranges.last_mut() {
                Some(last) if last.end.0 == chunk => last.end = ChunkIndex(chunk + 1),
                _ => ranges.push(ChunkIndex(chunk)..ChunkIndex(chunk + 1)),
            }
        }
        ranges
    }

    /// How many chunks are set one by one; an open end counts as one more.
    pub fn chunk_count(&self) -> u64 {
        let single: u64 = self.bits.iter().map(|word| u64::from(word.count_ones())).sum();
        single + u64::from(self.from.is_some())
    }
}

/// Whether two slots are about one object: known by one identity on one leg, and not by two on the other.
fn same_object(a: &PerLeg<Identity>, b: &PerLeg<Identity>) -> bool {
    let both_known = |leg: &LegId| a[*leg].is_known() && b[*leg].is_known();
    let agree = |leg: LegId| a[leg] == b[leg];
    a == b || LegId::ALL.iter().any(both_known) && LegId::ALL.into_iter().filter(both_known).all(agree)
}

/// The words that `bits` touches, each with the mask of the bits in it.
fn masks(bits: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (bits.start / 64..bits.end.div_ceil(64)).map(move |word| {
        let low = bits.start.saturating_sub(word * 64);
        let high = (bits.end - word * 64).min(64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::new(PerLeg::new(Identity { ino: 1, handle: None }, Identity { ino: 2, handle: None }))
    }

    fn range(range: Range<u64>) -> Range<ChunkIndex> {
        ChunkIndex(range.start)..ChunkIndex(range.end)
    }

    #[test]
    fn what_was_set_is_covered_and_nothing_else() {
        for wanted in [0..1, 63..65, 0..2048, 64..128, 100..1000, 2047..2048] {
            let mut slot = slot();
            slot.kinds = Kinds::DATA;
            slot.set_chunks(Window::of(ChunkIndex(0)), &range(wanted.clone()));
            assert_eq!(slot.chunks(), [range(wanted.clone())]);
            for chunk in 0..4096 {
                let one = Span::Chunks(range(chunk..chunk + 1));
                assert_eq!(slot.covers(Kinds::DATA, &one), wanted.contains(&chunk), "{chunk} in {wanted:?}");
            }
            assert_eq!(slot.chunk_count(), wanted.end - wanted.start);
        }
    }

    #[test]
    fn as_much_is_set_ahead_as_was_set_before() {
        for (before, wanted, set) in [
            (0..0, 0..1, 0..1),
            (0..0, 700..701, 700..701),
            (0..1, 1..2, 0..3),
            (10..13, 13..14, 10..17),
            (10..12, 13..14, 13..14),
            (0..100, 100..101, 0..109),
            (60..64, 64..65, 60..69),
            (2040..2047, 2047..2048, 2040..2048),
            (2030..2044, 2044..2045, 2030..2048),
        ] {
            let mut slot = slot();
            let window = Window::of(ChunkIndex(0));
            slot.set_chunks(window, &range(before.clone()));
            slot.set_chunks(window, &range(wanted.clone()));
            slot.set_ahead(&range(wanted.clone()), 8);
            assert_eq!(slot.chunks().last(), Some(&range(set)), "{before:?}, {wanted:?}");
        }
    }

    #[test]
    fn an_open_end_covers_all_behind_it() {
        let mut slot = slot();
        slot.kinds = Kinds::DATA;
        slot.set_from(ChunkIndex(9000));
        slot.set_from(ChunkIndex(9500));
        assert!(slot.covers(Kinds::DATA, &Span::From(ChunkIndex(9000))));
        assert!(slot.covers(Kinds::DATA, &Span::Chunks(range(9000..1 << 50))));
        assert!(!slot.covers(Kinds::DATA, &Span::Chunks(range(8999..9001))));
        assert!(!slot.covers(Kinds::METADATA, &Span::None));
    }

    #[test]
    fn merging_is_a_union_and_refuses_another_window() {
        let (mut one, mut two) = (slot(), slot());
        one.kinds = Kinds::DATA;
        one.set_chunks(Window::of(ChunkIndex(0)), &range(1..3));
        two.kinds = Kinds::METADATA;
        two.serial = 7;
        two.set_from(ChunkIndex(4));
        assert!(one.merge(&two));
        assert!(one.kinds.contains(Kinds::DATA | Kinds::METADATA));
        assert_eq!((one.from, one.serial), (Some(ChunkIndex(4)), 7));
        two.set_chunks(Window::of(ChunkIndex(2048)), &range(2048..2049));
        let before = one.clone();
        assert!(!one.merge(&two));
        assert_eq!(one, before);
    }
}
