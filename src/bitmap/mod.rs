//! The write-intent bitmap: which regions may differ between the legs.
//!
//! ```text
//!   mark(wants) -> WriteIntent     durable on every copy when it returns (O1); many share one flush
//!   drop(WriteIntent)              the change is over; the bit stays
//!   idle() -> settle, sync both legs -> clear()      lazily, in two steps (O3)
//! ```
//!
//! The bitmap never fails a mark for lack of room or memory: its slots are pinned pages allocated
//! at mount, and when all are taken the oldest idle ones are synced and cleared on the spot.
//!
//! Invariants:
//! - a bit set in memory and not in `unflushed` is set on every copy;
//! - a slot with an intent in flight is never cleared;
//! - a slot that the resync still needs is never cleared.

use std::io;
use std::ops::{BitOr, Range};

use std::sync::atomic::AtomicU64;

use crate::legs::{Identity, PerLeg};

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

/// Number of a chunk within its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkIndex(pub u64);

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

    /// What names the object on both legs. Asked for only when it may have no slot yet.
    fn identities(&self) -> io::Result<PerLeg<Identity>>;
}

/// One thing to mark.
pub struct Want<'a> {
    /// The object.
    pub object: &'a dyn Markable,
    /// What of it.
    pub kinds: Kinds,
    /// Which chunks, when `kinds` has [`Kinds::DATA`].
    pub span: Span,
}

/// The proof that what is about to change is marked, durably, on every copy of the bitmap (O1).
///
/// FAIL-SAFE: dropping it ends the change and leaves the bits set. That costs a compare at the next
/// resync, never data.
pub struct WriteIntent<'a> {
    _bitmap: std::marker::PhantomData<&'a ()>,
}

impl WriteIntent<'_> {
    /// For `mirrorfs create`, which fills a directory that is not yet half of a mirror: there is
    /// nothing that could be unequal to it.
    pub fn before_first_mount() -> WriteIntent<'static> {
        WriteIntent { _bitmap: std::marker::PhantomData }
    }
}
