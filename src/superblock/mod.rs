//! What each leg says about the mirror and about the other leg.
//!
//! ```text
//!   store    two slots in .mirrorfs/superblock, written in turn, durable    bytes on disk
//!   format   bytes <-> Superblock, which of two slots counts                pure
//!   plan     two superblocks -> source and work, or a refusal               pure
//!   refusal  what a refusal tells the user                                  pure
//!   advance  mount, fault, unmount: the order of writes that survives a crash
//!   discard  one of two legs that have diverged is given up                 pure
//!   replace  a new leg takes the place of one that is away                  pure
//! ```
//!
//! What the fields mean together:
//! - `generation` names a history. It stays the same while both legs go together; a leg that goes on
//!   alone starts a new one and remembers the old ones as ancestors. So two legs that each went on
//!   alone never look like one that is merely behind.
//! - `events` counts the changes of state within a generation. A leg that has fewer has missed a
//!   change of state, not necessarily one of data.
//! - `events_cleared` says how far the bitmap reaches back: it covers everything that differs from a
//!   leg whose `events` is at least this. It is raised only after the other leg has caught up, and
//!   no bit is cleared before; while degraded it stands still (O4).
//! - `source` is recorded from the moment a resync is decided until it is done, so that the next
//!   mount goes on in the same direction.

pub mod advance;
mod discard;
mod format;
mod plan;
mod refusal;
mod replace;
pub mod store;

use uuid::Uuid;

use crate::legs::{LegId, PerLeg, Timestamp};

pub use advance::{FoundSide, NotWritten, SuperblockStore, Superblocks};
pub use format::{SLOT_SIZE, SlotFault, VERSION};
pub use plan::{DivergentBecause, Plan, Refusal, Work, plan, plan_alone};
pub use refusal::ways_out;
pub use replace::{Unfit, fits};
pub use store::FileStore;

/// How many former generations a superblock remembers.
pub const ANCESTORS: usize = 8;

/// What a leg knows of the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It has everything that this leg has, apart from what the bitmap names.
    InSync,
    /// It failed, and this leg went on without it.
    Stale {
        /// The most `events` that the peer can have had when it was left behind.
        since_events: u64,
        /// Why it was left behind: the errno it gave.
        errno: i32,
    },
    /// It came back and is being brought up to date from this leg.
    Recovering,
}

/// Where the write-intent bitmap is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapPlace {
    /// One copy in each leg's `.mirrorfs`.
    Leg,
    /// A single copy in a file elsewhere, named at mount.
    Elsewhere,
}

/// One leg's view of the mirror. Exists only as made by `create` or read from a verified slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The mirror's identity, the same on both legs.
    pub mirror: Uuid,
    /// This leg's identity.
    pub leg: Uuid,
    /// The other leg's identity.
    pub peer: Uuid,
    /// Which of the two this leg is.
    pub role: LegId,
    /// The history that this leg's content belongs to (random).
    pub generation: u64,
    /// Former generations, latest first; 0 where there is none.
    pub ancestors: [u64; ANCESTORS],
    /// Changes of state so far.
    pub events: u64,
    /// The bitmap covers what a leg misses that has at least this many events.
    pub events_cleared: u64,
    /// What this leg knows of the other.
    pub peer_state: PeerState,
    /// The resync in progress reads from this leg.
    pub source: Option<LegId>,
    /// While the peer is not in sync: what was born on this leg before was born on the peer as well, what
    /// at this time or later perhaps was not. `None` where that is not known: perhaps nothing was.
    pub alone_since: Option<Timestamp>,
    /// Bytes covered by one bit: what a `ChunkSize` can be.
    pub chunk_size: u64,
    /// Slots in the bitmap file.
    pub bitmap_slots: u32,
    /// Where the bitmap is kept.
    pub bitmap_place: BitmapPlace,
    /// Which file elsewhere holds the bitmap, as its header says; nil if it is on the legs. New at each
    /// mount that finds the mirror clean.
    pub bitmap_file: Uuid,
    /// Not mounted since this was written, and nothing was in flight then.
    pub clean: bool,
    /// Counts the writes to this leg's superblock file; the higher of two valid slots counts. Set by
    /// the store.
    pub sequence: u64,
}

/// The size of things, chosen when a mirror is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes covered by one bit: what a `ChunkSize` can be.
    pub chunk_size: u64,
    /// Slots in the bitmap file.
    pub bitmap_slots: u32,
    /// Where the bitmap is kept.
    pub bitmap_place: BitmapPlace,
}

impl Superblock {
    /// Both legs' superblocks of a new mirror, clean and in sync, with fresh random identities.
    pub fn new_pair(geometry: Geometry) -> PerLeg<Superblock> {
        let mirror = Uuid::new_v4();
        let legs = PerLeg::from_fn(|_| Uuid::new_v4());
        let generation = new_generation();
        PerLeg::from_fn(|role| Superblock {
            mirror,
            leg: legs[role],
            peer: legs[role.other()],
            role,
            generation,
            ancestors: [0; ANCESTORS],
            events: 1,
            events_cleared: 1,
            peer_state: PeerState::InSync,
            source: None,
            alone_since: None,
            chunk_size: geometry.chunk_size,
            bitmap_slots: geometry.bitmap_slots,
            bitmap_place: geometry.bitmap_place,
            bitmap_file: Uuid::nil(),
            clean: true,
            sequence: 0,
        })
    }

    /// The sizes chosen at creation, and where the bitmap is now.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            chunk_size: self.chunk_size,
            bitmap_slots: self.bitmap_slots,
            bitmap_place: self.bitmap_place,
        }
    }
}

/// Any number that no other history has; 0 stands for "none" among the ancestors.
fn new_generation() -> u64 {
    Uuid::new_v4().as_u64_pair().0 | 1
}

/// What was found where a leg's superblock should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A leg of a mirror.
    Leg {
        /// The newest valid slot.
        superblock: Superblock,
        /// What is wrong with the other slot, which the next write repairs.
        damaged_slot: Option<SlotFault>,
    },
    /// No such directory, or it cannot be reached: the errno.
    Missing(i32),
    /// A directory without anything in it: perhaps the disk that belongs there is not mounted.
    Empty,
    /// A directory with files but without a superblock.
    NotAMirror,
    /// A superblock file of which neither slot can be trusted: why, for slot 0 and slot 1.
    Damaged([SlotFault; 2]),
    /// Written by a program that knows this later format version.
    NewerVersion(u32),
}

#[cfg(test)]
pub mod testing {
    //! A small random source for the property tests of this module.

    /// Repeats itself exactly for the same seed.
    pub struct Random(u64);

    impl Random {
        /// Seeded by MIRRORFS_TEST_SEED, else by fresh randomness; says which.
        pub fn announced() -> Random {
            let given = std::env::var("MIRRORFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
            let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
            println!("replay with MIRRORFS_TEST_SEED={seed}");
            Random(seed)
        }

        /// 64 random bits.
        pub fn number(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        /// 0 up to, not including, `end`.
        pub fn below(&mut self, end: u64) -> u64 {
            self.number() % end
        }

        /// One of these.
        pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
            &from[self.below(from.len() as u64) as usize]
        }
    }
}
