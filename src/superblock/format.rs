//! The bytes of a superblock slot. Pure: no I/O, no clock, no randomness.
//!
//! ```text
//!   offset  bytes  field (integers little-endian)
//!        0      8  magic "MIRRORFS"                  the same in every version
//!        8      4  version                           the same in every version
//!       12      4  CRC32C of all 4096 bytes,         the same in every version
//!                  taken with these four as zero
//!       16      8  sequence: even in slot 0, odd in slot 1
//!       24     16  mirror UUID
//!       40     16  leg UUID
//!       56     16  peer UUID
//!       72      1  role: 1 A, 2 B
//!       73      1  clean: 0 no, 1 yes
//!       74      1  bitmap place: 1 on the legs, 2 elsewhere
//!       75      1  source: 0 none, 1 A, 2 B
//!       76      1  peer state: 1 in sync, 2 stale, 3 recovering
//!       77      3  zero
//!       80      8  generation
//!       88     64  ancestors, eight generations, latest first, 0 for none
//!      152      8  events
//!      160      8  events_cleared
//!      168      8  stale since events (0 unless stale)
//!      176      4  errno that made the peer stale (0 unless stale)
//!      180      4  bitmap slots
//!      184      8  chunk size in bytes
//!      192      8  alone since: seconds since 1970 (0 unless known)
//!      200      4  alone since: nanoseconds, and one more; 0: not known
//!      204     16  bitmap file: UUID of the one elsewhere, zero if it is on the legs
//!      220   3876  zero
//! ```
//!
//! All fields lie in the first 512 bytes, so a write torn at a sector leaves the old slot or the new
//! one. A slot that fails its CRC was damaged by the medium or by a hand, not by a crash.

use std::fmt;

use uuid::Uuid;

use super::{ANCESTORS, BitmapPlace, PeerState, Superblock};
use crate::bitmap::ChunkSize;
use crate::legs::{LegId, Timestamp};

/// Bytes in a slot; the file is two slots long.
pub const SLOT_SIZE: usize = 4096;

/// The format this program writes, and the latest it reads.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MIRRORFS";

/// A slot as it came from the disk: nothing about it has been checked.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Slot(pub [u8; SLOT_SIZE]);

/// Why a slot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotFault {
    /// The file ends before the slot does.
    Short,
    /// The medium does not give it: the errno.
    Unreadable(i32),
    /// It does not begin as a superblock does.
    NoMagic,
    /// The checksum is not that of the bytes.
    BadCrc,
    /// Intact, but of a later version.
    Newer(u32),
    /// Intact, but a field has a value that this version does not write.
    BadField(&'static str),
}

impl fmt::Display for SlotFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotFault::Short => f.write_str("cut short"),
            SlotFault::Unreadable(errno) => write!(f, "cannot be read: {}", crate::error::errno(*errno)),
            SlotFault::NoMagic => f.write_str("not a superblock"),
            SlotFault::BadCrc => f.write_str("wrong checksum"),
            SlotFault::Newer(version) => write!(f, "format version {version}"),
            SlotFault::BadField(field) => write!(f, "impossible {field}"),
        }
    }
}

/// The slot, 0 or 1, into which the write with this sequence number goes.
pub fn slot_of(sequence: u64) -> usize {
    usize::from(sequence % 2 == 1)
}

/// The slot that says what `sb` says.
pub fn encode(sb: &Superblock) -> Slot {
    let mut writer = Writer { bytes: [0; SLOT_SIZE], at: 0 };
    writer.put(&MAGIC);
    writer.put(&VERSION.to_le_bytes());
    writer.put(&[0; 4]);
    writer.put(&sb.sequence.to_le_bytes());
    for uuid in [sb.mirror, sb.leg, sb.peer] {
        writer.put(uuid.as_bytes());
    }
    let (state, since, errno) = match sb.peer_state {
        PeerState::InSync => (1, 0, 0),
        PeerState::Stale { since_events, errno } => (2, since_events, errno),
        PeerState::Recovering => (3, 0, 0),
    };
    let place = match sb.bitmap_place {
        BitmapPlace::Leg => 1,
        BitmapPlace::Elsewhere => 2,
    };
    let source = sb.source.map_or(0, leg_byte);
    writer.put(&[leg_byte(sb.role), u8::from(sb.clean), place, source, state, 0, 0, 0]);
    writer.put(&sb.generation.to_le_bytes());
    for ancestor in sb.ancestors {
        writer.put(&ancestor.to_le_bytes());
    }
    for number in [sb.events, sb.events_cleared, since] {
        writer.put(&number.to_le_bytes());
    }
    writer.put(&errno.to_le_bytes());
    writer.put(&sb.bitmap_slots.to_le_bytes());
    writer.put(&sb.chunk_size.to_le_bytes());
    let (secs, nanos) = sb.alone_since.map_or((0, 0), |time| (time.secs, time.nanos + 1));
    writer.put(&secs.to_le_bytes());
    writer.put(&nanos.to_le_bytes());
    writer.put(sb.bitmap_file.as_bytes());
    let crc = crc32c::crc32c(&writer.bytes);
    writer.bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Slot(writer.bytes)
}

/// What slot number `place` says, once everything about it has been checked.
pub fn decode(slot: &Slot, place: usize) -> Result<Superblock, SlotFault> {
    let mut reader = Reader { bytes: &slot.0, at: 0 };
    if reader.take() != MAGIC {
        return Err(SlotFault::NoMagic);
    }
    let version = u32::from_le_bytes(reader.take());
    let stored_crc = u32::from_le_bytes(reader.take());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&slot.0[..12]), &[0; 4]);
    if crc32c::crc32c_append(crc, &slot.0[16..]) != stored_crc {
        return Err(SlotFault::BadCrc);
    }
    if version > VERSION {
        return Err(SlotFault::Newer(version));
    }
    check(version == VERSION, "version")?;
    decode_fields(&mut reader, place)
}

fn decode_fields(reader: &mut Reader<'_>, place: usize) -> Result<Superblock, SlotFault> {
    let sequence = reader.number();
    check(slot_of(sequence) == place, "sequence")?;
    let [mirror, leg, peer] = [(); 3].map(|()| Uuid::from_bytes(reader.take()));
    let [role, clean, bitmap_place, source, state, zeros @ ..] = reader.take::<8>();
    check(zeros == [0; 3], "reserved byte")?;
    let generation = reader.number();
    let ancestors = [(); ANCESTORS].map(|()| reader.number());
    let [events, events_cleared, since_events] = [(); 3].map(|()| reader.number());
    let errno = i32::from_le_bytes(reader.take());
    let bitmap_slots = u32::from_le_bytes(reader.take());
    let chunk_size = reader.number();
    let secs = i64::from_le_bytes(reader.take());
    let nanos = u32::from_le_bytes(reader.take());
    let bitmap_file = Uuid::from_bytes(reader.take());
    check(nanos <= 1_000_000_000 && (nanos > 0 || secs == 0), "time since it is alone")?;
    check(reader.bytes[reader.at..].iter().all(|&byte| byte == 0), "reserved byte")?;
    check(generation != 0, "generation")?;
    check(events_cleared <= events, "events_cleared")?;
    check(ChunkSize::new(chunk_size).is_some(), "chunk size")?;
    check(bitmap_slots > 0, "number of slots")?;
    check(leg != peer, "leg UUID")?;
    check(clean <= 1, "clean flag")?;
    Ok(Superblock {
        mirror,
        leg,
        peer,
        role: leg_from(role).ok_or(SlotFault::BadField("role"))?,
        generation,
        ancestors,
        events,
        events_cleared,
        peer_state: match state {
            1 => PeerState::InSync,
            2 => PeerState::Stale { since_events, errno },
            3 => PeerState::Recovering,
            _ => return Err(SlotFault::BadField("peer state")),
        },
        source: match source {
            0 => None,
            byte => Some(leg_from(byte).ok_or(SlotFault::BadField("source"))?),
        },
        alone_since: nanos.checked_sub(1).map(|nanos| Timestamp { secs, nanos }),
        chunk_size,
        bitmap_slots,
        bitmap_place: match bitmap_place {
            1 => BitmapPlace::Leg,
            2 => BitmapPlace::Elsewhere,
            _ => return Err(SlotFault::BadField("bitmap place")),
        },
        bitmap_file,
        clean: clean == 1,
        sequence,
    })
}

fn check(holds: bool, field: &'static str) -> Result<(), SlotFault> {
    if holds { Ok(()) } else { Err(SlotFault::BadField(field)) }
}

fn leg_byte(leg: LegId) -> u8 {
    match leg {
        LegId::A => 1,
        LegId::B => 2,
    }
}

fn leg_from(byte: u8) -> Option<LegId> {
    match byte {
        1 => Some(LegId::A),
        2 => Some(LegId::B),
        _ => None,
    }
}

/// Puts fields one behind the other.
struct Writer {
    bytes: [u8; SLOT_SIZE],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

/// Takes fields one behind the other.
struct Reader<'a> {
    bytes: &'a [u8; SLOT_SIZE],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
