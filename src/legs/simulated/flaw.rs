//! How a simulated leg is told to fail, and how it breaks an order rule on purpose: a proof that
//! cannot fail proves nothing.

use crate::legs::LegId;

/// A call that a fault may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Call {
    Lookup,
    Stat,
    ReadDir,
    Read,
    Open,
    Make,
    Link,
    Unlink,
    Rename,
    Attributes,
    Xattr,
    Truncate,
    Write,
    Fallocate,
    Sync,
    /// A write of its copy of the bitmap.
    Mark,
    /// A write of its superblock.
    Record,
}

/// Asked before each call; what it returns is the errno that the call fails with, having done nothing.
pub type FaultHook = Box<dyn FnMut(LegId, Call) -> Option<i32> + Send>;

/// An order rule that the leg breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// None.
    Sound,
    /// O2: a write is acknowledged and done at the leg's next call, so never when a crash comes first.
    WritesLate,
    /// P2: syncs do nothing.
    NeverSyncs,
    /// O3: the sync of everything, before bits are cleared, does nothing.
    ClearsUnsynced,
    /// O3: the sync of everything is done when the next one is asked for: bits are cleared too early.
    ClearsEarly,
    /// O7: parking an object deletes it.
    ParkingDeletes,
    /// A leg whose objects' numbers do not last says that they do.
    SeemsToLast,
}
