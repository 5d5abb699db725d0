//! The write-intent bitmap: which regions may differ between the legs.
//!
//! ```text
//!   mark(wants) -> WriteIntent     durable on every copy when it returns (O1); many share one flush
//!   drop(WriteIntent)              the change is over; the bit stays
//!   idle() -> settle, sync both legs -> clear()      lazily, in two steps (O3)
//! ```
//!
//! The bitmap never fails a mark for lack of room or memory: its slots are pinned pages allocated
//! at mount, and when all are taken the oldest idle ones are synced and cleared on the spot. While a leg
//! is away, fewer slots are made to say the same or more instead.
//!
//! `chunk`, `slot`, `format` and `load` are pure. `table` is the slots in memory, `flush` brings its
//! pages to the copies, `room` and `coarsen` free slots, `store` is a copy in a file, `host` what lies around.
//!
//! Invariants:
//! - a slot whose last change is not newer than the last good flush is on every copy in use;
//! - a page is written only with what the memory holds, so a copy never gets ahead of it;
//! - a slot with an intent in flight is never cleared;
//! - a slot that the resync still needs is never cleared;
//! - a slot of an object that is covered by another slot, too, is not cleared before that one.

mod chunk;
mod coarsen;
mod flush;
mod format;
mod host;
mod intent;
mod load;
mod marks;
mod pages;
mod room;
mod slot;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::{BitOr, Range};
use std::sync::atomic::AtomicU64;

pub use chunk::{ChunkIndex, ChunkSize};
pub use format::{MAX_SLOTS, MIN_SLOTS};
pub use host::{Copies, CopyId, Host, IdleSlot, PageStore};
pub use intent::WriteIntent;
pub use load::{Expect, Loaded, Verdict};
pub use marks::{Bitmap, DirtySlot, Stats};
pub use store::FileStore;

use crate::legs::{Identity, LegId, PerLeg};

/// Bytes of a page, the unit in which the file is written.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = 512;
/// Slots in a page.
pub const SLOTS_PER_PAGE: usize = PAGE_SIZE / SLOT_SIZE;
/// Slots of a bitmap file unless told otherwise: a file of 4 MiB and a header page.
pub const DEFAULT_SLOTS: u32 = 8192;

/// Number of a slot in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotIndex(pub u32);

/// Number of a page of the file; 0 is the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageIndex(pub u32);

/// What of an object may differ between the legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// Nothing.
    pub const NONE: Kinds = Kinds(0);
    /// The names in a directory, and what they name.
    pub const ENTRIES: Kinds = Kinds(1);
    /// Mode, owner, times, extended attributes, length; also that this object was moved or linked.
    pub const METADATA: Kinds = Kinds(2);
    /// The chunks that the slot's bits name.
    pub const DATA: Kinds = Kinds(4);

    /// All that was born below this directory since the slot's watermark: see [`Want::own`].
    pub const BORN: Kinds = Kinds(32);
    /// Of a directory, beside [`Kinds::ENTRIES`]: metadata and data of all that lies in it, but not what lies in
    /// its directories.
    pub const CHILDREN: Kinds = Kinds(64);
    /// The object has lost or got a name since the slot was taken, if that was while a leg was away.
    pub(super) const MOVED: Kinds = Kinds(128);

    /// The slot was taken while this leg was away.
    pub(super) fn since_away(leg: LegId) -> Kinds {
        Kinds(8 << leg as u8)
    }

    /// The bits as the file has them.
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// Whether the slot was taken while this leg was away, so by a change that the leg has missed.
    pub fn missed_by(self, leg: LegId) -> bool {
        self.contains(Kinds::since_away(leg))
    }

    /// From the bits in the file; reserved ones are kept.
    pub(super) fn from_bits(bits: u8) -> Kinds {
        Kinds(bits)
    }

    /// Whether the slot was taken while a leg was away.
    pub(super) fn is_since_away(self) -> bool {
        LegId::ALL.into_iter().any(|leg| self.missed_by(leg))
    }

    /// Whether all of `other` is in `self`.
    pub fn contains(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Kinds {
    type Output = Kinds;
    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

/// Which chunks of a file a mark covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// No data.
    None,
    /// These.
    Chunks(Range<ChunkIndex>),
    /// This one and all behind it, however long the file is or becomes.
    From(ChunkIndex),
}

/// An object that can be marked.
pub trait Markable {
    /// A word the bitmap keeps with the object, to find its slot without asking for identities.
    /// Starts as 0; means nothing to anyone else.
    fn slot_hint(&self) -> &AtomicU64;

    /// The word that [`Bitmap::born`] gave for it; 0 if it was not asked.
    fn cover(&self) -> u64 {
        0
    }

    /// What names the object on both legs. Asked for only when it may have no slot yet.
    fn identities(&self) -> io::Result<PerLeg<Identity>>;

    /// A directory in which it lies, as the source calls it; `None` where that is not known. Asked for while a leg
    /// is away, with a slot of the object held.
    fn directory(&self) -> Option<Identity> {
        None
    }
}

/// In which slot an object is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Where it has none of its own, the one that covers it since its birth will do.
    Any,
    /// One of its own, because its names change.
    Own,
    /// It gets another name in its directory, in place of the one it has: as [`Needs::Any`] if it is covered, and
    /// else one of its own.
    OwnOrCover,
    /// The same, of a file of which a resync may make a copy, and the name is one that nobody else has had since the
    /// slot of its directory was taken, the first of the wants: if it is clean, that one will do, too.
    OwnOrNames,
    /// None: it loses its last name, and the slot of its directory tells that.
    None,
}

/// One thing to mark.
pub struct Want<'a> {
    /// The object.
    pub object: &'a dyn Markable,
    /// What of it.
    pub kinds: Kinds,
    /// Which chunks, when `kinds` has [`Kinds::DATA`].
    pub span: Span,
    /// In which slot.
    pub slot: Needs,
    /// The object gets or loses a name by this change. What is all of it: as long as it stayed in its directory,
    /// a slot of that may have stood for it.
    pub moves: Option<Kinds>,
}
