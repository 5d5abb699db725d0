//! Every value survives the way to disk and back; every damaged byte is noticed.

use super::*;
use crate::documented::{assert_differ_in, byte_map, dump};
use crate::superblock::Geometry;
use crate::superblock::testing::Random;

const GEOMETRY: Geometry =
    Geometry { chunk_size: 4 << 20, bitmap_slots: 8192, bitmap_place: BitmapPlace::Leg };

/// Any superblock that a slot can say.
fn any_superblock(random: &mut Random) -> Superblock {
    let role = *random.pick(&LegId::ALL);
    let events = random.number();
    let time = Timestamp { secs: random.number() as i64, nanos: random.below(1_000_000_000) as u32 };
    let stale = PeerState::Stale { since_events: random.number(), errno: random.number() as i32 };
    Superblock {
        generation: random.number() | 1,
        ancestors: [(); ANCESTORS].map(|()| random.number()),
        events,
        events_cleared: events / 2,
        peer_state: *random.pick(&[PeerState::InSync, stale, PeerState::Recovering]),
        source: *random.pick(&[None, Some(LegId::A), Some(LegId::B)]),
        chunk_size: 1 << (16 + random.below(15)),
        bitmap_slots: 1 + random.below(1 << 31) as u32,
        bitmap_place: *random.pick(&[BitmapPlace::Leg, BitmapPlace::Elsewhere]),
        bitmap_file: Uuid::from_u64_pair(random.number(), random.number()),
        alone_since: *random.pick(&[None, Some(time)]),
        clean: random.below(2) == 1,
        sequence: random.number(),
        ..Superblock::new_pair(GEOMETRY)[role].clone()
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let mut random = Random::announced();
    for _ in 0..2000 {
        let sb = any_superblock(&mut random);
        assert_eq!(decode(&encode(&sb), slot_of(sb.sequence)), Ok(sb));
    }
}

#[test]
fn every_single_changed_byte_is_noticed() {
    let sb = Superblock::new_pair(GEOMETRY)[LegId::B].clone();
    let good = encode(&sb);
    for at in 0..SLOT_SIZE {
        let mut bad = good.clone();
        bad.0[at] ^= 0x10;
        assert!(decode(&bad, 0).is_err(), "byte {at}");
    }
}

#[test]
fn a_write_torn_at_a_sector_leaves_the_old_or_the_new() {
    let mut random = Random::announced();
    for _ in 0..8 {
        let (mut old, mut new) = (any_superblock(&mut random), any_superblock(&mut random));
        (old.sequence, new.sequence) = (2, 4);
        for subset in 0..256 {
            let mut torn = encode(&old);
            for sector in (0..8).filter(|sector| subset >> sector & 1 == 1) {
                let bytes = sector * 512..(sector + 1) * 512;
                torn.0[bytes.clone()].copy_from_slice(&encode(&new).0[bytes]);
            }
            let expected = if subset & 1 == 1 { &new } else { &old };
            assert_eq!(decode(&torn, 0).as_ref(), Ok(expected));
        }
    }
}

/// The slot of `sb` with `byte` at `at`, and a checksum that agrees.
fn forged(sb: &Superblock, at: usize, byte: u8) -> Slot {
    let mut slot = encode(sb);
    slot.0[at] = byte;
    slot.0[12..16].fill(0);
    let crc = crc32c::crc32c(&slot.0);
    slot.0[12..16].copy_from_slice(&crc.to_le_bytes());
    slot
}

#[test]
fn values_this_version_never_writes_are_refused_though_the_checksum_is_right() {
    let sb = Superblock::new_pair(GEOMETRY)[LegId::A].clone();
    let cases = [
        (8, 0, SlotFault::BadField("version")),
        (8, 2, SlotFault::Newer(2)),
        (16, 1, SlotFault::BadField("sequence")),
        (72, 0, SlotFault::BadField("role")),
        (72, 3, SlotFault::BadField("role")),
        (73, 2, SlotFault::BadField("clean flag")),
        (74, 0, SlotFault::BadField("bitmap place")),
        (75, 3, SlotFault::BadField("source")),
        (76, 0, SlotFault::BadField("peer state")),
        (77, 1, SlotFault::BadField("reserved byte")),
        (160, 2, SlotFault::BadField("events_cleared")),
        (184, 1, SlotFault::BadField("chunk size")),
        (192, 1, SlotFault::BadField("time since it is alone")),
        (220, 1, SlotFault::BadField("reserved byte")),
        (4095, 1, SlotFault::BadField("reserved byte")),
    ];
    for (at, byte, fault) in cases {
        assert_eq!(decode(&forged(&sb, at, byte), 0), Err(fault), "byte {at} = {byte}");
    }
}

#[test]
fn the_byte_map_stands() {
    let mut sb = Superblock::new_pair(GEOMETRY)[LegId::B].clone();
    sb.peer_state = PeerState::Stale { since_events: 0x1122, errno: 5 };
    (sb.events, sb.events_cleared, sb.source) = (0x33, 0x22, Some(LegId::A));
    let bytes = encode(&sb).0;
    assert_eq!(&bytes[..12], b"MIRRORFS\x01\0\0\0");
    assert_eq!(&bytes[24..40], sb.mirror.as_bytes());
    assert_eq!(&bytes[40..56], sb.leg.as_bytes());
    assert_eq!(&bytes[72..80], &[2, 1, 1, 1, 2, 0, 0, 0]);
    assert_eq!(&bytes[80..88], &sb.generation.to_le_bytes());
    assert_eq!((bytes[152], bytes[160]), (0x33, 0x22));
    assert_eq!(&bytes[168..180], &[0x22, 0x11, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(&bytes[180..192], &[0, 0x20, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0]);
}

#[test]
fn the_byte_map_in_the_docs_is_that_of_the_code() {
    let map = byte_map("## The superblock");
    assert_eq!((map[0].0.start, map[map.len() - 1].0.end), (0, SLOT_SIZE));
    let base = Superblock::new_pair(GEOMETRY)[LegId::A].clone();
    let stale = |since_events, errno| Superblock {
        peer_state: PeerState::Stale { since_events, errno },
        ..base.clone()
    };
    let with = |edit: fn(&mut Superblock)| {
        let mut changed = base.clone();
        edit(&mut changed);
        (base.clone(), changed)
    };
    let cases = [
        ("sequence", with(|sb| sb.sequence = u64::MAX)),
        ("mirror", with(|sb| sb.mirror = Uuid::max())),
        ("leg", with(|sb| sb.leg = Uuid::max())),
        ("peer", with(|sb| sb.peer = Uuid::max())),
        ("role", with(|sb| sb.role = LegId::B)),
        ("clean", with(|sb| sb.clean = false)),
        ("bitmap place", with(|sb| sb.bitmap_place = BitmapPlace::Elsewhere)),
        ("alone since", with(|sb| sb.alone_since = Some(Timestamp { secs: -1, nanos: 0x3b9a_c9fe }))),
        ("bitmap file", with(|sb| sb.bitmap_file = Uuid::max())),
        ("source", with(|sb| sb.source = Some(LegId::B))),
        ("peer state", with(|sb| sb.peer_state = PeerState::Recovering)),
        ("generation", with(|sb| sb.generation = u64::MAX)),
        ("ancestors", with(|sb| sb.ancestors = [u64::MAX; ANCESTORS])),
        ("events", with(|sb| sb.events = u64::MAX)),
        ("events_cleared", with(|sb| sb.events_cleared = u64::MAX)),
        ("stale since", (stale(0, 5), stale(u64::MAX, 5))),
        ("stale errno", (stale(1, 0), stale(1, -1))),
        ("bitmap slots", with(|sb| sb.bitmap_slots = u32::MAX)),
        ("chunk size", with(|sb| sb.chunk_size = 1 << 30)),
    ];
    for (name, (one, other)) in &cases {
        assert_differ_in(name, &map, &encode(one).0, &encode(other).0);
    }
    let constant = ["magic", "version", "CRC32C", "zero"];
    for (_, name) in map.iter().filter(|(_, name)| !constant.contains(&name.as_str())) {
        assert!(cases.iter().any(|(case, _)| case == name), "{name} is checked");
    }
}

#[test]
fn the_example_in_the_docs_says_what_stands_beside_it() {
    let mut slot = Slot([0; SLOT_SIZE]);
    slot.0.copy_from_slice(&dump("### Its superblock", 0, SLOT_SIZE));
    let sb = decode(&slot, 0).unwrap();
    assert_eq!((sb.sequence, sb.role, sb.clean, sb.source), (4, LegId::A, false, None));
    assert_eq!((sb.events, sb.events_cleared, sb.peer_state), (2, 2, PeerState::InSync));
    assert_eq!((sb.generation, sb.ancestors), (0x1497_b71a_3f04_48d7, [0; ANCESTORS]));
    assert_eq!((sb.bitmap_slots, sb.chunk_size, sb.bitmap_place), (8192, 4 << 20, BitmapPlace::Leg));
    assert_eq!(sb.mirror.to_string(), "bb5959b2-f767-4a25-9cb2-1c75d2b75cfb");
}
