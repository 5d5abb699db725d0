//! Claims of the whole bitmap, on copies in memory that record, fail and tear as told.

mod coarsening;
mod loading;
mod marking;
mod random;
mod rooms;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use uuid::Uuid;

use super::*;
use crate::error::errno;
use crate::legs::{Handle, LegId};
use crate::sync::{Mutex, Rank};

pub const MIRROR: Uuid = Uuid::from_u128(0x1234);

/// What a test's superblock would say.
pub fn expect(slots: u32) -> Expect {
    Expect { mirror: MIRROR, slots, chunk: ChunkSize::DEFAULT, file: Uuid::nil(), stale: None }
}

/// A copy in memory. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    bytes: Mutex<Vec<u8>>,
    writes: AtomicUsize,
    /// The errno that writes fail with; 0: they work.
    failing: AtomicU64,
    /// A failing write still changes each sector with a chance of one half.
    tearing: AtomicBool,
    random: Mutex<Random>,
}

impl Memory {
    pub fn new(bytes: Vec<u8>) -> Memory {
        Memory(Arc::new(Inner {
            bytes: Mutex::new(Rank::Leaf, bytes),
            writes: AtomicUsize::new(0),
            failing: AtomicU64::new(0),
            tearing: AtomicBool::new(false),
            random: Mutex::new(Rank::Leaf, Random(99)),
        }))
    }

    pub fn empty(slots: u32) -> Memory {
        Memory::new(Bitmap::create_image(MIRROR, slots, ChunkSize::DEFAULT))
    }

    /// What would be there after a crash.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.bytes.lock().clone()
    }

    pub fn writes(&self) -> usize {
        self.0.writes.load(Ordering::SeqCst)
    }

    pub fn fail(&self, errno: i32) {
        self.0.failing.store(errno as u64, Ordering::SeqCst);
    }

    pub fn tear(&self) {
        self.0.tearing.store(true, Ordering::SeqCst);
    }
}

impl PageStore for Memory {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes())
    }

    fn write(&self, page: PageIndex, new: &[u8]) -> io::Result<()> {
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        let failing = self.0.failing.load(Ordering::SeqCst) as i32;
        let tearing = self.0.tearing.load(Ordering::SeqCst);
        let flips = if tearing { self.0.random.lock().next() } else { 0 };
        let mut bytes = self.0.bytes.lock();
        let start = page.0 as usize * PAGE_SIZE;
        for (at, sector) in new.chunks(SLOT_SIZE).enumerate() {
            if failing == 0 || flips >> (at % 64) & 1 == 1 {
                bytes[start + at * SLOT_SIZE..][..SLOT_SIZE].copy_from_slice(sector);
            }
        }
        if failing == 0 { Ok(()) } else { Err(errno(failing)) }
    }
}

/// A mirror that says yes until told otherwise.
#[derive(Default)]
pub struct Mirror {
    /// The errno that a failed copy is answered with; 0: go on without it.
    pub refuse: AtomicU64,
    /// The errno that syncs fail with.
    pub sync_fails: AtomicU64,
    pub syncs: AtomicUsize,
    pub failed_copies: AtomicUsize,
}

impl Host for Mirror {
    fn settle_and_sync(&self, _: &[IdleSlot]) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        match self.sync_fails.load(Ordering::SeqCst) as i32 {
            0 => Ok(()),
            fails => Err(errno(fails)),
        }
    }

    fn copy_failed(&self, _: CopyId, _: &io::Error) -> io::Result<()> {
        self.failed_copies.fetch_add(1, Ordering::SeqCst);
        match self.refuse.load(Ordering::SeqCst) as i32 {
            0 => Ok(()),
            refused => Err(errno(refused)),
        }
    }
}

/// An object with this number on A, and this plus a million on B.
pub struct Object {
    pub number: u64,
    pub hint: AtomicU64,
    pub asked: AtomicUsize,
}

impl Object {
    pub fn new(number: u64) -> Object {
        Object { number, hint: AtomicU64::new(0), asked: AtomicUsize::new(0) }
    }

    pub fn pair(&self) -> PerLeg<Identity> {
        let handle = Handle::new(1, &self.number.to_le_bytes());
        PerLeg::new(
            Identity { ino: self.number, handle },
            Identity { ino: self.number + 1_000_000, handle: None },
        )
    }

    pub fn want(&self, kinds: Kinds, span: Span) -> Want<'_> {
        Want { object: self, kinds, span, slot: Needs::Any, moves: None }
    }

    pub fn data(&self, chunks: Range<u64>) -> Want<'_> {
        let chunks = ChunkIndex(chunks.start)..ChunkIndex(chunks.end);
        self.want(Kinds::DATA, Span::Chunks(chunks))
    }

    pub fn from(&self, chunk: u64) -> Want<'_> {
        self.want(Kinds::DATA, Span::From(ChunkIndex(chunk)))
    }

    pub fn metadata(&self) -> Want<'_> {
        self.want(Kinds::METADATA, Span::None)
    }
}

impl Markable for Object {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.hint
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.pair())
    }
}

/// A bitmap with a copy on each leg, and the copies.
pub fn mirrored(slots: u32) -> (Bitmap, PerLeg<Memory>) {
    let stores = PerLeg::from_fn(|_| Memory::empty(slots));
    (reload(&stores, slots), stores)
}

pub fn copies(stores: &PerLeg<Memory>) -> Copies {
    Copies::PerLeg(stores.as_ref().map(|store| Some(Box::new(store.clone()) as Box<dyn PageStore>)))
}

/// As the next mount would find it.
pub fn reload(stores: &PerLeg<Memory>, slots: u32) -> Bitmap {
    let copies = copies(stores);
    let loaded = copies.load(&expect(slots));
    Bitmap::new(copies, loaded, LegId::A).unwrap()
}

/// What one copy alone says.
pub fn alone(store: &Memory, slots: u32) -> Loaded {
    Loaded::from_images(vec![(CopyId::Single, Ok(store.bytes()))], &expect(slots))
}

/// Whether these slots, taken together, say all that was wanted.
pub fn says(slots: &[DirtySlot], want: &Want<'_>) -> bool {
    let object = want.object.identities().unwrap();
    let own: Vec<_> = slots.iter().filter(|slot| slot.identities == object).collect();
    let from = own.iter().filter_map(|slot| slot.from).min();
    let single: HashSet<u64> =
        own.iter().flat_map(|slot| &slot.chunks).flat_map(|range| range.start.0..range.end.0).collect();
    let open = |chunk: u64| from.is_some_and(|from| from.0 <= chunk);
    let kinds = own.iter().fold(Kinds::NONE, |all, slot| all | slot.kinds);
    kinds.contains(want.kinds)
        && match &want.span {
            Span::None => true,
            Span::From(chunk) => open(chunk.0),
            Span::Chunks(range) => {
                (range.start.0..range.end.0).all(|chunk| open(chunk) || single.contains(&chunk))
            }
        }
}

/// Marks, and checks that every copy alone says so when the mark returns.
pub fn mark_and_check<'a>(
    bitmap: &'a Bitmap,
    host: &Mirror,
    stores: &PerLeg<Memory>,
    slots: u32,
    wants: &[Want<'_>],
) -> WriteIntent<'a> {
    let intent = bitmap.mark(host, wants).unwrap();
    for leg in LegId::ALL {
        let dirty = alone(&stores[leg], slots).dirty();
        for want in wants {
            assert!(says(&dirty, want), "{leg} does not say {:?} {:?}", want.kinds, want.span);
        }
    }
    intent
}

/// xorshift: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// A seed that nobody chose, printed; `MIRRORFS_SEED` replays one.
    pub fn seeded() -> Random {
        use std::hash::{BuildHasher, RandomState};
        let given = std::env::var("MIRRORFS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0)) | 1;
        println!("replay with MIRRORFS_SEED={seed}");
        Random(seed)
    }
}
