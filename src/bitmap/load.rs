//! What the copies of the bitmap say together after a crash. Pure.
//!
//! The union of what is readable, by object. Never a refusal: what no copy tells about is said by
//! [`Loaded::compare_all`].
//!
//! Invariant: a slot of the first copy stays where it is, so that writing the union over that copy
//! loses nothing at any moment; then the first copy is complete and the second may be written.

use std::fmt;
use std::io;

use uuid::Uuid;

use super::chunk::ChunkSize;
use super::format::{self, BadHeader, Header};
use super::host::{Copies, CopyId};
use super::slot::Slot;
use super::{SLOTS_PER_PAGE, SlotIndex};
use crate::legs::LegId;

/// What the superblock says the bitmap must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Whose it is.
    pub mirror: Uuid,
    /// How many slots.
    pub slots: u32,
    /// Bytes a bit stands for.
    pub chunk: ChunkSize,
    /// Which file elsewhere; nil for the copies on the legs.
    pub file: Uuid,
    /// A leg that was left behind: its copy lacks what was marked since, so it does not tell what is not
    /// dirty.
    pub stale: Option<LegId>,
}

impl Expect {
    pub(super) fn header(&self, compare_all: bool) -> Header {
        Header { mirror: self.mirror, slots: self.slots, chunk: self.chunk, file: self.file, compare_all }
    }
}

/// What one copy was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whole, and of this mirror.
    Good,
    /// No such file.
    Missing,
    /// Shorter or longer than it must be, in bytes.
    Short {
        /// The length found.
        len: u64,
    },
    /// Parts of the file were never written.
    Holes,
    /// The header is none, or has another chunk size or number of slots than the superblock.
    DamagedHeader,
    /// Slots have a bad CRC, this one first. The others count.
    DamagedSlot(SlotIndex),
    /// Of another mirror.
    Foreign {
        /// Which.
        mirror: Uuid,
    },
    /// Of this mirror, but the mirror has been in use with another one, or with this one, since.
    Outdated,
    /// Written by a later version of the program.
    Newer {
        /// Its format version.
        version: u32,
    },
    /// The file cannot be read.
    Unreadable {
        /// Why.
        errno: i32,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Good => f.write_str("good"),
            Verdict::Missing => f.write_str("missing"),
            Verdict::Short { len } => write!(f, "of the wrong length, {len} bytes"),
            Verdict::Holes => f.write_str("has holes"),
            Verdict::DamagedHeader => f.write_str("has a damaged header"),
            Verdict::DamagedSlot(first) => write!(f, "has damaged slots, the first is {}", first.0),
            Verdict::Foreign { mirror } => write!(f, "belongs to another mirror, {mirror}"),
            Verdict::Outdated => f.write_str("out of date: the mirror has been in use since"),
            Verdict::Newer { version } => write!(f, "has the later format version {version}"),
            Verdict::Unreadable { errno } => write!(f, "cannot be read: {}", crate::error::errno(*errno)),
        }
    }
}

/// The union of the copies.
pub struct Loaded {
    /// What each copy was found to be, A first.
    pub verdicts: Vec<(CopyId, Verdict)>,
    /// Some slot or header is told by no copy, or an earlier mount found it so and did not finish
    /// comparing: everything must be compared.
    pub compare_all: bool,
    pub(super) expect: Expect,
    pub(super) slots: Vec<(SlotIndex, Slot)>,
    /// The bytes of the copies, to know which pages have to be written.
    pub(super) images: Vec<(CopyId, Option<Vec<u8>>)>,
}

impl Copies {
    /// Reads all copies and unites them. An unreadable copy is a verdict, not an error.
    pub fn load(&self, expect: &Expect) -> Loaded {
        Loaded::from_images(self.read(), expect)
    }
}

impl Loaded {
    /// Unites the bytes of the copies as read (A first), ENOENT standing for a copy that is not
    /// there and EUCLEAN for a file with holes.
    pub fn from_images(images: Vec<(CopyId, io::Result<Vec<u8>>)>, expect: &Expect) -> Loaded {
        let read = |(id, image): &(CopyId, io::Result<Vec<u8>>)| {
            let mut copy = Copy::read(image, expect);
            copy.trusted &= expect.stale.is_none_or(|stale| *id != CopyId::Leg(stale));
            copy
        };
        let copies: Vec<Copy> = images.iter().map(read).collect();
        let untold = (0..expect.slots as usize).any(|slot| !copies.iter().any(|copy| copy.tells(slot)));
        let mut union = Union::new(expect.slots);
        for copy in &copies {
            union.add(&copy.slots);
        }
        Loaded {
            verdicts: images.iter().zip(&copies).map(|((id, _), copy)| (*id, copy.verdict)).collect(),
            compare_all: untold || union.dropped || copies.iter().any(|copy| copy.compare_all),
            expect: *expect,
            slots: union.into_slots(),
            images: images.into_iter().map(|(id, image)| (id, image.ok())).collect(),
        }
    }

    /// Whether a copy may be something else altogether, which must not be overwritten: it is there,
    /// and what can be read of it does not begin as a bitmap does.
    pub fn may_be_other_data(&self) -> bool {
        let is_ours = |image: &[u8]| image.is_empty() || image.starts_with(&format::MAGIC);
        let unread = |verdict: &Verdict| matches!(verdict, Verdict::Holes | Verdict::Unreadable { .. });
        self.verdicts.iter().any(|(_, verdict)| unread(verdict))
            || self.images.iter().any(|(_, image)| image.as_deref().is_some_and(|image| !is_ours(image)))
    }

    /// Gives the file elsewhere a new identity, which [`Bitmap::new`](super::Bitmap::new) writes: what
    /// was copied from it before is known for old from now on.
    pub fn renew(&mut self) {
        self.expect.file = Uuid::new_v4();
    }

    /// Which file elsewhere this is; nil for the copies on the legs.
    pub fn file(&self) -> Uuid {
        self.expect.file
    }

    /// Bytes that a bit stands for.
    pub fn chunk_size(&self) -> ChunkSize {
        self.expect.chunk
    }
}

/// One copy, taken apart.
struct Copy {
    verdict: Verdict,
    compare_all: bool,
    slots: Vec<(SlotIndex, Slot)>,
    /// Which slots this copy says nothing about, when it says anything.
    bad: Vec<usize>,
    trusted: bool,
}

impl Copy {
    fn silent(verdict: Verdict) -> Copy {
        Copy { verdict, compare_all: false, slots: Vec::new(), bad: Vec::new(), trusted: false }
    }

    fn read(image: &io::Result<Vec<u8>>, expect: &Expect) -> Copy {
        let bytes = match image {
            Ok(bytes) => bytes,
            Err(error) => {
                return Copy::silent(match error.raw_os_error() {
                    Some(libc::ENOENT) => Verdict::Missing,
                    Some(libc::EUCLEAN) => Verdict::Holes,
                    errno => Verdict::Unreadable { errno: errno.unwrap_or(libc::EIO) },
                });
            }
        };
        let len = bytes.len() as u64;
        let short = bytes.len() != format::file_len(expect.slots);
        let header = match format::decode_header(bytes) {
            Ok(header) if header.mirror != expect.mirror => {
                return Copy::silent(Verdict::Foreign { mirror: header.mirror });
            }
            Err(BadHeader::Newer(version)) => return Copy::silent(Verdict::Newer { version }),
            Ok(header) if (Header { file: expect.file, ..header }) == expect.header(header.compare_all) => {
                header
            }
            _ if short => return Copy::silent(Verdict::Short { len }),
            _ => return Copy::silent(Verdict::DamagedHeader),
        };
        if header.file != expect.file && !short {
            // Not even its slots count: a leg that has been discarded since has the objects aside that they name.
            return Copy::silent(Verdict::Outdated);
        }
        let mut copy = Copy::silent(if short { Verdict::Short { len } } else { Verdict::Good });
        copy.compare_all = header.compare_all;
        copy.trusted = !short;
        for index in (0..expect.slots).map(SlotIndex) {
            // What a short file still has is added to the union; what it lacks counts as untold.
            let Some(sector) = bytes.get(format::slot_range(index)) else { break };
            match format::decode_slot(sector) {
                Ok(None) => {}
                Ok(Some(slot)) => copy.slots.push((index, slot)),
                Err(format::BadSlot) => copy.bad.push(index.0 as usize),
            }
        }
        if let (Verdict::Good, Some(&first)) = (copy.verdict, copy.bad.first()) {
            copy.verdict = Verdict::DamagedSlot(SlotIndex(first as u32));
        }
        copy
    }

    fn tells(&self, slot: usize) -> bool {
        self.trusted && self.bad.binary_search(&slot).is_err()
    }
}

/// By what a slot's object is found: its identity on each leg that knew it when it was marked.
fn keys(slot: &Slot) -> impl Iterator<Item = (LegId, u64)> + '_ {
    let known = slot.identities.iter().filter(|(_, identity)| identity.is_known());
    known.map(|(leg, identity)| (leg, super::table::hash_of(identity)))
}

/// The slots of several copies put into one table.
struct Union {
    slots: Vec<Option<Slot>>,
    used: usize,
    most: usize,
    by_object: std::collections::HashMap<(LegId, u64), Vec<usize>>,
    /// More slots than there is room for: dropped, and said by the header's compare-all flag.
    dropped: bool,
}

impl Union {
    fn new(slots: u32) -> Union {
        Union {
            slots: vec![None; slots as usize],
            used: 0,
            most: super::room::most_needed(slots),
            by_object: std::collections::HashMap::new(),
            dropped: false,
        }
    }

    fn add(&mut self, slots: &[(SlotIndex, Slot)]) {
        // Nothing is merged within the first copy: a torn write of the union could then lose what was
        // moved from one page of it to another.
        let first = self.used == 0;
        let mut homeless = Vec::new();
        for (index, slot) in slots {
            if !first && self.merge(slot) {
                continue;
            }
            match self.slots[index.0 as usize] {
                None => self.put(index.0 as usize, slot),
                Some(_) => homeless.push(slot),
            }
        }
        let mut next = 0;
        for slot in homeless {
            while self.slots.get(next).is_some_and(Option::is_some) {
                next += 1;
            }
            self.put(next, slot);
        }
    }

    fn merge(&mut self, slot: &Slot) -> bool {
        let by_object = &self.by_object;
        let same = keys(slot).find_map(|key| {
            let places = by_object.get(&key)?;
            places.iter().copied().find(|&at| self.slots[at].as_mut().is_some_and(|mine| mine.merge(slot)))
        });
        same.is_some()
    }

    fn put(&mut self, at: usize, slot: &Slot) {
        if self.used >= self.most || at >= self.slots.len() {
            self.dropped = true;
            return;
        }
        self.slots[at] = Some(slot.clone());
        self.used += 1;
        for key in keys(slot) {
            self.by_object.entry(key).or_default().push(at);
        }
    }

    fn into_slots(self) -> Vec<(SlotIndex, Slot)> {
        debug_assert!(self.slots.len().is_multiple_of(SLOTS_PER_PAGE));
        let numbered = self.slots.into_iter().enumerate();
        numbered.filter_map(|(at, slot)| Some((SlotIndex(at as u32), slot?))).collect()
    }
}
