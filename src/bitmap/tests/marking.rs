//! Marks, intents, flushes, clears.

use super::*;

const SLOTS: u32 = 64;

#[test]
fn a_mark_is_on_both_copies_when_it_returns() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, dir, file) = (Mirror::default(), Object::new(5), Object::new(6));
    let wants = [dir.want(Kinds::ENTRIES, Span::None), file.data(3..9), file.from(70)];
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &wants));
    assert_eq!(bitmap.stats().dirty_slots, 2);
    assert_eq!(bitmap.stats().dirty_chunks, 7);
    assert_eq!(bitmap.stats().flushes, 1);
}

#[test]
fn what_is_set_already_costs_nothing() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[file.data(0..20), file.metadata()]));
    let (writes, asked) = (stores[LegId::A].writes(), file.asked.load(Ordering::SeqCst));
    for chunk in 0..20 {
        drop(bitmap.mark(&host, &[file.data(chunk..chunk + 1), file.metadata()]).unwrap());
    }
    assert_eq!(stores[LegId::A].writes(), writes);
    assert_eq!(file.asked.load(Ordering::SeqCst), asked);
    assert_eq!((bitmap.stats().marks, bitmap.stats().marks_asked), (1, 21));
}

#[test]
fn who_writes_from_front_to_back_flushes_seldom_but_not_while_a_leg_is_away() {
    for (away, flushes, chunks) in [(None, 31, 258), (Some(LegId::B), 256, 256)] {
        let (bitmap, _stores) = mirrored(SLOTS);
        let (host, file) = (Mirror::default(), Object::new(6));
        bitmap.set_away(away);
        for chunk in 0..256 {
            drop(bitmap.mark(&host, &[file.data(chunk..chunk + 1)]).unwrap());
        }
        let stats = bitmap.stats();
        assert_eq!((stats.flushes, stats.dirty_chunks), (flushes, chunks), "away: {away:?}");
    }
}

#[test]
fn wide_files_take_several_slots_and_then_an_open_end() {
    let (bitmap, stores) = mirrored(512);
    let (host, file) = (Mirror::default(), Object::new(6));
    for window in 0..64 {
        let chunk = window * 2048 + 7;
        drop(mark_and_check(&bitmap, &host, &stores, 512, &[file.data(chunk..chunk + 1)]));
    }
    assert_eq!((bitmap.stats().dirty_slots, bitmap.stats().dirty_chunks), (64, 64));
    let before = bitmap.stats().flushes;
    drop(bitmap.mark(&host, &[file.data(2048 * 33 + 7..2048 * 33 + 8)]).unwrap());
    assert_eq!(bitmap.stats().flushes, before);
    drop(mark_and_check(&bitmap, &host, &stores, 512, &[file.data(1 << 40..(1 << 40) + 1)]));
    assert_eq!((bitmap.stats().dirty_slots, bitmap.stats().dirty_chunks), (64, 65));
    drop(mark_and_check(&bitmap, &host, &stores, 512, &[file.data(100 << 20..101 << 20)]));
}

#[test]
fn a_range_over_a_window_boundary_is_in_both_windows() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[file.data(2000..2100)]));
    assert_eq!((bitmap.stats().dirty_slots, bitmap.stats().dirty_chunks), (2, 100));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[file.from(2050), file.data(2040..2060)]));
    assert_eq!(bitmap.stats().dirty_slots, 2);
}

#[test]
fn a_cleared_slot_is_marked_anew() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    drop(bitmap.mark(&host, &[file.data(1..2)]).unwrap());
    let idle = bitmap.idle(0);
    assert_eq!(bitmap.clear(&idle), 1);
    assert_eq!(bitmap.stats().dirty_slots, 0);
    assert_eq!(alone(&stores[LegId::A], SLOTS).dirty().len(), 1, "clears are lazy");
    let other = Object::new(7);
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[other.data(1..2)]));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[file.data(1..2)]));
    bitmap.clear(&bitmap.idle(0));
    bitmap.write_back(&host).unwrap();
    for leg in LegId::ALL {
        assert_eq!(alone(&stores[leg], SLOTS).dirty(), []);
    }
    assert_eq!(bitmap.stats().clears, 3);
}

#[test]
fn a_mark_between_idle_and_clear_keeps_the_slot() {
    let (bitmap, _stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    drop(bitmap.mark(&host, &[file.data(1..2)]).unwrap());
    let idle = bitmap.idle(0);
    drop(bitmap.mark(&host, &[file.data(1..2)]).unwrap());
    assert_eq!(bitmap.clear(&idle), 0);
    let intent = bitmap.mark(&host, &[file.data(1..2)]).unwrap();
    assert!(bitmap.idle(0).is_empty());
    drop(intent);
    let idle = bitmap.idle(0);
    let intent = bitmap.hold(idle[0].index);
    assert_eq!(bitmap.clear(&idle), 0);
    drop(intent);
    // Another object in the same slot is another version too.
    let idle = bitmap.idle(0);
    assert_eq!(bitmap.clear(&idle), 1);
    drop(bitmap.mark(&host, &[Object::new(9).data(1..2)]).unwrap());
    assert_eq!(bitmap.clear(&idle), 0);
}

#[test]
fn idle_counts_ticks_since_the_last_use() {
    let (bitmap, _stores) = mirrored(SLOTS);
    let (host, one, two) = (Mirror::default(), Object::new(1), Object::new(2));
    drop(bitmap.mark(&host, &[one.metadata(), two.metadata()]).unwrap());
    bitmap.tick();
    let intent = bitmap.mark(&host, &[two.metadata()]).unwrap();
    bitmap.tick();
    drop(intent);
    let idle =
        |ticks| bitmap.idle(ticks).iter().map(|slot| slot.identities[LegId::A].ino).collect::<Vec<_>>();
    assert_eq!(idle(0), [1, 2]);
    assert_eq!(idle(2), [1]);
    assert_eq!(idle(3), [] as [u64; 0]);
}

#[test]
fn a_failed_copy_is_left_out_and_the_mark_goes_on() {
    for bad in LegId::ALL {
        let (bitmap, stores) = mirrored(SLOTS);
        let (host, file) = (Mirror::default(), Object::new(6));
        stores[bad].fail(libc::EIO);
        drop(bitmap.mark(&host, &[file.data(1..2)]).unwrap());
        assert_eq!(host.failed_copies.load(Ordering::SeqCst), 1);
        assert!(says(&alone(&stores[bad.other()], SLOTS).dirty(), &file.data(1..2)));
        drop(bitmap.mark(&host, &[file.data(2..3)]).unwrap());
        assert_eq!((host.failed_copies.load(Ordering::SeqCst), stores[bad].writes()), (1, 1));
    }
}

#[test]
fn a_mark_fails_with_no_copy_left_and_its_bits_stay_wanted() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    host.refuse.store(libc::EROFS as u64, Ordering::SeqCst);
    stores.iter().for_each(|(_, store)| store.fail(libc::ENOSPC));
    for _ in 0..3 {
        let error = bitmap.mark(&host, &[file.data(1..2)]).map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
    assert_eq!(bitmap.stats().dirty_slots, 1);
    stores.iter().for_each(|(_, store)| store.fail(0));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[file.data(1..2)]));
    assert_eq!(bitmap.idle(0).len(), 1, "failed marks hold nothing");
}

#[test]
fn no_copy_in_use_is_no_mark() {
    let (bitmap, _stores) = mirrored(SLOTS);
    LegId::ALL.into_iter().for_each(|leg| bitmap.stop_using(leg));
    let error = bitmap.mark(&Mirror::default(), &[Object::new(1).metadata()]).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}

/// A copy whose writes do not come back before the door goes, and say when they have come.
struct Stuck {
    copy: Memory,
    door: crossbeam_channel::Receiver<()>,
    arrived: crossbeam_channel::Sender<()>,
}

impl PageStore for Stuck {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.copy.read_all()
    }

    fn write(&self, page: PageIndex, new: &[u8]) -> io::Result<()> {
        let _ = self.arrived.send(());
        let _ = self.door.recv();
        self.copy.write(page, new)
    }
}

#[test]
fn a_copy_that_does_not_come_back_holds_up_nobody_once_it_is_left_out() {
    for stuck in LegId::ALL {
        let stores = PerLeg::from_fn(|_| Memory::empty(SLOTS));
        let loaded = copies(&stores).load(&expect(SLOTS));
        let (opener, door) = crossbeam_channel::bounded(0);
        let (arrived, arrivals) = crossbeam_channel::unbounded();
        let mut all = stores.as_ref().map(|store| Some(Box::new(store.clone()) as Box<dyn PageStore>));
        all[stuck] = Some(Box::new(Stuck { copy: stores[stuck].clone(), door, arrived }));
        let bitmap = Bitmap::new(Copies::PerLeg(all), loaded, LegId::A).unwrap();
        let (host, file, other) = (Mirror::default(), Object::new(6), Object::new(7));
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| bitmap.mark(&host, &[file.data(1..2)]).map(drop));
            arrivals.recv().unwrap();
            let waiting = scope.spawn(|| bitmap.mark(&host, &[file.data(1..2)]).map(drop));
            bitmap.stop_using(stuck);
            waiting.join().unwrap().unwrap();
            drop(bitmap.mark(&host, &[other.data(3..4)]).unwrap());
            assert!(!leader.is_finished());
            let dirty = alone(&stores[stuck.other()], SLOTS).dirty();
            assert!(says(&dirty, &file.data(1..2)) && says(&dirty, &other.data(3..4)));
            drop(opener);
            leader.join().unwrap().unwrap();
        });
        drop(bitmap.mark(&host, &[other.data(5..6)]).unwrap());
        assert!(says(&alone(&stores[stuck.other()], SLOTS).dirty(), &other.data(5..6)));
        assert_eq!(bitmap.stats().flushes, 3);
    }
}

#[test]
fn marks_wanted_at_the_same_time_share_flushes() {
    let (bitmap, stores) = mirrored(512);
    let host = Mirror::default();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bitmap, host) = (&bitmap, &host);
            scope.spawn(move || {
                for number in 0..30 {
                    drop(bitmap.mark(host, &[Object::new(thread * 1000 + number).metadata()]).unwrap());
                }
            });
        }
    });
    let stats = bitmap.stats();
    assert_eq!((stats.dirty_slots, stats.marks), (240, 240));
    assert!(stats.flushes <= stats.marks);
    assert_eq!(alone(&stores[LegId::B], 512).dirty().len(), 240);
}

#[test]
fn a_moved_identity_is_durable_for_all_slots_of_the_object() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, file) = (Mirror::default(), Object::new(6));
    drop(bitmap.mark(&host, &[file.data(1..2), file.data(5000..5001)]).unwrap());
    let bitmap = reload(&stores, SLOTS);
    let slots = bitmap.unresynced();
    assert_eq!(slots.len(), 2);
    let new = Identity { ino: 77, handle: None };
    bitmap.rebind(&host, slots[0].index, LegId::B, new).unwrap();
    for leg in LegId::ALL {
        let dirty = alone(&stores[leg], SLOTS).dirty();
        assert!(
            dirty.iter().all(|slot| slot.identities[LegId::B] == new && slot.identities[LegId::A].ino == 6)
        );
    }
    assert_eq!(bitmap.unresynced().len(), 2);
}
