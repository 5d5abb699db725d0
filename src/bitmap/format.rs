//! The bytes of the bitmap file. Pure.
//!
//! ```text
//! page 0          header, all of it in the first 512 bytes
//! page 1, 2, ..   eight slots each
//!
//! header  0   8 magic            slot    0   4 CRC32C of bytes 4..512
//!         8   4 version                  4   1 kinds
//!        12   4 flags                    5   3 zero
//!        16  16 mirror UUID              8   8 serial
//!        32   4 slots                   16   8 first chunk of the bits (a multiple of 2048)
//!        36   4 slot size, 512          24   8 from chunk, u64::MAX: none
//!        40   8 chunk size              32  32 birth watermarks, 16 each leg: 8 seconds, 4 nanoseconds, 4 zero
//!        48  16 file UUID               64  56 identity on A
//!       508   4 CRC32C of 0..508       120  56 identity on B
//! identity 0  8 inode number           176  16 zero
//!          8  4 handle type            192 256 chunk bits, 2048
//!         12  1 handle length, 255: no handle   448  64 zero
//!         13  3 zero
//!         16 40 handle
//! ```
//!
//! Numbers are little-endian. A slot of 512 zeros is free. A slot lies inside one 512-byte sector,
//! which a disk writes whole or not at all: a torn page leaves each slot old or new.

use uuid::Uuid;

use super::chunk::{ChunkIndex, ChunkSize, Window};
use super::slot::Slot;
use super::{Kinds, PAGE_SIZE, PageIndex, SLOT_SIZE, SLOTS_PER_PAGE, SlotIndex};
use crate::legs::{Handle, Identity, LegId, PerLeg, Timestamp};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"mirrfsBM";
/// The version this code writes; a higher one is not read.
pub const VERSION: u32 = 1;
/// The fewest slots a file may have.
pub const MIN_SLOTS: u32 = 64;
/// The most slots a file may have (512 MiB of them).
pub const MAX_SLOTS: u32 = 1 << 20;

const COMPARE_ALL: u32 = 1;
const NO_HANDLE: u8 = 255;
const NO_FROM: u64 = u64::MAX;
const HEADER_CRC: usize = 508;
const BIRTHS: usize = 32;
const IDENTITIES: usize = 64;
const IDENTITY_SIZE: usize = 56;
const BITS: usize = 192;
const BITS_END: usize = BITS + 256;

/// What the header page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose bitmap this is.
    pub mirror: Uuid,
    /// Number of slots behind the header.
    pub slots: u32,
    /// Bytes that a bit stands for.
    pub chunk: ChunkSize,
    /// Which file elsewhere this is, as the superblocks name it; nil for a copy on a leg.
    pub file: Uuid,
    /// The slots do not tell everything: all objects have to be compared.
    pub compare_all: bool,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Wrong magic or CRC, too short, or values that cannot be.
    Damaged,
    /// Written by a later program.
    Newer(u32),
}

/// The CRC does not match, or the fields contradict one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSlot;

/// Length of a file with `slots` slots, in bytes.
pub fn file_len(slots: u32) -> usize {
    (1 + (slots as usize).div_ceil(SLOTS_PER_PAGE)) * PAGE_SIZE
}

/// The page a slot lies in.
pub fn page_of(slot: SlotIndex) -> PageIndex {
    PageIndex(1 + slot.0 / SLOTS_PER_PAGE as u32)
}

/// Where a slot lies in the file.
pub fn slot_range(slot: SlotIndex) -> std::ops::Range<usize> {
    let start = PAGE_SIZE + slot.0 as usize * SLOT_SIZE;
    start..start + SLOT_SIZE
}

/// Writes the header into the first page of `page`.
pub fn encode_header(header: &Header, page: &mut [u8]) {
    page[..PAGE_SIZE].fill(0);
    page[..8].copy_from_slice(&MAGIC);
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let flags = if header.compare_all { COMPARE_ALL } else { 0 };
    page[12..16].copy_from_slice(&flags.to_le_bytes());
    page[16..32].copy_from_slice(header.mirror.as_bytes());
    page[32..36].copy_from_slice(&header.slots.to_le_bytes());
    page[36..40].copy_from_slice(&(SLOT_SIZE as u32).to_le_bytes());
    page[40..48].copy_from_slice(&header.chunk.bytes().to_le_bytes());
    page[48..64].copy_from_slice(header.file.as_bytes());
    let crc = crc32c::crc32c(&page[..HEADER_CRC]);
    page[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the header at the start of a file.
pub fn decode_header(file: &[u8]) -> Result<Header, BadHeader> {
    let page = file.get(..SLOT_SIZE).ok_or(BadHeader::Damaged)?;
    if page[..8] != MAGIC || u32_at(page, HEADER_CRC) != crc32c::crc32c(&page[..HEADER_CRC]) {
        return Err(BadHeader::Damaged);
    }
    let version = u32_at(page, 8);
    if version > VERSION {
        return Err(BadHeader::Newer(version));
    }
    let slots = u32_at(page, 32);
    let chunk = ChunkSize::new(u64_at(page, 40)).ok_or(BadHeader::Damaged)?;
    if version == 0
        || u32_at(page, 36) != SLOT_SIZE as u32
        || !(MIN_SLOTS..=MAX_SLOTS).contains(&slots)
        || !(slots as usize).is_multiple_of(SLOTS_PER_PAGE)
    {
        return Err(BadHeader::Damaged);
    }
    let mirror = Uuid::from_bytes(array_at(page, 16));
    let file = Uuid::from_bytes(array_at(page, 48));
    Ok(Header { mirror, slots, chunk, file, compare_all: u32_at(page, 12) & COMPARE_ALL != 0 })
}

/// Writes one slot, CRC and all.
pub fn encode_slot(slot: &Slot, bytes: &mut [u8]) {
    bytes.fill(0);
    bytes[4] = slot.kinds.bits();
    bytes[8..16].copy_from_slice(&slot.serial.to_le_bytes());
    bytes[16..24].copy_from_slice(&slot.window.first().0.to_le_bytes());
    bytes[24..32].copy_from_slice(&slot.from.map_or(NO_FROM, |from| from.0).to_le_bytes());
    for leg in LegId::ALL {
        let born = &mut bytes[BIRTHS + 16 * leg as usize..][..16];
        born[..8].copy_from_slice(&slot.births[leg].secs.to_le_bytes());
        born[8..12].copy_from_slice(&slot.births[leg].nanos.to_le_bytes());
        let at = IDENTITIES + IDENTITY_SIZE * leg as usize;
        encode_identity(&slot.identities[leg], &mut bytes[at..at + IDENTITY_SIZE]);
    }
    for (place, word) in bytes[BITS..BITS_END].chunks_exact_mut(8).zip(slot.bits) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads one slot; `None` when it is free.
pub fn decode_slot(bytes: &[u8]) -> Result<Option<Slot>, BadSlot> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let first = ChunkIndex(u64_at(bytes, 16));
    let window = Window::of(first);
    if u32_at(bytes, 0) != crc32c::crc32c(&bytes[4..]) || window.first() != first {
        return Err(BadSlot);
    }
    let identity = |leg: LegId| {
        let at = IDENTITIES + IDENTITY_SIZE * leg as usize;
        decode_identity(&bytes[at..at + IDENTITY_SIZE])
    };
    let mut slot = Slot::new(PerLeg::from_fn(identity).transpose()?);
    slot.kinds = Kinds::from_bits(bytes[4]);
    slot.serial = u64_at(bytes, 8);
    slot.window = window;
    slot.from = Some(u64_at(bytes, 24)).filter(|&from| from != NO_FROM).map(ChunkIndex);
    slot.births = PerLeg::from_fn(|leg| {
        let at = BIRTHS + 16 * leg as usize;
        Timestamp { secs: i64::from_le_bytes(array_at(bytes, at)), nanos: u32_at(bytes, at + 8) }
    });
    for (at, word) in slot.bits.iter_mut().enumerate() {
        *word = u64_at(bytes, BITS + 8 * at);
    }
    Ok(Some(slot))
}

fn encode_identity(identity: &Identity, bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(&identity.ino.to_le_bytes());
    match &identity.handle {
        None => bytes[12] = NO_HANDLE,
        Some(handle) => {
            bytes[8..12].copy_from_slice(&handle.kind().to_le_bytes());
            bytes[12] = handle.bytes().len() as u8;
            bytes[16..16 + handle.bytes().len()].copy_from_slice(handle.bytes());
        }
    }
}

fn decode_identity(bytes: &[u8]) -> Result<Identity, BadSlot> {
    let handle = match bytes[12] {
        NO_HANDLE => None,
        len => {
            let kept = bytes[16..].get(..usize::from(len)).ok_or(BadSlot)?;
            Some(Handle::new(i32::from_le_bytes(array_at(bytes, 8)), kept).ok_or(BadSlot)?)
        }
    };
    Ok(Identity { ino: u64_at(bytes, 0), handle })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// A fresh file: a header and free slots only.
pub fn empty_image(header: &Header) -> Vec<u8> {
    let mut image = vec![0; file_len(header.slots)];
    encode_header(header, &mut image);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::{assert_differ_in, byte_map, dump};

    fn full_slot() -> Slot {
        let handle = Handle::new(-7, &[9; 40]);
        let mut slot = Slot::new(PerLeg::new(
            Identity { ino: u64::MAX, handle },
            Identity { ino: 3, handle: Handle::new(1, &[]) },
        ));
        slot.kinds = Kinds::from_bits(0x3f);
        slot.serial = 0x0102_0304_0506_0708;
        slot.from = Some(ChunkIndex(77));
        slot.births = PerLeg::new(Timestamp { secs: -1, nanos: 2 }, Timestamp { secs: 3, nanos: 4 });
        slot.set_chunks(Window::of(ChunkIndex(4096)), &(ChunkIndex(4100)..ChunkIndex(4200)));
        slot
    }

    #[test]
    fn a_slot_comes_back_as_it_was() {
        let plain = Slot::new(PerLeg::new(
            Identity { ino: 1, handle: None },
            Identity { ino: 2, handle: Handle::new(5, &[1, 2, 3]) },
        ));
        for slot in [full_slot(), plain] {
            let mut bytes = [0xaa; SLOT_SIZE];
            encode_slot(&slot, &mut bytes);
            assert_eq!(decode_slot(&bytes), Ok(Some(slot)));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_noticed() {
        let mut bytes = [0; SLOT_SIZE];
        encode_slot(&full_slot(), &mut bytes);
        for bit in 0..SLOT_SIZE * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_slot(&bad), Err(BadSlot), "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_a_free_slot_and_no_header() {
        assert_eq!(decode_slot(&[0; SLOT_SIZE]), Ok(None));
        assert_eq!(decode_header(&[0; PAGE_SIZE]), Err(BadHeader::Damaged));
        assert_eq!(decode_header(&[]), Err(BadHeader::Damaged));
    }

    #[test]
    fn a_header_comes_back_as_it_was_and_a_newer_one_is_named() {
        let header = Header {
            mirror: Uuid::from_u128(42),
            slots: 64,
            chunk: ChunkSize::MAX,
            file: Uuid::from_u128(7),
            compare_all: true,
        };
        let mut page = vec![0; PAGE_SIZE];
        encode_header(&header, &mut page);
        assert_eq!(decode_header(&page), Ok(header));
        for at in 0..SLOT_SIZE {
            let mut bad = page.clone();
            bad[at] ^= 0x10;
            assert_eq!(decode_header(&bad), Err(BadHeader::Damaged), "byte {at}");
        }
        page[8] = 2;
        let crc = crc32c::crc32c(&page[..HEADER_CRC]);
        page[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_header(&page), Err(BadHeader::Newer(2)));
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!(file_len(8192), (4 << 20) + PAGE_SIZE);
        assert_eq!(page_of(SlotIndex(7)), PageIndex(1));
        assert_eq!(page_of(SlotIndex(8)), PageIndex(2));
        assert_eq!(slot_range(SlotIndex(8)), 2 * PAGE_SIZE..2 * PAGE_SIZE + SLOT_SIZE);
        let mut bytes = [0; SLOT_SIZE];
        encode_slot(&full_slot(), &mut bytes);
        assert_eq!(bytes[4], 0x3f);
        assert_eq!(bytes[8], 8);
        assert_eq!(bytes[16..24], 4096u64.to_le_bytes());
        assert_eq!(bytes[24..32], 77u64.to_le_bytes());
        assert_eq!(bytes[IDENTITIES..IDENTITIES + 8], [0xff; 8]);
        assert_eq!(bytes[IDENTITIES + 12], 40);
        assert_eq!(bytes[BITS], 0xf0);
        assert!(bytes[448..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_byte_map_of_a_slot_in_the_docs_is_that_of_the_code() {
        let map = byte_map("### A slot");
        assert_eq!((map[0].0.start, map[map.len() - 1].0.end), (0, SLOT_SIZE));
        let bytes = |slot: &Slot| {
            let mut bytes = vec![0; SLOT_SIZE];
            encode_slot(slot, &mut bytes);
            bytes
        };
        let base = Slot::new(PerLeg::from_fn(|_| Identity { ino: 0, handle: None }));
        let full = full_slot();
        let none = Identity { ino: 0, handle: None };
        let cases = [
            ("kinds", Slot { kinds: full.kinds, ..base.clone() }),
            ("serial", Slot { serial: u64::MAX, ..base.clone() }),
            ("first chunk", Slot { window: Window::of(ChunkIndex(u64::MAX)), ..base.clone() }),
            ("from chunk", Slot { from: Some(ChunkIndex(0)), ..base.clone() }),
            (
                "births",
                Slot {
                    births: PerLeg::new(Timestamp { secs: -1, nanos: 2 }, Timestamp { secs: 3, nanos: 4 }),
                    ..base.clone()
                },
            ),
            (
                "identity on A",
                Slot { identities: PerLeg::new(full.identities[LegId::A], none), ..base.clone() },
            ),
            (
                "identity on B",
                Slot { identities: PerLeg::new(none, full.identities[LegId::A]), ..base.clone() },
            ),
            ("chunk bits", Slot { bits: [u64::MAX; 32], ..base.clone() }),
        ];
        for (name, slot) in &cases {
            assert_differ_in(name, &map, &bytes(&base), &bytes(slot));
        }
        for (_, name) in map.iter().filter(|(_, name)| !["CRC32C", "zero"].contains(&name.as_str())) {
            assert!(cases.iter().any(|(case, _)| case == name), "{name} is checked");
        }
    }

    #[test]
    fn the_byte_map_of_the_header_in_the_docs_is_that_of_the_code() {
        let map = byte_map("### The header");
        let bytes = |header: &Header| {
            let mut page = vec![0; PAGE_SIZE];
            encode_header(header, &mut page);
            page
        };
        let base = Header {
            mirror: Uuid::nil(),
            slots: 64,
            chunk: ChunkSize::MIN,
            file: Uuid::nil(),
            compare_all: false,
        };
        for (name, header) in [
            ("flags", Header { compare_all: true, ..base }),
            ("mirror", Header { mirror: Uuid::max(), ..base }),
            ("slots", Header { slots: MAX_SLOTS, ..base }),
            ("chunk size", Header { chunk: ChunkSize::MAX, ..base }),
            ("file", Header { file: Uuid::max(), ..base }),
        ] {
            assert_differ_in(name, &map, &bytes(&base), &bytes(&header));
        }
    }

    #[test]
    fn the_example_in_the_docs_says_what_stands_beside_it() {
        let heading = "### Its bitmap";
        let file = dump(heading, 0, 3 * PAGE_SIZE);
        let header = decode_header(&file).unwrap();
        assert_eq!((header.slots, header.chunk, header.compare_all), (8192, ChunkSize::DEFAULT, false));
        let slot = |index| decode_slot(&file[slot_range(SlotIndex(index))]).unwrap().unwrap();
        let (root, hello) = (slot(0), slot(1));
        assert_eq!((root.kinds, root.serial, root.identities[LegId::A].ino), (Kinds::ENTRIES, 2, 974_856));
        assert_eq!((hello.kinds, hello.serial), (Kinds::METADATA | Kinds::DATA, 5));
        assert_eq!((hello.from, hello.bits[0], hello.chunk_count()), (None, 0b101, 2));
        assert_eq!((hello.identities[LegId::A].ino, hello.identities[LegId::B].ino), (974_875, 974_876));
    }
}
