//! What a page of the bitmap file says, decoded from the documented layout (docs/ON-DISK-FORMAT.md)
//! and from nothing of the program's own.

pub const PAGE: usize = 4096;
const SLOT: usize = 512;

pub const ENTRIES: u8 = 1;
/// In `kinds`: the birth watermarks count.
pub const BORN: u8 = 32;
pub const METADATA: u8 = 2;
pub const DATA: u8 = 4;

/// A dirty object, as one slot has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub kinds: u8,
    /// Inode numbers on A and on B.
    pub inos: [u64; 2],
    first: u64,
    from: u64,
    bits: Vec<u8>,
}

impl Slot {
    /// Whether this slot covers one chunk.
    pub fn has_chunk(&self, chunk: u64) -> bool {
        let bit = chunk.checked_sub(self.first).map(|bit| bit as usize);
        let is_set = |bit: usize| self.bits.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
        self.kinds & DATA != 0 && (chunk >= self.from || bit.is_some_and(is_set))
    }
}

/// The slots in some bytes of the file, with their places in it; `None` for a free slot. The header
/// page has none. `offset` is where the bytes start in the file.
pub fn decode(offset: u64, bytes: &[u8]) -> Vec<(u64, Option<Slot>)> {
    let slots = bytes.chunks_exact(SLOT).enumerate();
    slots
        .map(|(number, slot)| (offset + (number * SLOT) as u64, slot))
        .filter(|(place, _)| *place >= PAGE as u64)
        .map(|(place, slot)| (place, decode_slot(slot)))
        .collect()
}

fn decode_slot(bytes: &[u8]) -> Option<Slot> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let used = bytes.iter().any(|&byte| byte != 0);
    used.then(|| Slot {
        kinds: bytes[4],
        first: number(16),
        from: number(24),
        inos: [number(64), number(120)],
        bits: bytes[192..448].to_vec(),
    })
}
