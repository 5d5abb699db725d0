//! The superblock file with its slots damaged in every way.

use super::*;
use crate::layout::LegDir;
use crate::legs::LegId;
use crate::superblock::{BitmapPlace, Geometry, PeerState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

struct Leg {
    _top: tempfile::TempDir,
    dir: LegDir,
    state: OwnedFd,
    file: PathBuf,
}

impl Leg {
    fn new() -> Leg {
        let top = tempfile::tempdir().unwrap();
        let dir = LegDir::open(top.path()).unwrap();
        let state = layout::make_state_dir(dir.as_fd()).unwrap();
        let file = top.path().join(".mirrorfs/superblock");
        Leg { _top: top, dir, state, file }
    }

    fn with_superblock() -> (Leg, Superblock) {
        let leg = Leg::new();
        let geometry = Geometry { chunk_size: 1 << 22, bitmap_slots: 64, bitmap_place: BitmapPlace::Leg };
        create(leg.state.as_fd(), &Superblock::new_pair(geometry)[LegId::A]).unwrap();
        let found = leg.superblock();
        (leg, found)
    }

    fn read(&self) -> Found {
        read(self.dir.as_fd()).unwrap()
    }

    fn superblock(&self) -> Superblock {
        match self.read() {
            Found::Leg { superblock, .. } => superblock,
            other => panic!("{other:?}"),
        }
    }

    fn damage(&self, slot: usize) {
        let file = File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(b"damage", offset_of(slot) + 100).unwrap();
    }
}

#[test]
fn a_directory_is_empty_then_not_a_mirror_then_a_leg() {
    let leg = Leg::new();
    assert_eq!(leg.read(), Found::Empty);
    std::fs::create_dir(leg.dir.path().join("lost+found")).unwrap();
    assert_eq!(leg.read(), Found::Empty);
    std::fs::write(leg.dir.path().join("file"), "").unwrap();
    assert_eq!(leg.read(), Found::NotAMirror);
    let (leg, superblock) = Leg::with_superblock();
    assert_eq!(superblock.sequence, 2);
    remove(leg.state.as_fd()).unwrap();
    assert_eq!(leg.read(), Found::Empty);
}

#[test]
fn writes_alternate_and_the_last_one_is_read() {
    let (leg, mut superblock) = Leg::with_superblock();
    let store = FileStore::open(leg.state.as_fd(), &superblock).unwrap();
    for events in 2..7 {
        superblock.events = events;
        let before = std::fs::read(&leg.file).unwrap();
        store.write(&superblock).unwrap();
        let after = std::fs::read(&leg.file).unwrap();
        let same = [0, 1].map(|slot| {
            let bytes = slot * SLOT_SIZE..(slot + 1) * SLOT_SIZE;
            before[bytes.clone()] == after[bytes]
        });
        assert_eq!(same.iter().filter(|same| **same).count(), 1, "one slot is left as it was");
        assert_eq!(leg.superblock().events, events);
    }
    assert_eq!(leg.superblock().sequence, 7);
}

#[test]
fn one_damaged_slot_is_read_around_and_repaired_by_the_next_write() {
    for damaged in [0, 1] {
        let (leg, _) = Leg::with_superblock();
        leg.damage(damaged);
        let Found::Leg { superblock, damaged_slot } = leg.read() else { panic!() };
        assert_eq!(damaged_slot, Some(SlotFault::BadCrc));
        assert_eq!(superblock.peer_state, PeerState::InSync);
        FileStore::open(leg.state.as_fd(), &superblock).unwrap().write(&superblock).unwrap();
        assert!(matches!(leg.read(), Found::Leg { damaged_slot: None, .. }));
    }
}

#[test]
fn two_damaged_slots_are_damage() {
    use SlotFault::{BadCrc, NoMagic, Short};
    let (leg, _) = Leg::with_superblock();
    leg.damage(0);
    leg.damage(1);
    assert_eq!(leg.read(), Found::Damaged([BadCrc, BadCrc]));
    for (content, faults) in [
        (vec![0; 2 * SLOT_SIZE], [NoMagic, NoMagic]),
        (vec![1; SLOT_SIZE + 10], [NoMagic, Short]),
        (vec![], [Short, Short]),
    ] {
        std::fs::write(&leg.file, content).unwrap();
        assert_eq!(leg.read(), Found::Damaged(faults));
    }
}

#[test]
fn a_later_version_in_either_slot_is_refused() {
    for newer in [0, 1] {
        let (leg, superblock) = Leg::with_superblock();
        let numbered = Superblock { sequence: 4 + newer as u64, ..superblock };
        let mut slot = format::encode(&numbered);
        slot.0[8] = 3;
        slot.0[12..16].fill(0);
        let crc = crc32c::crc32c(&slot.0);
        slot.0[12..16].copy_from_slice(&crc.to_le_bytes());
        let file = File::options().write(true).open(&leg.file).unwrap();
        file.write_all_at(&slot.0, offset_of(newer)).unwrap();
        assert_eq!(leg.read(), Found::NewerVersion(3));
    }
}

#[test]
fn reading_changes_nothing() {
    let (leg, _) = Leg::with_superblock();
    leg.damage(0);
    let before = std::fs::read(&leg.file).unwrap();
    leg.read();
    assert_eq!(std::fs::read(&leg.file).unwrap(), before);
}
